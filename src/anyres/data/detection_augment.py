"""What is done to a training image of detection and its objects: they are resized, cropped and flipped together."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from anyres.data.coco import Target
from anyres.sizes import Size

_SMALLEST = 1.0  # pixels; what remains of an object with a shorter side is not learned
_ROUNDING = 0.01  # pixels


@dataclass(frozen=True, kw_only=True)
class ScaleJitter:
    """Large-scale jitter (arXiv 2012.07177): a random scale, a random crop where the image is then too large, padding
    at the right and below where it is too small, and a flip left to right.

    Draws from torch's generator: whoever wants it repeatable seeds it.
    """

    scale: tuple[float, float] = (0.1, 2.0)
    """interval of the scale, uniform; at 1 the image just fits into the step's size"""
    hflip: float = 0.5
    """probability of a flip left to right"""

    def __post_init__(self) -> None:
        low, high = self.scale
        if not 0 < low <= high < float("inf"):
            raise ValueError(f"scale=({low}, {high}) given: allowed is 0 < low <= high, such as (0.1, 2.0)")
        _check_probability("hflip", self.hflip)

    def __call__(self, image: Tensor, target: Target, size: Size, fill: Sequence[float]) -> tuple[Tensor, Target]:
        """An image (C, H, W) uint8 and its objects -> (C, *size) float32 from 0 to 1 and the objects still in it.

        A box that the crop cuts becomes that of what is left of its mask.

        Args:
            fill: colour of the padding, from 0 to 1, one entry a channel.
        """
        (height, width), (low, high) = image.shape[-2:], self.scale
        scale, down, across, flip = torch.rand(4, dtype=torch.float64).tolist()
        factor = (low + scale * (high - low)) * min(size[0] / height, size[1] / width)
        whole = max(1, round(height * factor)), max(1, round(width * factor))
        crop = min(whole[0], size[0]), min(whole[1], size[1])
        corner = _corner(whole, crop, (down, across))
        flips = flip < self.hflip
        image, target = _moved(image, target, whole, corner, crop)
        return on_canvas(*_finished(image, target, flips), size, fill)


@dataclass(frozen=True, kw_only=True)
class MultiScale:
    """The multi-scale training of DETR (arXiv 2005.12872) as ViT-Adapter and its kin use it for Mask R-CNN.

    The short side is resized to one of the sides 480, 512, ... up to the shorter side of the step's size, unless that
    made the long side longer than the step's longer one: with a size of 800x1333 the recipe's, which in validation is
    the usual size. With probability 1/2 the image is resized to a short side of 400, 500 or 600 and cropped before.
    Then at most 1024x1024 pixels are cut out, and it may be flipped left to right. So every image has a size of its
    own. The authors complete a batch to its largest image; so does `DetectionStream`, hence the padding is the same
    however a batch is cut into pieces.

    Draws from torch's generator: whoever wants it repeatable seeds it.
    """

    shortest: int = 480
    """least short side in pixels"""
    spacing: int = 32
    """pixels from one short side to the next"""
    crop_prob: float = 0.5
    """probability of a crop before that"""
    before: tuple[int, ...] = (400, 500, 600)
    """short sides that an image is resized to before this crop"""
    crop: tuple[int, int] = (384, 600)
    """interval of the sides of this crop, height and width drawn apart, as far as the image goes"""
    most: int = 1024
    """largest side of what remains in the end, cut out at random"""
    hflip: float = 0.5
    """probability of a flip left to right"""

    def __post_init__(self) -> None:
        _check_probability("crop_prob", self.crop_prob)
        _check_probability("hflip", self.hflip)
        for name in ("shortest", "spacing", "most"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} given: allowed are whole numbers of pixels from 1 up")
        if not self.before or min(self.before) < 1:
            raise ValueError(f"before={self.before} given: allowed are one or more short sides in pixels from 1 up")
        if not 1 <= self.crop[0] <= self.crop[1]:
            raise ValueError(f"crop={self.crop} given: allowed is 1 <= low <= high, such as (384, 600)")
        for name in ("before", "crop"):
            if not self.crop_prob and getattr(self, name) != getattr(MultiScale, name):
                raise ValueError(f"{name}={getattr(self, name)} given, but it has no effect because crop_prob is 0")

    def sides(self, size: Size) -> range:
        """The short sides that are drawn at a step of this size, all alike."""
        return range(self.shortest, min(size) + 1, self.spacing)

    def check(self, size: Size) -> None:
        """ValueError for a step's size that leaves no side to draw, or that makes a setting idle."""
        if min(size) < self.shortest:
            raise ValueError(
                f"size {size[0]}x{size[1]} given: the short sides of multi-scale training begin at {self.shortest}; "
                f"allowed: sizes from there up, such as 800x1333; or shortest={min(size)}"
            )
        if self.most != MultiScale.most and self.most >= max(size):
            raise ValueError(f"most={self.most} given, but it has no effect because no side exceeds {max(size)}")

    def __call__(self, image: Tensor, target: Target, size: Size, fill: Sequence[float]) -> tuple[Tensor, Target]:
        """An image (C, H, W) uint8 and its objects -> (C, h, w) float32 from 0 to 1 and the objects still in it.

        A box that a crop cuts becomes that of what is left of its mask.

        Args:
            size: of the step: its shorter side bounds short sides, its longer one long sides.
            fill: not used; nothing is padded.
        """
        draws = torch.rand(10, dtype=torch.float64).tolist()
        if draws[0] < self.crop_prob:
            whole = fitted(image.shape[-2:], _one_of(self.before, draws[1]), max(size))
            crop = _between(self.crop, whole[0], draws[2]), _between(self.crop, whole[1], draws[3])
            image, target = _moved(image, target, whole, _corner(whole, crop, draws[4:6]), crop)
        whole = fitted(image.shape[-2:], _one_of(self.sides(size), draws[6]), max(size))
        crop = min(whole[0], self.most), min(whole[1], self.most)
        image, target = _moved(image, target, whole, _corner(whole, crop, draws[7:9]), crop)
        return _finished(image, target, draws[9] < self.hflip)


def fitted(size: Sequence[int], short: int, long: int) -> Size:
    """The size of an image whose short side becomes `short`, or less where the long side would exceed `long`."""
    height, width = size
    factor = min(short / min(height, width), long / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


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


def _check_probability(name: str, given: float) -> None:
    if not 0 <= given <= 1:
        raise ValueError(f"{name}={given} given: allowed is a probability, 0 to 1")
