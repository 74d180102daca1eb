"""What a predictor is given: files and folders, Pillow images, arrays and tensors, all read as one kind of image."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from anyres.data.decode import MAX_PIXELS, convert_image, read_image, stored_size
from anyres.data.folder import find_images
from anyres.errors import SourceError, UnreadableImageError
from anyres.sizes import Size
from anyres.streaming.source_array import ArraySource
from anyres.streaming.sources import OpenSource, is_read_in_parts, open_source

Given = Path | str | Image.Image | np.ndarray | Tensor
"""One of them: a file or folder, a Pillow image, an array (H, W, C) or (H, W) uint8, or a tensor (C, H, W), uint8 or
floating point from 0 to 1."""

Failure = (UnreadableImageError, SourceError)
"""What is wrong with an image, and not with the settings."""

_CHANNELS = (1, 3, 4)  # grey, RGB, and RGB with an opacity


@dataclass(frozen=True)
class Input:
    """One image among those that a predictor is given. What reads it raises one of `Failure`, naming it."""

    index: int
    """Its place among them."""
    path: Path | None
    pixels: Image.Image | np.ndarray | Tensor | None = None
    """Of what is no file."""

    @property
    def name(self) -> Path | str:
        """For messages."""
        return f"input {self.index}" if self.path is None else self.path

    def stored_size(self) -> Size:
        """(height, width) in pixels before it is turned upright."""
        if self.path is not None:
            return stored_size(self.path)
        if isinstance(self.pixels, Image.Image):
            return self.pixels.height, self.pixels.width
        assert self.pixels is not None
        height, width = self.pixels.shape[-2:] if isinstance(self.pixels, Tensor) else self.pixels.shape[:2]
        return int(height), int(width)

    @property
    def is_read_in_parts(self) -> bool:
        """Whether a region of it can be had without decoding all of it."""
        if self.path is not None:
            return is_read_in_parts(self.path)
        if isinstance(self.pixels, Tensor):
            return not self.pixels.is_floating_point()  # of which all is made whole numbers
        return isinstance(self.pixels, np.ndarray)

    def read(self, *, max_pixels: int, channels: int) -> Image.Image:
        """All of it, as `read_image` says."""
        if self.path is not None:
            return read_image(self.path, max_pixels=max_pixels, channels=channels)
        return convert_image(self._picture(), self.name, max_pixels=max_pixels, channels=channels)

    def open(self) -> OpenSource:
        """For reading it region by region."""
        if self.path is None:
            is_picture = isinstance(self.pixels, Image.Image)
            pixels = np.asarray(self.read(max_pixels=MAX_PIXELS, channels=3)) if is_picture else self._array()
            return ArraySource(pixels, str(self.name))
        try:
            return open_source(self.path)
        except Failure:
            raise
        except (ValueError, ImportError, OSError) as error:
            raise UnreadableImageError(self.path, str(error).removeprefix(f"{self.path}: ")) from error

    def _picture(self) -> Image.Image:
        if isinstance(self.pixels, Image.Image):
            return self.pixels
        pixels = self._array()  # (H, W, C) or (H, W)
        return Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)

    def _array(self) -> np.ndarray:
        """(H, W, C) or (H, W) uint8, of an array or a tensor."""
        if isinstance(self.pixels, np.ndarray):
            return self.pixels
        assert isinstance(self.pixels, Tensor)
        values = self.pixels.detach()
        if values.is_floating_point():
            low, high = (float(value) for value in values.aminmax())
            if not (low >= 0 and high <= 1):  # NaN is neither
                raise UnreadableImageError(
                    self.name, f"values from {low:g} to {high:g}; allowed in floating point: 0 to 1, not normalised"
                )
            values = values.float().mul(255).round().to(torch.uint8)
        return np.ascontiguousarray(values.cpu().permute(1, 2, 0).numpy())


def as_inputs(given: Given | Iterable[Given]) -> list[Input]:
    """Every image that is given, those of a folder sorted, in its place.

    Raises:
        ValueError: a path that does not exist, a folder without images, or what is no image.
    """
    single = isinstance(given, str | os.PathLike | Image.Image | np.ndarray | Tensor)
    found: list[Input] = []
    for each in [given] if single else given:  # type: ignore[union-attr]
        if isinstance(each, str | os.PathLike):
            found += [Input(len(found) + place, path) for place, path in enumerate(find_images([Path(each)]))]
        else:
            found.append(Input(len(found), None, _checked(each, len(found))))
    return found


def _checked(pixels: object, index: int) -> Image.Image | np.ndarray | Tensor:
    if isinstance(pixels, Image.Image):
        return pixels
    what = f"input {index} is a {type(pixels).__name__}"
    if isinstance(pixels, np.ndarray | Tensor):
        what += f" {tuple(pixels.shape)} {str(pixels.dtype).removeprefix('torch.')}"
        if 0 not in pixels.shape and _is_image(pixels):
            return pixels
    raise ValueError(
        f"{what}; allowed: a path, a Pillow image, an array (H, W, C) or (H, W) of uint8, and a tensor (C, H, W) of "
        f"uint8 or floating point, with {', '.join(map(str, _CHANNELS))} channels"
    )


def _is_image(pixels: np.ndarray | Tensor) -> bool:
    if isinstance(pixels, Tensor):
        is_known = pixels.dtype == torch.uint8 or pixels.is_floating_point()
        return is_known and pixels.ndim == 3 and pixels.shape[0] in _CHANNELS
    return pixels.dtype == np.uint8 and (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in _CHANNELS))
