"""What a run of masked auto-encoding is made of, and its checks."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from anyres.data.augment import TrainAugment
from anyres.data.schedule import EverySize, ResolutionSchedule
from anyres.models.architectures import AUTOENCODER
from anyres.models.mae_config import MAEConfig
from anyres.models.presets import AUTOENCODERS, CLASSIFIERS
from anyres.sizes import MOST_ASPECT, SideRange, Size, stretched, whole_patch_size
from anyres.training.config import Operational
from anyres.training.image_config import ImageRunConfig, check_augmentation, entry_text, nearest_name
from anyres.training.run_checks import check_integers

if TYPE_CHECKING:
    from anyres.training.task import Task

_SHAPES = 63  # of an image that are tried between the widest and the tallest


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(ImageRunConfig):
    """A run of masked auto-encoding on images without labels.

    The defaults are MAE's (arXiv 2111.06377, table 8) but for the learning rate; MAE's is 1.5e-4 for every 256 images
    of a batch.
    """

    data: Operational[Path]
    """Folder of images at any depth; or one that holds such a folder train/ and, optionally, val/."""
    model: str = "mae_anyres_tiny_patch16"
    """Name of the model; `anyres models "mae_*"` lists them."""
    min_lr: float = 0.0
    """Learning rate that the cosine ends at."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's two averages."""
    augmentation: TrainAugment = TrainAugment(scale=(0.2, 1.0), auto_augment=None, erasing=0.0)
    """What is done to each training image."""
    own_aspect: bool = False
    """Every image keeps its own width / height, up to 1:4 and 4:1, at the area of the step's size and in whole patches,
    instead of being cropped to that size."""
    draw_images: Operational[int] = 4
    """Images of which every validation draws input, masked input and output at several sizes; 0 draws none."""

    def make_task(self) -> Task:
        from anyres.training.pretraining.task import PretrainTask

        return PretrainTask(self)

    def model_settings(self, classes: int | None = None) -> MAEConfig:
        """The configuration of the model, which has no classes."""
        settings = AUTOENCODER.get_config(self.model, **self.model_options)
        seen = [settings.seen(*size) for size in self.parsed_sizes()]
        return replace(settings, backbone=self.with_levels_of_training(settings.backbone, seen))

    def schedule(self) -> ResolutionSchedule | EverySize:
        if self.own_aspect:
            _check_areas(self)
        return super().schedule()

    def check(self) -> None:
        super().check()
        check_integers(self, {"draw_images": 0})
        if self.model in CLASSIFIERS:
            nearest = nearest_name(f"mae_{self.model}", AUTOENCODERS)
            raise ValueError(
                f"model is {self.model!r}, which is no masked auto-encoder; allowed: {', '.join(AUTOENCODERS)}; "
                f"nearest: {nearest!r}"
            )
        _check_model(self)

    def idle(self) -> dict[str, str | None]:
        return super().idle() | {"aspect": "images keep their own" if self.own_aspect else None}


def _check_areas(config: PretrainConfig) -> None:
    """With `own_aspect` a size says no more than how many pixels."""
    for entry in config.size_entries():
        if not isinstance(entry, SideRange) and entry[0] != entry[1]:
            side = round(math.sqrt(entry[0] * entry[1]))
            raise ValueError(
                f"sizes names {entry_text(entry)}, but with own_aspect a size is an area, whose shape has no effect; "
                f"allowed: squares; nearest: {side}"
            )


def _check_model(config: PretrainConfig) -> None:
    """ValueError for a model that at some size has nothing to see or to predict."""
    model = config.model_settings()
    backbone = model.backbone
    sizes = _extreme_sizes(config, backbone.patch_size, 0 if backbone.grid_shape == "fixed" else _SHAPES)
    for size in sizes:
        model.visible(*size)
    plans = [model.plan(*size) for size in sizes]
    if model.large_target and all(model.side(plan) == backbone.patch_size for plan in plans):
        rows, cols = (2 * backbone.patch_size * side for side in backbone.grid)
        raise ValueError(
            f"large_target is set, but no training size has cells of 2x2 patches; allowed: a size from {rows}x{cols} up"
        )
    check_augmentation(config.augmentation, config.parsed_sizes()[0], backbone)


def _extreme_sizes(config: PretrainConfig, patch_size: int, between: int) -> list[Size]:
    """The sizes with the fewest cells among all that images can have; larger ones have no fewer.

    At each area the square, the widest and the tallest shape, and so many `between` those two, which can have fewer
    cells where the grid follows the image's shape.
    """
    low, high = (1 / MOST_ASPECT, MOST_ASPECT) if config.own_aspect else config.aspect
    factors = [1.0, high, low, *(low * (high / low) ** ((step + 1) / (between + 1)) for step in range(between))]
    if config.own_aspect:
        return [whole_patch_size(size, (1, f), patch_size) for size in config.parsed_sizes() for f in factors]
    return [stretched(size, factor) for size in config.parsed_sizes() for factor in factors]
