"""How well pixels are classified: inference whole or by windows, and intersection over union of a whole data set."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from anyres.data.batches import Skipped
from anyres.data.schedule import Size
from anyres.data.segmentation import IGNORE, SegmentationFolder
from anyres.data.segmentation_stream import own_size
from anyres.data.transforms import to_tensor
from anyres.errors import UnreadableImageError
from anyres.evaluation.sliding import sliding_logits, usual_step
from anyres.models.images import group_by
from anyres.models.segmenter import Segmenter

MULTI_SCALE = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""The ratios of mmsegmentation's multi-scale test, used with `flip`."""


class Confusion:
    """Counts of pixels by true and predicted class, summed over a data set."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        """(true, predicted)"""

    def add(self, predicted: Tensor, labels: Tensor) -> None:
        """Counts whole-numbered maps of one shape; pixels labelled IGNORE are left out."""
        is_known = labels != IGNORE
        pairs = labels[is_known].long() * self.num_classes + predicted[is_known].long()
        counts = torch.bincount(pairs.cpu(), minlength=self.num_classes**2)
        self.counts += counts.view(self.num_classes, self.num_classes)

    def iou(self) -> Tensor:
        """Intersection over union of each class, (num_classes,) float64; NaN for one neither there nor predicted."""
        both = self.counts.diag().double()
        return both / (self.counts.sum(0) + self.counts.sum(1) - both)

    def miou(self) -> float:
        """The mean over the classes that are there or predicted; NaN without any pixel."""
        return float(self.iou().nanmean())

    def accuracy(self) -> float:
        """Share of pixels that are classified rightly; NaN without any pixel."""
        return float(self.counts.diag().sum().double() / self.counts.sum())


@dataclass(frozen=True, kw_only=True)
class Inference:
    """How a map is made of an image."""

    window: Size | None = None
    """(height, width) of windows that slide over the image; None looks at all of it at once."""
    step: Size | None = None
    """(rows, cols) from window to window in pixels; two thirds of the window if not given."""
    ratios: tuple[float, ...] = (1.0,)
    """Sizes of the image, relative to its own, whose probabilities are averaged."""
    flip: bool = False
    """Looks at the mirror image too."""

    def __post_init__(self) -> None:
        if not self.ratios or not all(0 < ratio < float("inf") for ratio in self.ratios):
            raise ValueError(f"ratios are {self.ratios}; allowed: one or more numbers above 0, such as 0.5 1 1.5")
        if self.window is None:
            if self.step is not None:
                raise ValueError(f"step is {self.step} but has no effect, because there is no window; leave it out")
            return
        if min(self.window) < 1:
            raise ValueError(f"window is {self.window}; allowed: sides from 1 up")
        if self.step is not None and not all(0 < a <= b for a, b in zip(self.step, self.window, strict=True)):
            raise ValueError(f"step is {self.step}; allowed: from 1 up to the window {self.window}, or pixels are lost")

    def steps(self) -> Size:
        """`step` with its default filled in."""
        assert self.window is not None
        return self.step or usual_step(self.window)


def probabilities(model: Segmenter, images: Tensor, how: Inference, size: Size | None = None) -> Tensor:
    """Of every class at every pixel, averaged over ratios and mirror images.

    Args:
        model: in evaluation mode.
        images: (B, C, H, W), normalised.
        how: whole or by windows, and what is averaged.
        size: (height, width) of the result; that of the images if not given.

    Returns:
        (B, num_classes, height, width) float32.
    """
    own = images.shape[-2:]
    views = [False, True] if how.flip else [False]
    total: Tensor | None = None
    for ratio in how.ratios:
        scaled = _resized(images, (max(1, round(own[0] * ratio)), max(1, round(own[1] * ratio))))
        for mirrored in views:
            logits = _logits(model, scaled.flip(-1) if mirrored else scaled, how)
            found = _resized(logits.flip(-1) if mirrored else logits, size or (own[0], own[1])).softmax(1)
            total = found if total is None else total.add_(found)
    assert total is not None
    return total.div_(len(how.ratios) * len(views))


def _logits(model: Segmenter, images: Tensor, how: Inference) -> Tensor:
    if how.window is None:
        return model(images).float()
    return sliding_logits(model, images, how.window, how.steps())


def _resized(x: Tensor, size: Size) -> Tensor:
    """(B, C, h, w) at another size, bilinear."""
    if tuple(x.shape[-2:]) == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


@torch.no_grad()
def evaluate_segmenter(
    model: Segmenter,
    folder: SegmentationFolder,
    size: Size,
    how: Inference | None = None,
    *,
    limit: int | None = None,
    strict: bool = False,
) -> tuple[Confusion, int, list[Skipped]]:
    """The confusion of a data set, every image compared at its own size; how many there were; what was left out.

    An image is resized, its aspect kept, to a short side of min(size) and at most four times that long; what the
    model says of it is resized back.

    Args:
        model: in evaluation mode.
        limit: only so many images, spread evenly over the folder.
        strict: an image that cannot be read is an error.

    Raises:
        ValueError: a model of another number of classes, or no image that can be read.
    """
    if model.num_classes != folder.num_classes:
        raise ValueError(f"the model tells {model.num_classes} classes apart; {folder.root} has {folder.num_classes}")
    confusion, images, skipped = Confusion(folder.num_classes), 0, []
    for index in _spread(len(folder), limit):
        try:
            found = folder.read(index, model.config.backbone.in_channels)
        except UnreadableImageError as error:
            if strict:
                raise
            skipped.append((folder.paths[index], str(error)))
            continue
        labels = torch.from_numpy(np.array(found.labels))
        confusion.add(label_map(model, found.image, how or Inference(), size), labels)
        images += 1
    if not images:
        raise ValueError(f"none of the images in {folder.root} can be used; the first: {skipped[0][1]}")
    return confusion, images, skipped


def label_map(model: Segmenter, image: Image.Image, how: Inference, size: Size | None = None) -> Tensor:
    """The most likely class of every pixel of an image, (H, W) int64 on the CPU.

    With a size the model sees the image resized, its aspect kept: see `evaluate_segmenter`.
    """
    return label_maps(model, [image], how, size)[0]


@torch.no_grad()
def label_maps(
    model: Segmenter, images: Sequence[Image.Image], how: Inference, size: Size | None = None
) -> list[Tensor]:
    """`label_map` of each image; those of one size share calls of the model."""
    settings, device = model.config.backbone, next(model.parameters()).device
    owns = [(image.height, image.width) for image in images]
    sizes = owns if size is None else [own_size(image, size) for image in images]
    found: list[Any] = [None] * len(images)
    for members in group_by((*own, *given) for own, given in zip(owns, sizes, strict=True)):
        (height, width), own = sizes[members[0]], owns[members[0]]
        pixels = [
            to_tensor(_at_size(images[i], (height, width)), settings.mean, settings.std).to(device) for i in members
        ]
        labels = probabilities(model, torch.stack(pixels), how, own).argmax(1).cpu()  # (B, H, W)
        for place, i in enumerate(members):
            found[i] = labels[place]
    return found


def _at_size(image: Image.Image, size: Size) -> Image.Image:
    height, width = size
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)


def measured(confusion: Confusion) -> dict[str, Any]:
    """What a table says: miou and accuracy, and the iou of each class, in percent; None for what no pixel tells."""
    ious = [_percent(value) for value in confusion.iou().tolist()]
    return {"miou": _percent(confusion.miou()), "accuracy": _percent(confusion.accuracy()), "iou": ious}


def _percent(share: float) -> float | None:
    return None if math.isnan(share) else 100 * share


def _spread(count: int, limit: int | None) -> Iterator[int]:
    """All places of so many, or `limit` of them at equal distances."""
    if limit is None or limit >= count:
        return iter(range(count))
    return ((2 * i + 1) * count // (2 * limit) for i in range(limit))
