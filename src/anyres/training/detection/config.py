"""What a run of detection is made of, and its checks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from anyres.data.augment import MultiScale, ScaleJitter
from anyres.models.architectures import DETECTOR
from anyres.models.detector_config import DetectorConfig
from anyres.training.config import Operational
from anyres.training.dense_config import DenseRunConfig
from anyres.training.run_checks import check_integers

if TYPE_CHECKING:
    from anyres.training.task import Task


@dataclass(frozen=True, kw_only=True)
class DetectionConfig(DenseRunConfig):
    """A run of detection and instance segmentation. The defaults are ViTDet's on COCO for a base model (arXiv
    2203.16527) but for its layer-wise learning rates and drops of the rate, which `anyres recipe` has.

    Losses are means over what is sampled of the images of a piece, so with `accumulate` they are those of the whole
    batch up to that weighting.
    """

    learned: ClassVar[str] = "detection"

    data: Operational[Path]
    """Folder that holds annotations/instances_train*.json in COCO's format with its images in train*/ and, optionally,
    the same for val."""
    model: str = "mask_rcnn_vitar_small_patch16"
    """Name of the model; `anyres models "mask_rcnn_*"` lists them."""
    sizes: tuple[str, ...] = ("1024",)
    """Training sizes in pixels. In validation an image is resized to just fit into each; the model that is saved does
    that with the largest, unless model_options say otherwise (min_size, max_size)."""
    steps: int = 184_375
    """Optimiser steps."""
    batch_size: int = 64
    """Images per optimiser step."""
    lr: float = 1e-4
    """Learning rate at the end of the warm-up."""
    min_lr: float = 0.0
    """Learning rate that the cosine or polynomial ends at."""
    warmup_steps: int = 250
    """Steps of linear warm-up from a thousandth of the learning rate."""
    weight_decay: float = 0.1
    """AdamW's decay of matrices; biases, norms and the position table are left alone."""
    augmentation: ScaleJitter | MultiScale = ScaleJitter()
    """What is done to each training image and its objects: large-scale jitter, or multi-scale training, which needs
    sizes such as 800x1333. On the command line after all other options: augmentation:multi-scale."""
    draw_images: Operational[int] = 4
    """Validation images that every validation draws with what is found in them; 0 draws none."""

    def check(self) -> None:
        super().check()
        check_integers(self, {"draw_images": 0})
        if isinstance(self.augmentation, MultiScale):
            for size in self.parsed_sizes():
                self.augmentation.check(size)
        self.model_settings()

    def idle(self) -> dict[str, str | None]:
        keeps_aspect = isinstance(self.augmentation, MultiScale)
        return super().idle() | {"aspect": "in multi-scale training images keep their own" if keeps_aspect else None}

    def model_settings(self, classes: int | None = None) -> DetectorConfig:
        """The configuration of the model, which in evaluation works by default at the largest training size."""
        height, width = max(self.parsed_sizes(), key=lambda size: (size[0] * size[1], size))
        head = {} if classes is None else {"num_classes": classes}
        own = {"min_size": min(height, width), "max_size": max(height, width), **self.model_options, **head}
        return DETECTOR.get_config(self.model, **own)

    def make_task(self) -> Task:
        from anyres.training.detection.task import DetectionTask

        return DetectionTask(self)
