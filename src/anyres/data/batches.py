"""What loaders hand on: batches of images of one size, or of several."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from anyres.errors import Unreadable
from anyres.sizes import Size


@dataclass(frozen=True, kw_only=True)
class View:
    """The images of a step at one size, or of one area."""

    images: Tensor | list[Tensor]
    """(B, C, H, W) float32, normalised; or, with `own_aspect`, a list of (C, H_i, W_i) where shapes differ."""
    keys: Tensor
    """(B,) int64, from which the model draws its positional jitter and what it hides."""

    @property
    def stacked(self) -> Tensor:
        """(B, C, H, W), the images of a stream without `own_aspect`."""
        assert isinstance(self.images, Tensor)
        return self.images


@dataclass(frozen=True, kw_only=True)
class Batch(View):
    """One training step's images, all of one size, or of one area."""

    step: int
    size: Size
    labels: Tensor
    """(B,) int64."""
    skipped: list[Unreadable]
    """Files that could not be read, and why; another image stands in their place."""
    replicas: tuple[View, ...] = ()
    """The same images again at the step's other sizes, in falling area, each augmented anew."""


@dataclass(frozen=True, kw_only=True)
class EvalBatch:
    """Some images of a folder, in its order. Unreadable ones are left out and listed."""

    images: Tensor | list[Tensor]
    """(B, C, H, W) float32, or a list of (C, H_i, W_i) where sizes differ."""
    labels: Tensor
    """(B,) int64."""
    indices: Tensor
    """(B,) int64, places in folder.paths."""
    skipped: list[Unreadable] = field(default_factory=list)


def stacked_if_alike(images: list[Tensor]) -> Tensor | list[Tensor]:
    """(C, H_i, W_i) of one shape as (B, C, H, W); others as they are."""
    return torch.stack(images) if len({image.shape for image in images}) == 1 else images


def on_device(images: Tensor | list[Tensor], device: torch.device) -> Tensor | list[Tensor]:
    """Images on a device."""
    if isinstance(images, Tensor):
        return images.to(device, non_blocking=True)
    return [image.to(device, non_blocking=True) for image in images]
