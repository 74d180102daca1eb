"""A study of two tiny variants on a few generated images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anyres.ablation import AblateConfig, Study, Variant
from anyres.report.paper import TABLE_7

OPTIONS = {"width": 24, "depth": 1, "grid": (2, 2)}
TRAINING: dict[str, Any] = {
    "sizes": ("16", "24"), "size_weights": None, "batch_size": 4, "checkpoint_every": 2, "cache": False,
}  # fmt: skip


def make_variant(
    name: str, options: dict[str, Any] | None = None, paper: str | None = None, **training: Any
) -> Variant:
    shown = {"name": name, "text": f"<{name}>", "paper": paper}
    return Variant(**shown, options=OPTIONS | (options or {}), training=TRAINING | training)


def make_settings(out: Path, **changes: Any) -> AblateConfig:
    given: dict[str, Any] = {
        "study": "mergers", "out": out, "sets": ("ordinary",), "seeds": 1, "steps": 6, "train_images": 20,
        "val_images": 10, "jobs": 1, "stem": "patch", "precision": "float32",
        "progress": False,
    }  # fmt: skip
    return AblateConfig(**(given | changes))


@pytest.fixture(scope="session")
def variant() -> Callable[..., Variant]:
    """`variant(name, options, **training)`: a tiny one."""
    return make_variant


@pytest.fixture(scope="session")
def settings() -> Callable[..., AblateConfig]:
    """`settings(out, **changes)`: one seed of six steps on twenty images."""
    return make_settings


@pytest.fixture(scope="session")
def tiny() -> Study:
    return Study(
        name="tiny",
        title="Tiny & <small>",
        question="Does it run?",
        table=TABLE_7,
        landmarks={224: 16, 4032: 48},
        sizes=(16, 24),
        variants=(
            make_variant("grid", paper="adaptive token merger"),
            make_variant("mean", {"merger": "average"}, paper="average pooling"),
        ),
    )
