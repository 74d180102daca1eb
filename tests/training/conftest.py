"""A tiny folder of images, a tiny model and a run of a few steps on them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anyres.data.augment import TrainAugment
from anyres.training import TrainConfig

MODEL_OPTIONS = {"patch_size": 4, "grid": (3, 3), "width": 16, "depth": 2, "heads": 2}


def write_images(root: Path, train: int = 5, val: int = 3) -> Path:
    """Three classes that differ in colour, of odd and non-square sizes."""
    random = np.random.default_rng(7)
    for split, count in (("train", train), ("val", val)):
        for label, name in enumerate(("blue", "green", "red")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                height, width = (int(side) for side in random.integers(17, 41, 2))
                pixels = random.integers(0, 90, (height, width, 3), dtype=np.uint8)
                pixels[..., 2 - label] += 120
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return root


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data"))


@pytest.fixture
def write_data() -> Callable[..., Path]:
    return write_images


@pytest.fixture
def make_config(data: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """`make_config(**changes)`: a run of 6 steps of 4 images with every random feature switched on."""

    def make(**changes: Any) -> TrainConfig:
        settings: dict[str, Any] = {
            "data": data,
            "out": tmp_path / "run",
            "model": "vitar_tiny_patch16",
            "model_options": {**MODEL_OPTIONS, "drop_path_rate": 0.2, "extra_passes": 1},
            "sizes": ("13", "16x23"),
            "steps": 6,
            "batch_size": 4,
            "warmup_steps": 2,
            "ema": 0.9,
            "clip_grad": 1.0,
            "checkpoint_every": 2,
            "threads": 1,
            "device": "cpu",
            "tensorboard": False,
            "progress": False,
        }
        return TrainConfig(**(settings | changes))

    return make


@pytest.fixture
def plain(make_config: Callable[..., TrainConfig]) -> Callable[..., TrainConfig]:
    """The same with all that depends on torch's generator switched off, so that arithmetic can be compared."""

    def make(**changes: Any) -> TrainConfig:
        quiet = {"model_options": MODEL_OPTIONS, "augmentation": TrainAugment(auto_augment=None, erasing=0.0)}
        return make_config(**(quiet | changes))

    return make
