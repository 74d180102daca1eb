"""What a detector finds: in an image or a data set, as COCO's JSON, and drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from anyres.data.coco import CocoImages
from anyres.data.decode import MAX_PIXELS
from anyres.data.detection import AnnotatedReader
from anyres.data.workers import Numbered, run_in_order
from anyres.errors import Unreadable, UnreadableImageError
from anyres.metrics.average_precision import AveragePrecision
from anyres.models.detector import Detector
from anyres.predict.objects import coco_results, detect
from anyres.spacing import evenly_spaced


@dataclass(frozen=True)
class Evaluation:
    """What a detector does on a data set."""

    images: int
    measures: dict[str, float | None]
    """Percentages, see `AveragePrecision.compute`."""
    results: list[dict[str, Any]]
    """What was found in all the images, as `coco_results`."""
    absent: list[str]
    """Classes of which there is no single object in these images: nothing is known of how well they are found."""
    skipped: list[Unreadable]
    """Files that could not be read, and why."""


def evaluate_detector(
    model: Detector,
    data: CocoImages,
    device: torch.device | str = "cpu",
    *,
    limit: int | None = None,
    num_workers: int = 0,
    max_pixels: int = MAX_PIXELS,
    strict: bool = False,
    progress: bool = False,
) -> Evaluation:
    """Average precision of a model in evaluation mode, image by image, so that none is padded to the size of another.

    Args:
        limit: only so many images, spread evenly over the data set.
        strict: raises for the first unreadable image instead of leaving it out.

    Raises:
        ValueError: a data set with other classes than the model's number, or none of whose images can be read.
    """
    if len(data.classes) != model.config.num_classes:
        raise ValueError(
            f"{data.file} has {len(data.classes)} categories and the model {model.config.num_classes} classes"
        )
    measure = AveragePrecision(masks=model.config.masks and data.masks)
    read = AnnotatedReader(data, max_pixels, model.config.backbone.in_channels)
    chosen, results, skipped, seen = evenly_spaced(len(data), limit), [], [], list[int]()
    numbered = Numbered(partial(_read_one, read, strict, chosen))
    pairs = run_in_order(numbered, range(len(chosen)), num_workers)
    bar = tqdm(pairs, desc="detect", unit="image", total=len(chosen), leave=False, disable=not progress)
    for index, image in bar:
        if isinstance(image, Unreadable):
            skipped.append(image)
            continue
        (found,) = detect(model, [image], device)
        measure.update([found], [data.target(index)])
        results += coco_results(data.images[index].id, found, data.category_ids)
        seen.append(index)
    if not seen:
        raise ValueError(f"none of the images of {data.file} can be read; the first: {skipped[0]}")
    present = data.classes_in(seen)
    absent = [name for name in data.classes if name not in present]
    return Evaluation(len(seen), measure.compute(), results, absent, skipped)


def _read_one(
    read: AnnotatedReader, strict: bool, chosen: Sequence[int], number: int
) -> tuple[int, Tensor | Unreadable]:
    """A place in the data set and its image (C, H, W), or why there is none."""
    index = chosen[number]
    try:
        return index, read(index)
    except UnreadableImageError as error:
        if strict:
            raise
        return index, Unreadable.of(read.data.paths[index], error)
