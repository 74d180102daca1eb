"""Pillow images -> normalised float tensors: seeded augmentation for training, one fixed protocol for evaluation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from anyres.data.augment import TrainAugment
from anyres.sizes import Size, parse_size

Transform = Callable[[Image.Image], Tensor]

_MODES = {1: "L", 3: "RGB"}


def train_transform(size: Size, augment: TrainAugment, mean: Sequence[float], std: Sequence[float]) -> Transform:
    """Random crop of a Pillow image to (C, H, W) float32 at `size`, C = len(mean).

    The augmentation's `ratio` is that of a crop to `size`: at 1 nothing is squashed, whatever the shape of `size`.
    Where no such crop was found in ten tries, the largest one in the middle is taken.
    Draws from the generators of `random`, `numpy` and `torch`: whoever wants it repeatable seeds all three.
    """
    return _train_transform(parse_size(size), augment, tuple(mean), tuple(std))


@lru_cache(maxsize=256)
def _train_transform(size: Size, augment: TrainAugment, mean: tuple[float, ...], std: tuple[float, ...]) -> Transform:
    from timm.data import auto_augment, create_transform  # a second, which prediction does not need

    jitter: Any = (
        augment.color_jitter or None
    )  # timm takes None for no such step, though its annotation does not say so
    low, high = (factor * size[1] / size[0] for factor in augment.ratio)
    transform = create_transform(
        input_size=(len(mean), *size), is_training=True, scale=augment.scale, ratio=(low, high),
        hflip=augment.hflip, vflip=augment.vflip, color_jitter=jitter,
        auto_augment=augment.auto_augment, re_prob=augment.erasing, re_mode="pixel",
        interpolation=augment.interpolation, mean=mean, std=std,
    )  # fmt: skip
    for step in transform.transforms:
        for operation in (*getattr(step, "ops", ()), *chain(*getattr(step, "policy", ()))):
            if operation.aug_fn is auto_augment.posterize:
                operation.aug_fn = _posterize
    return transform


def _posterize(image: Image.Image, bits_to_keep: int, **_: object) -> Image.Image:
    """timm's operation, which asks for 0 bits at the highest magnitude; Pillow 13 refuses that, so one bit is kept."""
    from timm.data import auto_augment

    return auto_augment.posterize(image, max(bits_to_keep, 1))


def check_statistics(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raises ValueError unless there are a mean and a deviation for each channel that image files are read with."""
    if len(mean) not in _MODES or len(std) != len(mean):
        raise ValueError(f"mean and std have {len(mean)} and {len(std)} entries; allowed: 1 and 1 (grey), or 3 and 3")


def to_tensor(image: Image.Image, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """A Pillow image -> (C, H, W) float32, (value / 255 - mean) / std; greyscale for one mean, RGB for three."""
    check_statistics(mean, std)
    # channel by channel: to transpose the whole image takes several times as long as all the rest
    planes = [np.asarray(plane) for plane in image.convert(_MODES[len(mean)]).split()]
    values = torch.from_numpy(np.stack(planes)).float()  # (C, H, W), a copy of its own
    # (value - 255 * mean) / (255 * std): one pass less over the image than dividing by 255 first
    scale = 255 * torch.tensor(std, dtype=torch.float32)[:, None, None]
    return values.sub_(255 * torch.tensor(mean, dtype=torch.float32)[:, None, None]).div_(scale)


@dataclass(frozen=True, kw_only=True)
class EvalTransform:
    """See `eval_transform`; a class so that loader processes can receive it."""

    size: Size
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_ratio: float
    keep_aspect: bool
    squash: bool

    def __call__(self, image: Image.Image) -> Tensor:
        """(C, H, W) float32."""
        image = image.convert(_MODES[len(self.mean)])
        if self.keep_aspect:
            image = resize(image, aspect_size((image.height, image.width), min(self.size)))
        else:
            image = resize(image, self.size) if self.squash else resize_and_crop(image, self.size, self.crop_ratio)
        return to_tensor(image, self.mean, self.std)


def eval_transform(
    size: Size,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    crop_ratio: float = 0.875,
    keep_aspect: bool = False,
    squash: bool = False,
) -> EvalTransform:
    """The evaluation protocol, bicubic with antialiasing throughout: a Pillow image -> (C, H, W) float32.

    Args:
        size: (height, width) of the result in pixels.
        mean, std: one entry per channel, one (greyscale) or three (RGB).
        crop_ratio: for a square size r the short side becomes round(r / crop_ratio) and the centre is cut out; for
            another size the image is scaled until a crop of size / crop_ratio just fits. 1 keeps all of a square image.
        keep_aspect: no crop; the short side becomes min(size), so that results differ in size.
        squash: no crop; straight to `size`, whatever the aspect.

    Raises:
        ValueError: for sizes, ratios and combinations that are not allowed.
    """
    check_statistics(mean, std)
    if not 0 < crop_ratio <= 1:
        raise ValueError(f"crop_ratio is {crop_ratio}; allowed: more than 0 and at most 1, which is no crop")
    if keep_aspect and squash:
        raise ValueError("keep_aspect and squash are both set; allowed: one of them")
    return EvalTransform(
        size=parse_size(size), mean=tuple(mean), std=tuple(std), crop_ratio=crop_ratio, keep_aspect=keep_aspect,
        squash=squash,
    )  # fmt: skip


def resize(image: Image.Image, size: Size) -> Image.Image:
    """To (height, width) pixels, bicubic, antialiased when made smaller."""
    height, width = size
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)


def aspect_size(size: Size, short_side: int) -> Size:
    """(height, width) with the aspect of an image of this size and this many pixels on the shorter side."""
    scale = short_side / min(size)
    return max(short_side, round(size[0] * scale)), max(short_side, round(size[1] * scale))


def resize_and_crop(image: Image.Image, size: Size, crop_ratio: float) -> Image.Image:
    """Scale so that a crop of `size / crop_ratio` just fits, then cut `size` from the centre."""
    height, width = size
    tall, wide = max(height, round(height / crop_ratio)), max(width, round(width / crop_ratio))
    scale = max(tall / image.height, wide / image.width)
    image = resize(image, (max(tall, round(image.height * scale)), max(wide, round(image.width * scale))))
    top, left = (image.height - height) // 2, (image.width - width) // 2
    return image.crop((left, top, left + width, top + height))
