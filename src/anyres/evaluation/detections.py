"""What a detector finds: in an image or a data set, as COCO's JSON, and drawn."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks
from tqdm import tqdm

from anyres.data.batches import Skipped
from anyres.data.coco import CocoImages
from anyres.data.coco_masks import encode_mask
from anyres.data.decode import MAX_PIXELS
from anyres.data.detection import AnnotatedReader, spread
from anyres.data.workers import Numbered, run_in_order
from anyres.errors import UnreadableImageError
from anyres.evaluation.average_precision import AveragePrecision
from anyres.files import write_atomically
from anyres.models.detector import Detector

Found = dict[str, Tensor]
"""Of one image, on the CPU, the best first: boxes (N, 4) float32 as x0, y0, x1, y1 in its pixels, scores (N,), labels
(N,) int64 from 1 up and, from a model with masks, masks (N, H, W) bool."""

_MODES = {1: "L", 3: "RGB"}


@torch.no_grad()
def detect(model: Detector, images: Sequence[Tensor | Image.Image], device: torch.device | str = "cpu") -> list[Found]:
    """What a model in evaluation mode finds in Pillow images or (C, H_i, W_i) tensors (uint8, or float from 0 to 1)."""
    mode = _MODES[model.config.backbone.in_channels]
    given = [functional.pil_to_tensor(each.convert(mode)) if isinstance(each, Image.Image) else each for each in images]
    outputs = model([functional.to_dtype(each, torch.float32, scale=True).to(device) for each in given])
    found = []
    for output in outputs:
        each = {name: value.cpu() for name, value in output.items() if name != "masks"}
        each["boxes"], each["scores"] = each["boxes"].float(), each["scores"].float()
        if "masks" in output:
            each["masks"] = (output["masks"][:, 0] > 0.5).cpu()
        found.append(each)
    return found


@dataclass(frozen=True)
class Evaluation:
    """What a detector does on a data set."""

    images: int
    measures: dict[str, float | None]
    """percentages, see `AveragePrecision.compute`"""
    results: list[dict[str, Any]]
    """what was found in all the images, as `coco_results`"""
    skipped: list[Skipped]
    """files that could not be read, and why"""


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
    chosen, results, skipped, images = spread(len(data), limit), [], [], 0
    numbered = Numbered(partial(_read_one, read, strict, chosen))
    pairs = run_in_order(numbered, range(len(chosen)), num_workers)
    bar = tqdm(pairs, desc="detect", unit="image", total=len(chosen), leave=False, disable=not progress)
    for index, image in bar:
        if isinstance(image, str):
            skipped.append((data.paths[index], image))
            continue
        (found,) = detect(model, [image], device)
        measure.update([found], [data.target(index)])
        results += coco_results(data.images[index].id, found, data.category_ids)
        images += 1
    if not images:
        raise ValueError(f"none of the images of {data.file} can be read; the first: {skipped[0][1]}")
    return Evaluation(images, measure.compute(), results, skipped)


def _read_one(read: AnnotatedReader, strict: bool, chosen: Sequence[int], number: int) -> tuple[int, Tensor | str]:
    """A place in the data set and its image (C, H, W), or why it cannot be read."""
    try:
        return chosen[number], read(chosen[number])
    except UnreadableImageError as error:
        if strict:
            raise
        return chosen[number], str(error)


def coco_results(image_id: int, found: Found, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """What was found in an image as COCO's list of results: original category ids, boxes as x, y, width, height."""
    results = []
    for place, (x0, y0, x1, y1) in enumerate(found["boxes"].tolist()):
        result: dict[str, Any] = {
            "image_id": image_id,
            "category_id": category_ids[int(found["labels"][place]) - 1],
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "score": found["scores"][place].item(),
        }
        if "masks" in found:
            result["segmentation"] = encode_mask(found["masks"][place].numpy())
        results.append(result)
    return results


def write_results(path: Path, results: Iterable[Mapping[str, Any]]) -> None:
    """Writes COCO's list of results, of any number of images, to a JSON file."""
    text = json.dumps(list(results)).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(text))


def draw_detections(
    image: Image.Image, found: Found, classes: Sequence[str], *, threshold: float = 0.5, opacity: float = 0.45
) -> Image.Image:
    """The image in colour with what was found in it: masks, boxes, and class names with scores, a colour each class.

    Args:
        classes: name of label i + 1.
        threshold: least score of what is drawn.
    """
    picture = functional.pil_to_tensor(image.convert("RGB"))
    places = [place for place, score in enumerate(found["scores"].tolist()) if score >= threshold]
    places.reverse()  # the best are drawn last, on top
    if not places:
        return functional.to_pil_image(picture)
    labels = [int(found["labels"][place]) for place in places]
    colours = [class_colour(label) for label in labels]
    if "masks" in found:
        picture = draw_segmentation_masks(picture, found["masks"][places], alpha=opacity, colors=colours)
    names = [f"{classes[label - 1]} {found['scores'][place]:.2f}" for place, label in zip(places, labels, strict=True)]
    width = max(1, round(max(image.size) / 400))
    return functional.to_pil_image(
        draw_bounding_boxes(picture, found["boxes"][places], names, colours, width=width, label_colors="white")
    )


def class_colour(label: int) -> tuple[int, int, int]:
    """Red, green and blue of a label, neighbours far apart: PASCAL VOC's colour map."""
    colour = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            colour[channel] |= (label >> (3 * bit + channel) & 1) << (7 - bit)
    return colour[0], colour[1], colour[2]
