"""What a detector finds in images: as tensors, as COCO's JSON, and drawn."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

from anyres.data.coco_masks import encode_mask
from anyres.files import write_json
from anyres.models.detector import Detector
from anyres.predict.pictures import class_colour, draw_box, draw_name, enlarged
from anyres.predict.placed_masks import PlacedMask, place_mask
from anyres.sizes import Size

Found = dict[str, Tensor]
"""Of one image, on the CPU, the best first: boxes (N, 4) float32 as x0, y0, x1, y1 in its pixels, scores (N,), labels
(N,) int64 from 1 up and, from a model with masks, masks (N, H, W) bool."""


_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class Objects:
    """What is found in an image, on the CPU, the best first. Masks are as small as the model makes them."""

    size: Size
    """(height, width) of the image."""
    boxes: Tensor
    """(N, 4) float32: x0, y0, x1, y1 in pixels."""
    scores: Tensor
    """(N,) float32."""
    labels: Tensor
    """(N,) int64, from 1 up."""
    masks: Tensor | None
    """(N, h, w) from 0 to 1 within the box."""
    windows: Tensor | None = None
    """(N, 4) int64: y, x, height and width of the window it was seen in, where its mask ends; None: the whole."""
    seen_boxes: Tensor | None = None
    """(N, 4): its box there."""

    def __len__(self) -> int:
        return len(self.scores)

    def kept(self, which: Tensor) -> "Objects":
        """Those of a mask (N,) bool, or of indices."""
        changes: dict[str, Any] = {name: value[which] for name, value in self._tensors().items()}
        return replace(self, **changes)

    def moved(self, corner: tuple[int, int], size: Size) -> "Objects":
        """As objects of an image of (height, width), in which this one is a window at (y, x)."""
        top, left = corner
        windows = torch.tensor([[top, left, *self.size]]).repeat(len(self), 1)
        boxes = self.boxes + torch.tensor([left, top, left, top])
        return replace(self, size=size, boxes=boxes, windows=windows, seen_boxes=self.boxes)

    @staticmethod
    def joined(parts: Sequence["Objects"]) -> "Objects":
        """All of them, of one image."""
        tensors = [part._tensors() for part in parts]
        changes: dict[str, Any] = {name: torch.cat([each[name] for each in tensors]) for name in tensors[0]}
        return replace(parts[0], **changes)

    def _tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def mask(self, place: int) -> PlacedMask:
        """That of one object, in the image's pixels."""
        assert self.masks is not None
        if self.windows is None or self.seen_boxes is None:
            return place_mask(self.masks[place], self.boxes[place], self.size)
        top, left, height, width = self.windows[place].tolist()
        found = place_mask(self.masks[place], self.seen_boxes[place], (height, width))
        return replace(found, top=found.top + top, left=found.left + left)

    def found(self) -> Found:
        """With a mask of the image's size for each object."""
        found = {"boxes": self.boxes, "scores": self.scores, "labels": self.labels}
        if self.masks is not None:
            found["masks"] = torch.zeros(len(self), *self.size, dtype=torch.bool)
            for place in range(len(self)):
                found["masks"][place] = torch.from_numpy(self.mask(place).whole(self.size))
        return found


def detect(model: Detector, images: Sequence[Tensor | Image.Image], device: torch.device | str = "cpu") -> list[Found]:
    """What a model in evaluation mode finds in Pillow images or (C, H_i, W_i) tensors (uint8, or float from 0 to 1).

    Each image gives what it would give alone.
    """
    return [objects.found() for objects in objects_in(model, images, device)]


@torch.no_grad()
def objects_in(
    model: Detector, images: Sequence[Tensor | Image.Image], device: torch.device | str = "cpu"
) -> list[Objects]:
    """The same with small masks."""
    mode = _MODES[model.config.backbone.in_channels]
    given = [functional.pil_to_tensor(each.convert(mode)) if isinstance(each, Image.Image) else each for each in images]
    found = model.find([functional.to_dtype(each, torch.float32, scale=True).to(device) for each in given])
    return [_on_cpu(each, (image.shape[-2], image.shape[-1])) for image, each in zip(given, found, strict=True)]


def _on_cpu(found: Mapping[str, Tensor], size: Size) -> Objects:
    boxes, scores, labels = found["boxes"].float().cpu(), found["scores"].float().cpu(), found["labels"].cpu()
    return Objects(size, boxes, scores, labels, found["masks"][:, 0].float().cpu() if "masks" in found else None)


def coco_results(image_id: int, found: Found, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """What was found in an image as COCO's list of results: original category ids, boxes as x, y, width, height."""
    labels, scores = found["labels"].tolist(), found["scores"].tolist()
    results = []
    for place, box in enumerate(found["boxes"].tolist()):
        mask = encode_mask(found["masks"][place].numpy()) if "masks" in found else None
        results.append(result_of(image_id, box, scores[place], category_ids[labels[place] - 1], mask))
    return results


def result_of(
    image_id: int, box: Sequence[float], score: float, category_id: int, mask: Mapping[str, Any] | None
) -> dict[str, Any]:
    """One object of COCO's list of results; the box is given by its corners x0, y0, x1, y1."""
    x0, y0, x1, y1 = box
    result = {"image_id": image_id, "category_id": category_id, "bbox": [x0, y0, x1 - x0, y1 - y0], "score": score}
    return result if mask is None else {**result, "segmentation": mask}


def write_results(path: Path, results: Iterable[Mapping[str, Any]]) -> None:
    """Writes COCO's list of results, of any number of images, to a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, list(results), indent=None)


def draw_detections(
    image: Image.Image, found: Found, classes: Sequence[str], *, threshold: float = 0.5, opacity: float = 0.45
) -> Image.Image:
    """The image in colour with what was found in it: masks, boxes, and class names with scores, a colour each class.

    Small images are made a whole number of times larger, so that names can be read.

    Args:
        classes: name of label i + 1.
        threshold: least score of what is drawn.
    """
    masks = [PlacedMask(mask.numpy(), 0, 0) for mask in found["masks"]] if "masks" in found else None
    boxes, scores, labels = found["boxes"], found["scores"], found["labels"]
    return draw_objects(image, boxes, scores, labels, masks, classes, threshold=threshold, opacity=opacity)


def draw_objects(
    image: Image.Image,
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    masks: Sequence[PlacedMask | None] | None,
    classes: Sequence[str],
    *,
    threshold: float = 0.5,
    opacity: float = 0.45,
) -> Image.Image:
    """`draw_detections` of boxes (N, 4), scores and labels (N,) and masks in the image's pixels, if there are any."""
    picture, factor = enlarged(image)
    places = [place for place, score in enumerate(scores.tolist()) if score >= threshold]
    places.reverse()  # the best are drawn last, on top
    colours = {place: class_colour(int(labels[place])) for place in places}
    if masks is not None:
        pixels = np.array(picture)
        for place in places:
            mask = masks[place]
            if mask is not None:
                mask.blend_into(pixels, colours[place], opacity, factor)
        picture = Image.fromarray(pixels)
    corners = (factor * boxes).tolist()
    for place in places:
        draw_box(picture, corners[place], colours[place])
    for place in places:  # after all the boxes, whose lines would cross them
        name = f"{classes[int(labels[place]) - 1]} {scores[place]:.2f}"
        draw_name(picture, name, corners[place], colours[place])
    return picture
