"""Runs as processes of their own: killed at random moments, or stopped by Ctrl-C in a terminal."""

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
from pathlib import PosixPath
from anyres.data.transforms import TrainAugment
from anyres.training import TrainConfig, train
train(eval(sys.argv[1]))
"""


def start(config):
    """The run in a process group of its own, as a terminal would start it."""
    with config.out.with_suffix(".stderr").open("wb") as stderr:
        return subprocess.Popen([sys.executable, "-c", PROGRAM, repr(config)], stderr=stderr, start_new_session=True)


def wait_for_rows(process, config, count):
    """Until the log has so many rows, or the process has ended."""
    deadline = time.monotonic() + 120
    while process.poll() is None and len(read_rows(config.out / STEPS)) < count and time.monotonic() < deadline:
        time.sleep(0.01)


def kill_at_random(config, kills):
    """Starts the run and kills it some time after its log has grown, `kills` times; then lets it end."""
    draw = random.Random(0)
    for _ in range(kills):
        process = start(config)
        goal = len(read_rows(config.out / STEPS)) + draw.randint(1, 25)
        wait_for_rows(process, config, goal)
        time.sleep(draw.random() * 0.05)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
        yield process.returncode
    process = start(config)
    assert process.wait(timeout=300) == 0, config.out.with_suffix(".stderr").read_text()


@pytest.mark.slow
def test_killed_runs_end_like_the_others(plain, tmp_path):
    options = {"patch_size": 4, "grid": (3, 3), "width": 16, "depth": 2, "heads": 2}
    options |= {"drop_path_rate": 0.2, "extra_passes": 1}
    settings = {"model_options": options, "steps": 120, "warmup_steps": 5, "checkpoint_every": 3}
    config = plain(**settings)
    codes = list(kill_at_random(config, kills=5))
    assert codes.count(-signal.SIGKILL) >= 3
    reference = plain(**settings, out=tmp_path / "reference")
    train(reference)
    one, other = (load_checkpoint(run.out / NAME) for run in (config, reference))
    for part in ("model", "ema"):
        for name, value in one[part].items():
            assert torch.equal(value, other[part][name]), name
    assert (config.out / "model.safetensors").read_bytes() == (reference.out / "model.safetensors").read_bytes()
    assert [row["step"] for row in read_rows(config.out / STEPS)] == list(range(1, 121))


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_reaches_the_workers_too_and_still_saves(plain):
    config = plain(steps=2000, num_workers=2, checkpoint_every=5000, ema=None)
    process = start(config)
    wait_for_rows(process, config, 5)
    os.killpg(process.pid, signal.SIGINT)
    shown = config.out.with_suffix(".stderr")
    assert process.wait(timeout=60) == 0, shown.read_text()
    step = load_checkpoint(config.out / NAME)["step"]
    assert 5 <= step < 2000
    assert f"Stopped after step {step} of 2000" in shown.read_text()
    assert "Traceback" not in shown.read_text()
