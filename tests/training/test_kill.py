"""SIGKILL at random moments: the run that survives it ends with the very weights of one that was left in peace."""

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from anyres.training import train
from anyres.training.checkpoint import NAME, load_checkpoint
from anyres.training.runlog import STEPS, read_rows

PROGRAM = """
import sys
from pathlib import Path
from anyres.training import TrainConfig, train
settings = eval(sys.argv[1])
train(TrainConfig(**{**settings, "data": Path(settings["data"]), "out": Path(settings["out"])}))
"""


def start(config):
    settings = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    del settings["augmentation"]  # the default
    settings |= {"data": str(config.data), "out": str(config.out)}
    return subprocess.Popen([sys.executable, "-c", PROGRAM, repr(settings)], stderr=subprocess.DEVNULL)


def kill_at_random(config, kills):
    """Starts the run and kills it some time after its log has grown, `kills` times; then lets it end."""
    draw = random.Random(0)
    for _ in range(kills):
        process = start(config)
        goal = len(read_rows(config.out / STEPS)) + draw.randint(1, 25)
        deadline = time.monotonic() + 120
        while process.poll() is None and len(read_rows(config.out / STEPS)) < goal and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(draw.random() * 0.05)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
        yield process.returncode
    process = start(config)
    assert process.wait(timeout=300) == 0


@pytest.mark.slow
def test_killed_runs_end_like_the_others(make_config, tmp_path):
    settings = {"steps": 120, "warmup_steps": 5, "checkpoint_every": 3}
    config = make_config(**settings)
    codes = list(kill_at_random(config, kills=5))
    assert codes.count(-signal.SIGKILL) >= 3
    reference = make_config(**settings, out=tmp_path / "reference")
    train(reference)
    one, other = (load_checkpoint(run.out / NAME) for run in (config, reference))
    for part in ("model", "ema"):
        for name, value in one[part].items():
            assert torch.equal(value, other[part][name]), name
    assert (config.out / "model.safetensors").read_bytes() == (reference.out / "model.safetensors").read_bytes()
    assert [row["step"] for row in read_rows(config.out / STEPS)] == list(range(1, 121))
