"""How `dense.py` makes a run of a variant: its model and its training, at one scale for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from dense_variants import GLOBAL_BLOCKS, PATCHES, VARIANTS, Task, Variant

from anyres.costs.cost import cost
from anyres.data.augment import ScaleJitter, SegmentAugment
from anyres.data.dense_scenes import write_dense
from anyres.devices import fast_precision
from anyres.models.architectures import create_model
from anyres.training.detection.config import DetectionConfig
from anyres.training.segmentation.config import SegmentationConfig

PATCH, STEM, HEADS, GLYPHS = 8, "conv", 3, "AOX7"

_PRESETS = {
    "detection": "mask_rcnn_vitar_small_patch16",
    "segmentation": "upernet_vitar_small_patch16",
    "unmerge": "unmerge_vitar_small_patch16",
}
_RATES = {"detection": 1e-3, "segmentation": 3e-3, "unmerge": 3e-3}
_CLOSE = 0.03  # relative difference of costs that count as equal


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large everything is; the defaults are those of the published table."""

    train: int = 800
    """Training images."""
    val: int = 100
    """Validation images, each measured at the training size and at twice that."""
    objects: tuple[int, int] = (5, 12)
    """Fewest and most of an image."""
    heights: tuple[float, float] = (0.06, 0.6)
    """Of objects, relative to the image's short side: from 1.4 patches at the training size on."""
    size: int = 192
    """Side of the training crops in pixels. Images are stored with twice that on the short side."""
    steps: dict[Task, int] = field(default_factory=lambda: {"detection": 600, "segmentation": 1500, "unmerge": 4000})
    """Of training, by task."""
    batch: dict[Task, int] = field(default_factory=lambda: {"detection": 4, "segmentation": 2, "unmerge": 2})
    """Images a step, by task. Few: in segmentation it takes many steps until glyphs are told apart at all."""
    width: int = 96
    """Of the backbone."""
    depth: int = 6
    """Blocks of the backbone, the merger beside them."""
    channels: int = 64
    """Of the heads."""

    def sizes(self) -> tuple[int, int]:
        """The short sides in pixels that are measured."""
        return self.size, 2 * self.size


def write_images(scale: Scale, folder: Path) -> Path:
    """The generated set, or what is there of it already."""
    return write_dense(
        folder, train=scale.train, val=scale.val, size=2 * scale.size, classes=GLYPHS, objects=scale.objects,
        heights=scale.heights, progress=False,
    )  # fmt: skip


def training(variant: Variant, scale: Scale, data: Path, out: Path, seed: int) -> DetectionConfig | SegmentationConfig:
    """The run of a variant; all of a task have the same steps, batches, augmentation and learning rate."""
    steps = scale.steps[variant.task]
    shared: dict[str, Any] = {
        "data": data, "out": out, "model": _PRESETS[variant.task], "model_options": model_options(variant, scale),
        "sizes": (str(scale.size),), "steps": steps, "batch_size": scale.batch[variant.task],
        "lr": _RATES[variant.task], "min_lr": 0.0,
        "warmup_steps": max(steps // 15, 1), "weight_decay": 0.05, "betas": (0.9, 0.99),
        "clip_grad": 1.0, "precision": fast_precision(), "seed": seed, "threads": 1, "device": "cpu",
        "checkpoint_every": 100, "validate_limit": 1, "tensorboard": False, "progress": False,
    }  # fmt: skip
    if variant.task == "detection":  # no flips: a mirrored 7 is none
        return DetectionConfig(**shared, augmentation=ScaleJitter(scale=(0.75, 1.5), hflip=0.0), draw_images=0)
    augment = SegmentAugment(scale=(0.75, 1.5), cat_max_ratio=1.0, hflip=0.0, photometric=False)
    return SegmentationConfig(**shared, augmentation=augment, num_classes=len(GLYPHS) + 1)


def model_options(variant: Variant, scale: Scale) -> dict[str, Any]:
    """What differs from the named model: what all variants share, the variant's own, depth and width."""
    patches, depth = scale.size // PATCH, scale.depth
    shared = {"patch_size": PATCH, "stem": STEM, "heads": HEADS, "drop_path_rate": 0.0, **_head(variant, scale)}
    if variant.task != "unmerge":
        shared["grid"] = (patches, patches)
    of_scale = {PATCHES: (patches, patches), GLOBAL_BLOCKS: tuple(sorted({max(depth // 2 - 1, 0), depth - 1}))}
    own = {name: of_scale.get(value, value) for name, value in variant.options.items()}
    if variant.equal_to is None:
        return {**shared, **own, "depth": depth, "width": scale.width}
    other = next(each for each in VARIANTS if (each.task, each.name) == (variant.task, variant.equal_to))
    target = macs(model_options(other, scale), variant.task, scale.size)
    return _equal_cost({**shared, **own}, target, variant.task, scale)


def _head(variant: Variant, scale: Scale) -> dict[str, Any]:
    if variant.task == "detection":
        return {
            "channels": scale.channels,
            "box_features": 4 * scale.channels,
            "anchor_sizes": tuple(scale.size * part // 32 for part in (2, 4, 8, 14, 20)),
            "train_proposals": 200, "test_proposals": 100, "rpn_samples": 64, "roi_samples": 48, "detections": 30,
        }  # fmt: skip
    if variant.task == "unmerge":
        return {"head_channels": scale.channels}
    return {
        "taps": tuple(scale.depth * (i + 1) // 4 - 1 for i in range(4)),
        "scales": tuple(variant.cells * part for part in (2, 1, 0.5, 0.25)),  # strides of 4 to 32 from any backbone
        "head_channels": scale.channels,
        "auxiliary_channels": scale.channels // 2,
    }


def _equal_cost(options: Mapping[str, Any], target: int, task: Task, scale: Scale) -> dict[str, Any]:
    """Depth and width that cost as many multiply-accumulates as `target`: of those within 3 % the ones nearest to the
    proportions of the others, or if none is, the closest."""
    step = 4 * HEADS
    found = []
    for depth in range(1, scale.depth + 1):
        for width in range(step, scale.width + 1, step):
            error = abs(macs({**options, "depth": depth, "width": width}, task, scale.size) / target - 1)
            shape = abs(depth / width * scale.width / scale.depth - 1)
            found.append((max(error, _CLOSE), shape, depth, width))
    *_, depth, width = min(found)
    return {**options, "depth": depth, "width": width}


def macs(options: Mapping[str, Any], task: Task, side: int) -> int:
    """Multiply-accumulates of a model for one square image."""
    return _macs(tuple(options.items()), task, side)


@cache
def _macs(options: tuple[tuple[str, Any], ...], task: Task, side: int) -> int:
    return cost(empty_model(dict(options), task), (side, side), memory=False).macs


def empty_model(options: Mapping[str, Any], task: Task) -> Any:
    """A model with these options on the meta device."""
    classes = len(GLYPHS) + (task != "detection")
    with torch.device("meta"):
        return create_model(_PRESETS[task], num_classes=classes, **options)


def settings(scale: Scale) -> dict[str, Any]:
    """What the results record of all runs."""
    return asdict(scale) | {
        "patch_size": PATCH,
        "stem": STEM,
        "heads": HEADS,
        "lr": _RATES,
        "precision": fast_precision(),
    }
