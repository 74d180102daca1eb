"""What is done to a training image of detection and its objects: they are resized, cropped and flipped together."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from anyres.data.augment import MultiScale, ScaleJitter
from anyres.data.coco import Target
from anyres.sizes import Size, fitted

_SMALLEST = 1.0  # pixels; what remains of an object with a shorter side is not learned
_ROUNDING = 0.01  # pixels


def augmented(
    augment: ScaleJitter | MultiScale, image: Tensor, target: Target, size: Size, fill: Sequence[float]
) -> tuple[Tensor, Target]:
    """An image (C, H, W) uint8 and its objects -> (C, h, w) float32 from 0 to 1 and the objects still in it.

    A box that a crop cuts becomes that of what is left of its mask. Draws from torch's generator: whoever wants it
    repeatable seeds it.

    Args:
        size: of the step. `ScaleJitter` gives exactly that; with `MultiScale` its shorter side bounds short sides, its
            longer one long sides.
        fill: colour of the padding, from 0 to 1, one entry a channel; `MultiScale` pads nothing.
    """
    if isinstance(augment, MultiScale):
        return _multi_scaled(augment, image, target, size)
    return _jittered(augment, image, target, size, fill)


def _jittered(
    augment: ScaleJitter, image: Tensor, target: Target, size: Size, fill: Sequence[float]
) -> tuple[Tensor, Target]:
    (height, width), (low, high) = image.shape[-2:], augment.scale
    scale, down, across, flip = torch.rand(4, dtype=torch.float64).tolist()
    factor = (low + scale * (high - low)) * min(size[0] / height, size[1] / width)
    whole = max(1, round(height * factor)), max(1, round(width * factor))
    crop = min(whole[0], size[0]), min(whole[1], size[1])
    corner = _corner(whole, crop, (down, across))
    flips = flip < augment.hflip
    image, target = _moved(image, target, whole, corner, crop)
    return on_canvas(*_finished(image, target, flips), size, fill)


def _multi_scaled(augment: MultiScale, image: Tensor, target: Target, size: Size) -> tuple[Tensor, Target]:
    # always ten, used or not, so that one decision does not shift the draws of the next
    draws = torch.rand(10, dtype=torch.float64).tolist()
    if draws[0] < augment.crop_prob:
        whole = fitted(image.shape[-2:], _one_of(augment.before, draws[1]), max(size))
        crop = _between(augment.crop, whole[0], draws[2]), _between(augment.crop, whole[1], draws[3])
        image, target = _moved(image, target, whole, _corner(whole, crop, draws[4:6]), crop)
    whole = fitted(image.shape[-2:], _one_of(augment.sides(size), draws[6]), max(size))
    crop = min(whole[0], augment.most), min(whole[1], augment.most)
    image, target = _moved(image, target, whole, _corner(whole, crop, draws[7:9]), crop)
    return _finished(image, target, draws[9] < augment.hflip)


def _one_of(choices: Sequence[int], draw: float) -> int:
    return choices[int(draw * len(choices))]


def _between(interval: tuple[int, int], side: int, draw: float) -> int:
    """A whole number of the interval, both ends included, each as far as the side goes."""
    low, high = min(interval[0], side), min(interval[1], side)
    return low + int(draw * (high - low + 1))


def _corner(whole: Size, crop: Size, draws: Sequence[float]) -> Size:
    """A place for a crop, its top and left."""
    return int(draws[0] * (whole[0] - crop[0] + 1)), int(draws[1] * (whole[1] - crop[1] + 1))


def on_canvas(image: Tensor, target: Target, size: Size, fill: Sequence[float]) -> tuple[Tensor, Target]:
    """An image (C, h, w) at the top left of a canvas (C, *size) of the colour `fill`, its masks likewise."""
    height, width = image.shape[-2:]
    if (height, width) == size:
        return image, target
    canvas = torch.tensor(fill)[:, None, None].repeat(1, *size)  # (C, H, W)
    canvas[:, :height, :width] = image
    if "masks" in target:
        masks = torch.nn.functional.pad(target["masks"], (0, size[1] - width, 0, size[0] - height))
        target = {**target, "masks": masks}
    return canvas, target


def _moved(image: Tensor, target: Target, whole: Size, corner: Size, crop: Size) -> tuple[Tensor, Target]:
    """An image and its objects resized to `whole`, and from there on cropped. What is outside is left out."""
    height, width = image.shape[-2:]
    image = functional.crop(functional.resize(image, list(whole), antialias=True), *corner, *crop)
    factor = torch.tensor([whole[1] / width, whole[0] / height] * 2)
    boxes = target["boxes"] * factor - torch.tensor([corner[1], corner[0]] * 2)  # (N, 4)
    clipped = boxes.clamp(min=0).minimum(torch.tensor([crop[1], crop[0]] * 2))
    found = dict(target)
    keep = (clipped[:, 2:] > clipped[:, :2]).all(1)
    if "masks" in target:
        rows = _nearest(height, whole[0], corner[0], crop[0])
        cols = _nearest(width, whole[1], corner[1], crop[1])
        found["masks"] = target["masks"][:, rows][:, :, cols]  # (N, h, w)
        clipped = _tightened(clipped, found["masks"], ((clipped - boxes).abs() > _ROUNDING).any(1))
        keep &= found["masks"].flatten(1).bool().any(1)
    found["boxes"] = clipped
    found["area"] = target["area"] * factor[0] * factor[1]
    return image, {name: value[keep] for name, value in found.items()}


def _finished(image: Tensor, target: Target, flips: bool) -> tuple[Tensor, Target]:
    """From uint8 to float32 from 0 to 1, left to right if asked for, without objects that are too small by now."""
    image, boxes = functional.to_dtype(image, torch.float32, scale=True), target["boxes"]
    keep = (boxes[:, 2:] - boxes[:, :2]).amin(1) >= _SMALLEST
    target = {name: value[keep] for name, value in target.items()}
    if not flips:
        return image, target
    left, top, right, bottom = target["boxes"].unbind(1)
    flipped = {"boxes": torch.stack([image.shape[-1] - right, top, image.shape[-1] - left, bottom], dim=1)}
    if "masks" in target:
        flipped["masks"] = target["masks"].flip(-1)
    return image.flip(-1), target | flipped


def _nearest(side: int, whole: int, first: int, count: int) -> Tensor:
    """The nearest original pixel of each of `count` pixels, from `first` on, of a side resized to `whole`."""
    # centres of pixels, as resizing takes them: masks stay where the pixels of the image are
    places = (torch.arange(first, first + count, dtype=torch.float64) + 0.5) * (side / whole)
    return places.long().clamp(max=side - 1)


def _tightened(boxes: Tensor, masks: Tensor, is_cut: Tensor) -> Tensor:
    """Boxes (N, 4) that are cut, drawn together around what is left of their masks (N, h, w)."""
    boxes = boxes.clone()
    for place in is_cut.nonzero().flatten().tolist():
        rows, cols = masks[place].any(1).nonzero(), masks[place].any(0).nonzero()
        if len(rows):
            around = torch.stack([cols[0], rows[0], cols[-1] + 1, rows[-1] + 1]).flatten().to(boxes)
            low, high = boxes[place, :2].maximum(around[:2]), boxes[place, 2:].minimum(around[2:])
            boxes[place] = torch.cat([low, high])
    return boxes
