"""Image files of any mix of sizes: made a model's input, and gathered into calls of it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from anyres.data.decode import read_image
from anyres.data.transforms import eval_transform, to_tensor
from anyres.errors import UnreadableImageError
from anyres.models.config import ViTARConfig
from anyres.models.images import Images
from anyres.sizes import Size, parse_size
from anyres.streaming.reader import RegionReader
from anyres.streaming.sources import open_source

_BATCH_PIXELS = 2**24  # a group is closed early at this many stored pixels, so that large files do not pile up


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How a file becomes the input of a model."""

    model: ViTARConfig
    size: str | None
    """None: its own size; "224": short side of 224 pixels, aspect kept; "224x320": exactly so"""
    max_pixels: int
    """files with more pixels are not decoded"""

    def check(self, run: Path) -> None:
        """ValueError unless the model, which lies in `run`, takes image files and the size can be read."""
        if self.model.in_channels not in (1, 3):
            raise ValueError(f"the model in {run} takes {self.model.in_channels} channels: image files have 1 or 3")
        if self.size is not None:
            parse_size(self.size)

    @property
    def is_exact(self) -> bool:
        """Whether every image is given the same height and width."""
        return self.size is not None and "x" in self.size.lower()

    def __call__(self, path: Path) -> tuple[Tensor, Size]:
        """The normalised image (C, H, W), and (height, width) of the upright file in pixels.

        Raises UnreadableImageError as `read_image` does.
        """
        image = read_image(path, max_pixels=self.max_pixels, channels=self.model.in_channels)
        mean, std = self.model.mean, self.model.std
        if self.size is None:
            return to_tensor(image, mean, std), (image.height, image.width)
        exact = self.is_exact
        transform = eval_transform(parse_size(self.size), mean, std, squash=exact, keep_aspect=not exact)
        return transform(image), (image.height, image.width)

    def from_source(self, path: Path) -> tuple[Tensor, Size]:
        """The same for a file that `open_source` reads, with the values that `stream` gives the model.

        Raises what `open_source` does, and SourceError.
        """
        with open_source(path) as source:
            height, width = source.size
            reader = RegionReader(source, mean=self.model.mean, std=self.model.std, channels=self.model.in_channels)
            image = reader.read(0, 0, height, width)  # (1, C, H, W)
        if self.size is not None:
            short = min(parse_size(self.size))
            scale = short / min(height, width)
            kept = max(short, round(height * scale)), max(short, round(width * scale))
            asked = parse_size(self.size) if self.is_exact else kept
            image = F.interpolate(image, asked, mode="bicubic", antialias=True)
        return image[0], (height, width)

    def load(self, paths: Sequence[Path]) -> list[tuple[Tensor, Size] | UnreadableImageError]:
        """What calling this gives for each path, or why it cannot."""
        found: list[tuple[Tensor, Size] | UnreadableImageError] = []
        for path in paths:
            try:
                found.append(self(path))
            except UnreadableImageError as error:
                found.append(error)
        return found

    def groups(self, sizes: Sequence[Size], batch_size: int) -> Iterator[list[int]]:
        """Indices of files for one call each, by their stored sizes: equal ones side by side, few where large."""
        asked = 0 if self.size is None else math.prod(parse_size(self.size))
        group: list[int] = []
        pixels = 0
        for (height, width), index in sorted((size, index) for index, size in enumerate(sizes)):
            own = max(height * width, asked)
            if group and (len(group) == batch_size or pixels + own > _BATCH_PIXELS):
                yield group
                group, pixels = [], 0
            group.append(index)
            pixels += own
        if group:
            yield group


def as_images(images: Sequence[Tensor]) -> Images:
    """Images (C, H_i, W_i) as a model takes them: (B, C, H, W) where all sizes agree, else a list."""
    return torch.stack(list(images)) if len({image.shape for image in images}) == 1 else list(images)
