"""Images of any mix of sizes made the input of a model that sees all of each."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from anyres.data.transforms import aspect_size, eval_transform, to_tensor
from anyres.models.config import ViTARConfig
from anyres.models.images import Images
from anyres.sizes import Size, parse_size
from anyres.streaming.reader import RegionReader
from anyres.streaming.sources import OpenSource


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How an image becomes the input of a model."""

    model: ViTARConfig
    size: Size | None = None
    """Every image is made exactly this high and wide; None: it keeps its aspect."""
    short_side: int | None = None
    """Pixels of the shorter side; None: every image at its own size."""
    least_side: int = 1
    """Images whose shorter side has fewer pixels are enlarged to them."""

    def __call__(self, image: Image.Image) -> Tensor:
        """Normalised, (C, H, W)."""
        mean, std = self.model.mean, self.model.std
        if self.size is not None:
            return eval_transform(self.size, mean, std, squash=True)(image)
        side = self._side((image.height, image.width))
        if side is not None:
            return eval_transform((side, side), mean, std, keep_aspect=True)(image)
        return to_tensor(image, mean, std)

    def seen_size(self, size: Size) -> Size:
        """(height, width) that an image of (height, width) is given to the model at."""
        if self.size is not None:
            return self.size
        side = self._side(size)
        return size if side is None else aspect_size(size, side)

    def _side(self, size: Size) -> int | None:
        """Pixels that the shorter side is brought to, None if it stays."""
        return self.least_side if self.short_side is None and min(size) < self.least_side else self.short_side

    def from_source(self, source: OpenSource) -> Tensor:
        """The same for all of a source, with the values that `stream` gives the model; SourceError as it says."""
        config = self.model
        reader = RegionReader(source, mean=config.mean, std=config.std, channels=config.in_channels)
        image = reader.read(0, 0, *source.size)  # (1, C, H, W)
        seen = self.seen_size(source.size)
        return (image if seen == source.size else F.interpolate(image, seen, mode="bicubic", antialias=True))[0]


def preparation(model: ViTARConfig, size: str | None, short_side: int | None, least_side: int = 1) -> Preparation:
    """For options as they are written. ValueError unless the model takes images in files."""
    if model.in_channels not in (1, 3):
        raise ValueError(f"the model takes {model.in_channels} channels: images have 1 or 3")
    exactly = None if size is None else parse_size(size)
    return Preparation(model=model, size=exactly, short_side=short_side, least_side=least_side)


def as_images(images: Sequence[Tensor]) -> Images:
    """Images (C, H_i, W_i) as a model takes them: (B, C, H, W) where all sizes agree, else a list."""
    return torch.stack(list(images)) if len({image.shape for image in images}) == 1 else list(images)
