"""Several processes that train together end with the model that one would have, whoever goes on with whose run."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anyres.data.augment import SegmentAugment, TrainAugment
from anyres.data.share import Share
from anyres.training import PretrainConfig, train
from anyres.training.checkpoint import NAME, load_checkpoint
from anyres.training.runlog import STEPS, VALIDATIONS, read_rows
from anyres.training.segmentation.config import SegmentationConfig

PROGRAM = """
import sys
from pathlib import PosixPath
from anyres.data.augment import SegmentAugment, TrainAugment
from anyres.training import PretrainConfig, TrainConfig, train
from anyres.training.segmentation.config import SegmentationConfig
found = train(eval(sys.argv[1]))
"""
SMALL = {"patch_size": 4, "grid": (3, 3), "width": 16, "depth": 2, "heads": 2}
STILL = TrainAugment(auto_augment=None, erasing=0.0)


def start(*configs):
    """A process for each configuration, all of one group, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank, config in enumerate(configs):
        known = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": len(configs), "MASTER_PORT": port}
        environment = os.environ | {name: str(value) for name, value in known.items()} | {"MASTER_ADDR": "127.0.0.1"}
        environment["OMP_NUM_THREADS"] = "1"
        with errors_of(config, rank).open("wb") as stderr:
            command = [sys.executable, "-c", PROGRAM, repr(config)]
            processes.append(subprocess.Popen(command, stderr=stderr, env=environment, start_new_session=True))
    return processes


def errors_of(config, rank):
    return config.out.with_suffix(f".stderr{rank}")


def run(*configs):
    """Exit statuses and what each wrote to stderr."""
    processes = start(*configs)
    try:
        codes = [process.wait(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return codes, [errors_of(config, rank).read_text() for rank, config in enumerate(configs)]


def assert_equal_runs(one, other, **tolerance):
    """Weights, optimiser and the log of losses."""
    states = [load_checkpoint(config.out / NAME) for config in (one, other)]
    for key in ("model", "ema"):
        if states[0][key] is not None:
            assert states[0][key].keys() == states[1][key].keys()
            for name, value in states[0][key].items():
                mine, theirs = (_without_keys(name, each) for each in (value, states[1][key][name]))
                torch.testing.assert_close(theirs, mine, **tolerance, msg=lambda text, n=name: f"{n}: {text}")
    first, second = (state["optimizer"] for state in states)
    assert [group["params"] for group in first["param_groups"]] == [group["params"] for group in second["param_groups"]]
    assert first["state"].keys() == second["state"].keys()
    for number, known in first["state"].items():
        torch.testing.assert_close(second["state"][number]["exp_avg"], known["exp_avg"], rtol=1e-2, atol=1e-4)
    rows = [read_rows(config.out / STEPS) for config in (one, other)]
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]]
    for name in ("loss", "grad_norm", "lr"):
        given, wanted = ([row[name] for row in each] for each in rows)
        np.testing.assert_allclose(given, wanted, rtol=1e-3)


def _without_keys(name, value):
    """A bias of keys changes no softmax: its gradient is rounding alone, which Adam makes steps of."""
    if not name.endswith("qkv.bias"):
        return value
    queries, _, values = value.chunk(3)
    return torch.cat((queries, values))


CLOSE = {"rtol": 1e-3, "atol": 2e-5}


@pytest.fixture
def masks(tmp_path):
    """Six images of odd sizes whose masks have an unknown part of a size of its own."""
    draw = np.random.default_rng(0)
    for split, count in (("training", 6), ("validation", 2)):
        for kind in ("images", "annotations"):
            (tmp_path / "masks" / kind / split).mkdir(parents=True)
        for index in range(count):
            height, width = (int(side) for side in draw.integers(30, 50, 2))
            labels = np.full((height, width), 255, np.uint8)
            labels[:, : int(draw.integers(5, width))] = index % 2
            Image.fromarray(draw.integers(0, 256, (height, width, 3), np.uint8)).save(
                tmp_path / "masks" / "images" / split / f"{index}.png"
            )
            Image.fromarray(labels).save(tmp_path / "masks" / "annotations" / split / f"{index}.png")
    return tmp_path / "masks"


