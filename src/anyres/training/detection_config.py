"""What a run of detection is made of, and its checks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyres.data.detection import ScaleJitter
from anyres.models.detector_config import get_detector_config
from anyres.training.checks import check_idle, check_run, idle_in_any_run
from anyres.training.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class DetectionConfig(RunConfig):
    """A run of detection and instance segmentation. The defaults are ViTDet's on COCO for a base model (arXiv
    2203.16527) but for its layer-wise learning rates and steps, for which the schedule is the cosine.

    Losses are means over what is sampled of the images of a piece, so with `accumulate` they are those of the whole
    batch up to that weighting.
    """

    data: Path
    """Folder that holds annotations/instances_train*.json in COCO's format with its images in train*/ and, optionally,
    the same for val."""
    init: Path | None = None
    """Start the backbone from these weights instead of random ones: folder of a run of `anyres pretrain` or `anyres
    train`, or a ViT or MAE of timm or transformers (.safetensors, .pth)."""
    init_resize: bool = False
    """Read the position table of init bilinearly at the model's grid, where that is another."""
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
    """Learning rate that the cosine ends at."""
    warmup_steps: int = 250
    """Steps of linear warm-up from a thousandth of the learning rate."""
    weight_decay: float = 0.1
    """AdamW's decay of matrices; biases, norms and the position table are left alone."""
    augmentation: ScaleJitter = ScaleJitter()  # type: ignore[assignment]
    """What is done to each training image and its objects."""
    draw_images: int = 4
    """Validation images that every validation draws with what is found in them; 0 draws none."""

    def check(self) -> None:
        check_run(self)
        check_idle(self, _idle(self))
        get_detector_config(self.model, **self.detector_options())

    def detector_options(self) -> dict[str, Any]:
        """`overrides` with the size to work at in evaluation, which is by default the largest training size."""
        largest = max(self.parsed_sizes(), key=lambda size: (size[0] * size[1], size))
        return {"min_size": min(largest), "max_size": max(largest), **self.overrides()}


def _idle(config: DetectionConfig) -> dict[str, str | None]:
    """Settings, and why they have no effect; None if they have one."""
    return idle_in_any_run(config) | {
        "cache": "detection reads its files anew",
        "cache_bytes": "there is no cache",
        "repeats": "detection shows every image once in an epoch",
        "init_resize": "there is no init" if config.init is None else None,
    }
