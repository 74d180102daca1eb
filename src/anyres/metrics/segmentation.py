"""How well pixels are classified: inference whole or by windows, and intersection over union of a whole data set."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anyres.data.segmentation import IGNORE, SegmentationFolder
from anyres.errors import Unreadable, UnreadableImageError
from anyres.models.segmenter import Segmenter
from anyres.predict.label_maps import Inference, label_map
from anyres.spacing import evenly_spaced


class Confusion:
    """Counts of pixels by true and predicted class, summed over a data set."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        """(true, predicted)."""

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

    def absent(self) -> list[int]:
        """The classes that no pixel has: nothing is known of how well they are found."""
        return self.counts.sum(1).eq(0).nonzero()[:, 0].tolist()

    def accuracy(self) -> float:
        """Share of pixels that are classified rightly; NaN without any pixel."""
        return float(self.counts.diag().sum().double() / self.counts.sum())


@torch.no_grad()
def evaluate_segmenter(
    model: Segmenter,
    folder: SegmentationFolder,
    short_side: int,
    how: Inference | None = None,
    *,
    limit: int | None = None,
    strict: bool = False,
) -> tuple[Confusion, int, list[Unreadable]]:
    """The confusion of a data set, every image compared at its own size; how many there were; what was left out.

    An image is resized, its aspect kept, to this short side and at most four times that long; what the model says of it
    is resized back.

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
    for index in evenly_spaced(len(folder), limit):
        try:
            found = folder.read(index, model.config.backbone.in_channels)
        except UnreadableImageError as error:
            if strict:
                raise
            skipped.append(Unreadable.of(folder.paths[index], error))
            continue
        labels = torch.from_numpy(np.array(found.labels))
        confusion.add(label_map(model, found.image, how or Inference(), short_side), labels)
        images += 1
    if not images:
        raise ValueError(f"none of the images in {folder.root} can be used; the first: {skipped[0]}")
    return confusion, images, skipped


def measured(confusion: Confusion) -> dict[str, Any]:
    """What a table says: miou and accuracy, and the iou of each class, in percent; None for what no pixel tells."""
    ious = [_percent(value) for value in confusion.iou().tolist()]
    return {"miou": _percent(confusion.miou()), "accuracy": _percent(confusion.accuracy()), "iou": ious}


def _percent(share: float) -> float | None:
    return None if math.isnan(share) else 100 * share