@pytest.fixture
def make(plain, data, masks, tmp_path):
    """`make(kind, out, **changes)`: a run of some steps of 8 images at three sizes."""

    def made(kind, out, **changes):
        common = {
            "out": tmp_path / out, "sizes": ("13", "16x23", "9"), "steps": 5, "batch_size": 8, "warmup_steps": 1,
            "clip_grad": 1.0, "threads": 1, "device": "cpu", "tensorboard": False, "progress": False,
        }  # fmt: skip
        if kind == "classes":
            mixed = {"mixup": 0.8, "cutmix": 1.0, "mixup_prob": 1.0}
            return plain(**({**common, **mixed, "model_options": SMALL, "augmentation": STILL} | changes))
        if kind == "replicas":
            replicas = {"replicas": True, "consistency": 1.0, "accumulate": 2, "ema": None, "sizes": ("13", "16x23")}
            return plain(**({**common, "model_options": SMALL, "augmentation": STILL} | replicas | changes))
        if kind == "pyramid":
            options = {
                "model": "anyres_tiny_patch16",
                "model_options": {**SMALL, "drop_path_rate": 0.0, "last_pass": False},
            }
            return plain(**({**common, **options, "augmentation": STILL} | changes))
        if kind == "mae":
            options = SMALL | {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2, "drop_path_rate": 0.0}
            return PretrainConfig(**(
                {**common, "data": data, "model": "mae_vitar_tiny_patch16", "model_options": options, "draw_images": 0,
                 "augmentation": STILL} | changes
            ))  # fmt: skip
        options = SMALL | {"decoder": "bilinear", "drop_path_rate": 0.0}
        return SegmentationConfig(**(
            {**common, "data": masks, "num_classes": 2, "model_options": options, "sizes": ("24", "17x32"),
             "augmentation": SegmentAugment(photometric=False)} | changes
        ))  # fmt: skip

    return made


