"""Images at their own width / height: the area of a training step's size, in whole patches, nothing squeezed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image
from torch import Tensor

from anyres.data.augment import TrainAugment
from anyres.data.transforms import resize_and_crop, to_tensor, train_transform
from anyres.sizes import Size

MOST = 4
"""Longest side in shortest sides; what is longer still is cropped."""


def whole_patch_size(size: Size, image: Size, patch_size: int) -> Size:
    """(height, width) of whole patches with the area of `size` and about the shape of `image`, both (height, width).

    The short side is rounded to whole patches first and the long side to what then comes nearest to the area, so that
    images of nearly one shape share a size, those that are nearly square a square, and an image on its side has its
    size on its side.
    """
    patches = size[0] * size[1] / patch_size**2
    height, width = image
    ratio = min(max(image) / min(image), MOST)
    square = max(1, round(math.sqrt(patches)))
    short = max(1, round(math.sqrt(patches / ratio)))
    long = square if short == square else min(max(short, round(patches / short)), MOST * short)
    rows, cols = (short, long) if height <= width else (long, short)
    return rows * patch_size, cols * patch_size


@dataclass(frozen=True, kw_only=True)
class OwnAspectCrop:
    """Random crop of a Pillow image to (C, H_i, W_i) float32 of `whole_patch_size`, for training.

    The crop has the shape of the result times the augmentation's `ratio`, and else is that of `train_transform`.
    """

    size: Size
    mean: Sequence[float]
    std: Sequence[float]
    patch_size: int
    augment: TrainAugment

    def __call__(self, image: Image.Image) -> Tensor:
        size = whole_patch_size(self.size, (image.height, image.width), self.patch_size)
        low, high = (factor * size[1] / size[0] for factor in self.augment.ratio)
        return train_transform(size, replace(self.augment, ratio=(low, high)), self.mean, self.std)(image)


@dataclass(frozen=True, kw_only=True)
class OwnAspect:
    """A Pillow image as (C, H_i, W_i) float32 of `whole_patch_size`, bicubic; what rounding leaves over is cropped."""

    size: Size
    mean: Sequence[float]
    std: Sequence[float]
    patch_size: int

    def __call__(self, image: Image.Image) -> Tensor:
        size = whole_patch_size(self.size, (image.height, image.width), self.patch_size)
        return to_tensor(resize_and_crop(image, size, 1.0), self.mean, self.std)
