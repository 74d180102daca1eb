"""Training batches of images with masks, a pure function of (seed, step): scaled, cropped, flipped and tinted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from anyres.data.augment import SegmentAugment
from anyres.data.samples import Samples, batches_of_steps, jitter_keys
from anyres.data.schedule import Schedule
from anyres.data.segmentation import IGNORE, Labelled, SegmentationFolder
from anyres.data.share import ALL, Share
from anyres.data.transforms import to_tensor
from anyres.data.workers import check_counts
from anyres.errors import Unreadable
from anyres.seeds import key, seeded
from anyres.sizes import Size

LONGEST = 4
"""Longest side of a resized image, in short sides of the size asked for (mmsegmentation: 2048 for 512)."""

_TRIES = 10  # crops that may be drawn until one is not of a single class


@dataclass(frozen=True, kw_only=True)
class SegmentationBatch:
    """One training step's images and masks, all of one size."""

    step: int
    size: Size
    images: Tensor
    """(B, C, H, W) float32, normalised; 0 where an image is smaller."""
    labels: Tensor
    """(B, H, W) uint8, IGNORE where nothing is known or an image is smaller."""
    keys: Tensor
    """(B,) int64, from which the model draws its positional jitter."""
    skipped: list[Unreadable]
    """Files that could not be read, and why; another image stands in their place."""


class SegmentationStream:
    """Endless training batches, each a pure function of (seed, step, position in the batch), as `TrainingStream`.

    An image that cannot be read, or has labels that are not allowed, is replaced by the next one in folder order and
    reported; `strict` raises instead.
    """

    def __init__(
        self,
        folder: SegmentationFolder,
        *,
        batch_size: int,
        schedule: Schedule,
        augment: SegmentAugment,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        num_workers: int = 0,
        strict: bool = False,
        share: Share = ALL,
    ) -> None:
        check_counts(batch_size, num_workers)
        self.folder, self.batch_size, self.schedule, self.augment = folder, batch_size, schedule, augment
        self.mean, self.std = tuple(mean), tuple(std)
        self.seed, self.num_workers = seed, num_workers
        self.positions = share.positions(batch_size)
        self._samples = Samples(self._read, folder.paths, f"in {folder.root}", seed, strict)

    def _read(self, index: int) -> Labelled:
        return self.folder.read(index, len(self.mean))

    def batches(self, start_step: int, stop_step: int) -> Iterator[SegmentationBatch]:
        """The batches of steps start_step ... stop_step - 1."""
        return batches_of_steps(self.batch, start_step, stop_step, self.num_workers)

    def batch(self, step: int) -> SegmentationBatch:
        """The batch of one step, made in this process."""
        (size,) = self.schedule.sizes_at(step)
        images, labels, skipped = [], [], []
        for position in self.positions:
            found, _, failed = self._samples.at(step * self.batch_size + position)
            with seeded(key(self.seed, step, position)):
                image, mask = augmented(found, size, self.augment, self.mean, self.std)
            images.append(image)
            labels.append(mask)
            skipped += failed
        return SegmentationBatch(
            step=step,
            size=size,
            images=torch.stack(images),
            labels=torch.stack(labels),
            keys=jitter_keys(self.seed, step, self.positions),
            skipped=skipped,
        )


def augmented(
    found: Labelled, size: Size, augment: SegmentAugment, mean: Sequence[float], std: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """A random crop of an image and of its mask: (C, H, W) float32 and (H, W) uint8 at `size`.

    Draws from torch's generator.
    """
    low, high = augment.scale
    whole = resized_labelled(
        found, bounded_aspect_size(found.image.size[::-1], min(size), low + (high - low) * _uniform())
    )
    whole = _cropped(whole, size, augment.cat_max_ratio)
    image, labels = whole.image, whole.labels
    if _uniform() < augment.hflip:
        image, labels = (each.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for each in (image, labels))
    if augment.photometric:
        image = _photometric()(image)
    height, width = size
    # 0 is the mean colour after normalising, which is what padding is to look like
    pixels = torch.zeros(len(mean), height, width)
    target = torch.full((height, width), IGNORE, dtype=torch.uint8)
    pixels[:, : image.height, : image.width] = to_tensor(image, mean, std)
    target[: image.height, : image.width] = torch.from_numpy(np.array(labels))
    return pixels, target


def bounded_aspect_size(size: Size, short_side: int, factor: float = 1.0) -> Size:
    """(height, width) with the aspect of an image of this size, this short side and at most four times that long, times
    a factor."""
    scale = factor * short_side * min(1 / min(size), LONGEST / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def resized_labelled(found: Labelled, size: Size) -> Labelled:
    """To (height, width): the image bilinear, antialiased where made smaller, each label that of the nearest pixel."""
    height, width = size
    return Labelled(
        found.image.resize((width, height), Image.Resampling.BILINEAR),
        found.labels.resize((width, height), Image.Resampling.NEAREST),
    )


def _cropped(found: Labelled, size: Size, most: float) -> Labelled:
    """A random part of at most (height, width), drawn anew while one class has too large a share of it."""
    height, width = (min(side, own) for side, own in zip(size, found.labels.size[::-1], strict=True))
    box = (0, 0, width, height)
    for _ in range(_TRIES):
        top = int(_uniform() * (found.labels.height - height + 1))
        left = int(_uniform() * (found.labels.width - width + 1))
        box = (left, top, left + width, top + height)
        if most == 1 or _largest_share(found.labels.crop(box)) < most:
            break
    return Labelled(found.image.crop(box), found.labels.crop(box))


def _largest_share(labels: Image.Image) -> float:
    """Of any class among the pixels whose class is known; 1 if there are none."""
    counts = np.bincount(np.asarray(labels).reshape(-1), minlength=IGNORE + 1)[:IGNORE]
    return float(counts.max() / counts.sum()) if counts.sum() else 1.0


@lru_cache(maxsize=1)
def _photometric() -> v2.Transform:
    changes = ({"brightness": 0.125}, {"contrast": 0.5}, {"saturation": 0.5}, {"hue": 0.05})
    return v2.Compose([v2.RandomApply([v2.ColorJitter(**change)], p=0.5) for change in changes])


def _uniform() -> float:
    """In [0, 1), in double precision."""
    return float(torch.rand((), dtype=torch.float64))