QUICK = [("classes", {})]
MORE = [
    ("classes", {"shard": True, "ema": None}), ("replicas", {}), ("pyramid", {}),
    ("pyramid", {"shard": True, "ema": None}),
    ("mae", {}), ("mae", {"shard": True}), ("masks", {}), ("masks", {"accumulate": 2}), ("classes", {"num_workers": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "changes"), [*QUICK, *(pytest.param(*each, marks=pytest.mark.slow) for each in MORE)])
def test_two_processes_are_one(kind, changes, make):
    one, two = make(kind, "one", **{**changes, "shard": False}), make(kind, "two", **changes)
    codes, said = run(one)
    assert codes == [0], said
    codes, said = run(two, two)
    assert codes == [0, 0], said
    assert_equal_runs(one, two, **CLOSE)
    assert "Finished 5 steps" in said[0] and "Finished" not in said[1]
    mine, theirs = (read_rows(config.out / VALIDATIONS) for config in (one, two))
    assert [(row["step"], row["size"], row["images"]) for row in mine] == [
        (row["step"], row["size"], row["images"]) for row in theirs
    ]
    assert mine
    weights = sorted(path.name for path in one.out.iterdir())
    assert weights == sorted(path.name for path in two.out.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(("shard", "sizes"), [(False, ("13", "9")), (True, ("13", "9")), (True, ("9",))])
def test_whoever_began_a_run_others_go_on_with_it(shard, sizes, make, monkeypatch):
    """Two steps by two processes and the rest by one, and the other way round; at 9 pixels the merger has no work."""
    make = partial(make, sizes=sizes)
    whole = make("pyramid", "whole", ema=None)
    train(whole)
    for first, second in ((2, 1), (1, 2)):
        out = f"{first}-{second}"
        stopped = make("pyramid", out, ema=None, shard=shard and first == 2, checkpoint_every=2)
        begin = [sys.executable, "-c", PROGRAM.replace("found = train", STOPPED + "found = train"), repr(stopped)]
        monkeypatch.setattr(sys.modules[__name__], "PROGRAM", begin[2])
        codes, said = run(*[stopped] * first)
        monkeypatch.undo()
        assert set(codes) != {0} and load_checkpoint(stopped.out / NAME)["step"] == 2, said
        codes, said = run(*[make("pyramid", out, ema=None, shard=shard and second == 2)] * second)
        assert set(codes) == {0}, said
        assert "after step 2 of 5" in said[0]
        assert_equal_runs(whole, stopped, **CLOSE)


STOPPED = """
from anyres.training.trainer import Trainer
update = Trainer.update
def dying(self, batch):
    if self.step == 2:
        import os
        os._exit(7)
    return update(self, batch)
Trainer.update = dying
"""


@pytest.mark.slow
def test_torchrun_starts_again_what_was_killed(make, tmp_path):
    """SIGKILL of a process at a random moment, ten times; the loss trace is that of an undisturbed run."""
    kills, steps = 10, 110
    whole = make("classes", "whole", steps=steps)
    codes, said = run(whole, whole)
    assert codes == [0, 0], said
    config = make("classes", "killed", steps=steps, checkpoint_every=3)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--max-restarts", str(kills), str(program), repr(config)]
    # as docs/scale.md has it: else a restart may find the addresses of processes that are gone (pytorch #135712)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    with (tmp_path / "said").open("wb") as said:
        torchrun = subprocess.Popen(command, stderr=said, stdout=said, env=environment)
    draw, killed = random.Random(0), 0
    try:
        for goal in range(7, 10 * kills, 10):
            while len(read_rows(config.out / STEPS)) < goal and torchrun.poll() is None:
                time.sleep(0.01)
            time.sleep(draw.random() * 0.05)
            children = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split()
            if torchrun.poll() is None and children:
                os.kill(int(draw.choice(children)), signal.SIGKILL)
                killed += 1
        assert torchrun.wait(timeout=240) == 0, (tmp_path / "said").read_text()
    finally:
        torchrun.terminate()
        torchrun.wait()
    assert killed == kills
    assert_equal_runs(whole, config, rtol=0, atol=0)


@pytest.mark.slow
def test_a_stop_is_agreed_upon(make):
    """SIGTERM to one of two processes and to those that load its images ends all after the same step, and is saved."""
    config = make("classes", "stopped", steps=2000, num_workers=2)
    processes = start(config, config)
    while len(read_rows(config.out / STEPS)) < 5 and processes[0].poll() is None:
        time.sleep(0.01)
    os.killpg(processes[1].pid, signal.SIGTERM)
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    step = load_checkpoint(config.out / NAME)["step"]
    assert 5 <= step < 2000 and len(read_rows(config.out / STEPS)) == step
    assert f"Stopped after step {step} of 2000" in errors_of(config, 0).read_text()


@pytest.mark.slow
def test_what_cannot_be_is_said_once_and_ends_all(make, data, tmp_path):
    other = tmp_path / "other"
    (other / "train").mkdir(parents=True)
    for name in ("blue", "green", "red"):
        (other / "train" / name).mkdir()
        for path in sorted((data / "train" / name).iterdir())[:2]:
            (other / "train" / name / path.name).write_bytes(path.read_bytes())
    refused = partial(make, "classes", "refused")
    other_than = "process 1 has other settings or data than process 0"
    cases = [
        ([refused(batch_size=7, mixup=0.0, cutmix=0.0)] * 2, "2 processes do not share evenly; nearest: 6 or 8"),
        ([refused(batch_size=6)] * 2, "mix pairs and need an even number in each; nearest: 8"),
        ([refused(accumulate=5)] * 2, "accumulate is 5 for 4 images in each of 2 processes"),
        ([refused(shard=True)] * 2, "shard and ema are given; allowed: one of them"),
        ([refused(), refused(lr=1e-4)], f"{other_than}: lr: 0.001 there, 0.0001 here"),
        ([refused(), refused(data=other)], f"{other_than}: task.training files"),
        ([refused(), refused(data=tmp_path / "none")], "no such folder"),
    ]
    for configs, text in cases:
        codes, said = run(*configs)
        assert 0 not in codes, (text, said)
        assert sum(text in each for each in said) == 1, (text, said)
        assert not (refused().out / STEPS).exists()


def test_a_single_process_has_nothing_to_share(make):
    with pytest.raises(ValueError, match="shard is given but has no effect in a single process"):
        train(make("classes", "run", shard=True, ema=None))


@pytest.mark.parametrize(("batch", "world"), [(8, 2), (12, 3), (12, 4), (6, 2), (5, 5), (16, 1), (30, 3)])
def test_shares_are_disjoint_and_pairs_stay_together(batch, world):
    shares = [Share(rank, world).positions(batch) for rank in range(world)]
    assert sorted(sum(shares, [])) == list(range(batch)) and len({len(each) for each in shares}) == 1
    if batch // world % 2 == 0:
        for each in shares:
            assert [batch - 1 - position for position in each] == each[::-1]
    if world == 1:
        assert shares == [list(range(batch))]
    with pytest.raises(ValueError, match=f"batch_size is {batch}, which 7 processes do not share evenly"):
        Share(0, 7).positions(batch)
