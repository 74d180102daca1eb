"""What a training run costs, predicted from its configuration: multiply-accumulates, and hours at a measured rate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

from anyres.costs.convention import Convention
from anyres.costs.cost import macs_by_part, mae_macs_by_part, parts_of
from anyres.data.augment import MultiScale
from anyres.data.schedule import EverySize
from anyres.layers.merge_plan import token_grid
from anyres.models.architectures import backbone_of
from anyres.models.config import ViTARConfig
from anyres.models.detector_config import DetectorConfig
from anyres.models.mae_config import MAEConfig
from anyres.models.segmenter_config import SegmenterConfig
from anyres.sizes import SideRange, Size, fitted, stretched
from anyres.training.detection.config import DetectionConfig
from anyres.training.image_config import ImageRunConfig

FORWARD_AND_BACKWARD = 3
"""A training step costs three forward passes: the backward pass makes two products for each of the forward pass."""

COCO_IMAGE = (480, 640)
"""The most frequent size of an image of COCO, (height, width) in pixels: what multi-scale training starts from."""

Model = ViTARConfig | MAEConfig | SegmenterConfig | DetectorConfig

_ASPECTS = 32  # places at which a continuous aspect is averaged; more change the result by less than 0.1 %


def training_hours(config: ImageRunConfig, macs_per_second: float) -> float:
    """hours = 3 * forward MACs per image * images / (sustained MACs per second) / 3600, without validation.

    Args:
        config: the run: of training or of pre-training on ImageNet, of segmentation, or of detection.
        macs_per_second: what the hardware sustains over whole training steps, of several devices together.

    Raises:
        ValueError: a rate that is not above 0.
    """
    if not macs_per_second > 0:
        raise ValueError(f"macs_per_second is {macs_per_second}; allowed: above 0, such as 1.5e13 for one RTX 3090")
    images = config.steps * config.batch_size
    return FORWARD_AND_BACKWARD * expected_macs(config) * images / macs_per_second / 3600


def expected_macs(config: ImageRunConfig, classes: int = 1000, convention: Convention = "executed") -> float:
    """Multiply-accumulates of the forward pass of one training image, averaged over the schedule's sizes.

    Counted by a convention of `costs.cost`, with a head for so many classes, the mean number of random extra
    passes of the merger, and all replicas of the image where the run makes some. The backward pass of any of these
    models costs twice as much again. As in inference, passes with 1x1 cells are counted without queries and keys, a
    sixth of such a pass in training.

    In pre-training it is the mean over all masks, with the decoder and the resizing of what is to be restored, which
    has no backward pass (under 1 % of ViTAR-B). Images of their own aspect count as squares of the same area.

    Of segmentation the auxiliary head is left out. Of detection the heads are counted with the most boxes and masks
    that they learn from in a step; in multi-scale training every image has the size `COCO_IMAGE`, and neither the crops
    before the last resizing, which make less of it, nor the padding to the largest image of a batch are counted.
    """
    model = _model(config, classes)
    return sum(share * _macs(model, size, convention) for share, size in drawn_sizes(config))


def _model(config: ImageRunConfig, classes: int) -> Model:
    if not isinstance(config, DetectionConfig):
        return config.model_settings(classes)
    model = config.model_settings()
    positive = max(1, model.roi_samples // 4)  # torchvision's share of boxes that hold something
    return replace(model, test_proposals=model.roi_samples, detections=positive)


def drawn_sizes(config: ImageRunConfig) -> Iterator[tuple[float, Size]]:
    """Every size that a step can have with its share of the steps; with replicas all of them have a share of 1."""
    schedule = config.schedule()
    if isinstance(schedule, EverySize):
        yield from ((1.0, size) for size in schedule.sizes)
        return
    for entry, weight in zip(schedule.entries, schedule.weights, strict=True):
        for part, size in _sides(entry):
            for factor in _factors(*schedule.aspect):
                share = weight * part / sum(schedule.weights) / (1 if schedule.aspect == (1, 1) else _ASPECTS)
                shown = _shown(config, stretched(size, factor)) if share else []
                yield from ((share / len(shown), each) for each in shown)


def _shown(config: ImageRunConfig, size: Size) -> list[Size]:
    """The sizes that images have at a step of this size, all alike."""
    augment = config.augmentation if isinstance(config, DetectionConfig) else None
    if not isinstance(augment, MultiScale):
        return [size]
    whole = [fitted(COCO_IMAGE, side, max(size)) for side in augment.sides(size)]
    return [(min(height, augment.most), min(width, augment.most)) for height, width in whole]


def _sides(entry: Size | SideRange) -> Iterator[tuple[float, Size]]:
    if isinstance(entry, SideRange):
        whole = math.log((entry.high + 1) / entry.low)
        yield from ((math.log((k + 1) / k) / whole, (k, k)) for k in range(entry.low, entry.high + 1))
    else:
        yield 1.0, entry


def _factors(low: float, high: float) -> Iterator[float]:
    if low == high == 1:
        yield 1.0
    else:
        yield from (low * (high / low) ** ((i + 0.5) / _ASPECTS) for i in range(_ASPECTS))


@lru_cache(maxsize=4096)
def _macs(model: Model, size: Size, convention: Convention) -> float:
    macs = sum(parts_of(model, size, convention).values())
    return macs + _extra_passes(model, size, convention)


def _extra_passes(model: Model, size: Size, convention: Convention) -> float:
    """Mean cost of the random passes with 1x1 cells: one after every second level, half the most at the end."""
    backbone = backbone_of(model)
    size = model.seen(*size) if isinstance(model, MAEConfig) else size
    levels = backbone.plan(token_grid(*size, backbone.patch_size)).levels
    if not backbone.extra_passes or not levels:
        return 0.0
    shares = _seen_shares(model, size) if isinstance(model, MAEConfig) else [1.0] * len(levels)
    passes = [0.5] * (len(levels) - 1) + [backbone.extra_passes / 2]
    return sum(
        count * share * _pass(backbone, *level.output_grid, convention)
        for count, share, level in zip(passes, shares, levels, strict=True)
    )


def _seen_shares(model: MAEConfig, size: Size) -> list[float]:
    """Mean share of the cells that is there after each level of the merger."""
    model = replace(model, backbone=replace(model.backbone, learned_levels=None))  # plain means are no products
    whole, seen = macs_by_part(model.backbone, size), mae_macs_by_part(model, size)
    return [seen[name] / whole[name] for name in whole if name.startswith("merger")]


def _pass(model: ViTARConfig, rows: int, cols: int, convention: Convention) -> int:
    """One pass with 1x1 cells on a grid: the whole merger of a model whose final grid that is."""
    alone = replace(model, grid=(rows, cols), cells=None, last_pass=True)
    parts = macs_by_part(alone, (rows * model.patch_size, cols * model.patch_size), convention)
    return sum(macs for name, macs in parts.items() if name.startswith("merger"))
