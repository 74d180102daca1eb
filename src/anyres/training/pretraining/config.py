"""What a run of masked auto-encoding is made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from anyres.data.augment import TrainAugment
from anyres.training.config import RunConfig

if TYPE_CHECKING:
    from anyres.training.task import Task


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(RunConfig):
    """A run of masked auto-encoding on images without labels.

    The defaults are MAE's (arXiv 2111.06377, table 8) but for the learning rate; MAE's is 1.5e-4 for every 256 images
    of a batch.
    """

    data: Path
    """Folder of images at any depth; or one that holds such a folder train/ and, optionally, val/."""
    model: str = "mae_vitar_tiny_patch16"
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
    draw_images: int = 4
    """Images of which every validation draws input, masked input and output at several sizes; 0 draws none."""

    def check(self) -> None:
        # Here, not at the top: the checks are a page of their own and need this class.
        from anyres.training.checks import check_pretraining

        check_pretraining(self)

    def make_task(self) -> Task:
        from anyres.training.pretraining.task import PretrainTask

        return PretrainTask(self)
