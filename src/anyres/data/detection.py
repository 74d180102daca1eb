"""Batches for training a detector, a pure function of (seed, step), and images in order for measuring it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from anyres.data.batches import Skipped
from anyres.data.coco import CocoImages, Target
from anyres.data.decode import MAX_PIXELS, check_max_pixels
from anyres.data.loader import permutation
from anyres.data.schedule import Schedule, Size, key
from anyres.data.workers import Numbered, Reader, check_counts, run_in_order, seeded
from anyres.errors import UnreadableImageError

_SMALLEST = 1.0  # pixels; what remains of an object with a shorter side is not learned
_ROUNDING = 0.01  # pixels


@dataclass(frozen=True)
class DetectionBatch:
    """One training step's images, all of one size, and what is in them."""

    step: int
    size: Size
    images: Tensor
    """(B, C, H, W) float32 from 0 to 1"""
    targets: list[Target]
    """one for each image, without crowds"""
    skipped: list[Skipped]
    """files that could not be read, and why; another image stands in their place"""

    @property
    def labels(self) -> Tensor:
        """(B,) int64: how many objects each image has."""
        return torch.tensor([len(target["labels"]) for target in self.targets])


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
        if not 0 <= self.hflip <= 1:
            raise ValueError(f"hflip={self.hflip} given: allowed is a probability, 0 to 1")

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
        corner = int(down * (whole[0] - crop[0] + 1)), int(across * (whole[1] - crop[1] + 1))
        flips = flip < self.hflip

        image = functional.resize(image, list(whole), antialias=True)
        image = functional.to_dtype(functional.crop(image, *corner, *crop), torch.float32, scale=True)
        image = image.flip(-1) if flips else image
        canvas = torch.tensor(fill)[:, None, None].repeat(1, *size)  # (C, H, W)
        canvas[:, : crop[0], : crop[1]] = image
        return canvas, _moved(target, (height, width), whole, corner, crop, flips, size)


def _moved(target: Target, size: Size, whole: Size, corner: Size, crop: Size, flips: bool, canvas: Size) -> Target:
    """The objects of an image that was resized from `size` to `whole`, cropped, flipped and padded to `canvas`."""
    factor = torch.tensor([whole[1] / size[1], whole[0] / size[0]] * 2)
    boxes = target["boxes"] * factor - torch.tensor([corner[1], corner[0]] * 2)  # (N, 4)
    if flips:
        boxes = torch.stack([crop[1] - boxes[:, 2], boxes[:, 1], crop[1] - boxes[:, 0], boxes[:, 3]], dim=1)
    clipped = boxes.clamp(min=0).minimum(torch.tensor([crop[1], crop[0]] * 2))
    found = dict(target)
    if "masks" in target:
        rows = _nearest(size[0], whole[0], corner[0], crop[0])
        cols = _nearest(size[1], whole[1], corner[1], crop[1])
        masks = target["masks"][:, rows][:, :, cols.flip(0) if flips else cols]  # (N, h, w)
        found["masks"] = torch.nn.functional.pad(masks, (0, canvas[1] - crop[1], 0, canvas[0] - crop[0]))
        clipped = _tightened(clipped, masks, ((clipped - boxes).abs() > _ROUNDING).any(1))
    found["boxes"] = clipped
    found["area"] = target["area"] * factor[0] * factor[1]
    keep = (clipped[:, 2:] - clipped[:, :2]).amin(1) >= _SMALLEST
    if "masks" in found:
        keep &= found["masks"].flatten(1).bool().any(1)
    return {name: value[keep] for name, value in found.items()}


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


class DetectionStream:
    """Endless training batches, each a pure function of (seed, step, position in the batch), as `TrainingStream`.

    An unreadable file, or one of another size than its annotations say, is replaced by the next good one and reported;
    `strict` raises instead.
    """

    def __init__(
        self,
        data: CocoImages,
        *,
        batch_size: int,
        schedule: Schedule,
        jitter: ScaleJitter,
        fill: Sequence[float],
        seed: int,
        num_workers: int = 0,
        max_pixels: int = MAX_PIXELS,
        strict: bool = False,
    ) -> None:
        check_counts(batch_size, num_workers)
        check_max_pixels(max_pixels)
        self.data, self.batch_size, self.schedule, self.jitter = data, batch_size, schedule, jitter
        self.fill, self.seed, self.num_workers, self.strict = tuple(fill), seed, num_workers, strict
        self._read = AnnotatedReader(data, max_pixels, len(self.fill))

    def batches(self, start_step: int, stop_step: int) -> Iterator[DetectionBatch]:
        """The batches of steps start_step ... stop_step - 1."""
        if not 0 <= start_step <= stop_step:
            raise ValueError(f"steps {start_step} to {stop_step} given: allowed is 0 <= start_step <= stop_step")
        return run_in_order(Numbered(self.batch), range(start_step, stop_step), self.num_workers)

    def batch(self, step: int) -> DetectionBatch:
        """The batch of one step, made in this process."""
        (size,) = self.schedule.sizes_at(step)
        images, targets = [], []
        skipped: list[Skipped] = []
        for position in range(self.batch_size):
            image, index = self._sample(step * self.batch_size + position, skipped)
            with seeded(key(self.seed, step, position)):
                moved, target = self.jitter(image, self.data.target(index, crowds=False), size, self.fill)
            images.append(moved)
            targets.append(target)
        return DetectionBatch(step, size, torch.stack(images), targets, skipped)

    def _sample(self, entry: int, skipped: list[Skipped]) -> tuple[Tensor, int]:
        """The image of an entry of the endless stream and its place; what had to be passed over is added."""
        count = len(self.data)
        epoch, place = divmod(entry, count)
        first = permutation(self.seed, epoch, count)[place]
        for offset in range(count):
            index = (first + offset) % count
            try:
                return self._read(index), index
            except UnreadableImageError as error:
                if self.strict:
                    raise
                skipped.append((self.data.paths[index], str(error)))
        raise ValueError(f"none of the {count} images of {self.data.file} can be read; the first: {skipped[0][1]}")


class AnnotatedReader:
    """Images by index, (C, H, W) uint8. UnreadableImageError also for another size than the annotations say."""

    def __init__(self, data: CocoImages, max_pixels: int = MAX_PIXELS, channels: int = 3) -> None:
        self.data, self._read = data, Reader(data.paths, max_pixels, channels)

    def __call__(self, index: int) -> Tensor:
        image, known = self._read(index), self.data.images[index].size
        if (image.height, image.width) != known:
            raise UnreadableImageError(
                f"{self.data.paths[index]}: {image.height}x{image.width} pixels, annotated as {known[0]}x{known[1]}"
            )
        return functional.pil_to_tensor(image)


def spread(count: int, limit: int | None) -> list[int]:
    """All places below `count`, or `limit` of them spread evenly."""
    if limit is None or limit >= count:
        return list(range(count))
    return [(2 * i + 1) * count // (2 * limit) for i in range(limit)]
