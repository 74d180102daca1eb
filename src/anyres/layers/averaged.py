"""Images with fewer or more pixels along an axis, whole or a stretch of it: what the pyramid merger looks at from afar.

Fewer pixels are area means: pixel i of `target` covers the interval [i, i + 1) * source / target of the source, and a
source pixel counts by how much of it lies there. Where the ratio is whole that is the mean of a box. More pixels are
read bilinearly between the centres of the source's, as `torch.nn.functional.interpolate` reads them.
"""

from functools import lru_cache

import torch
from torch import Tensor


class AxisResize:
    """How an axis of `source` pixels becomes one of `target` pixels."""

    def __init__(self, source: int, target: int) -> None:
        self.source, self.target = source, target
        self.is_mean = target <= source

    def reach(self, start: int, stop: int) -> tuple[int, int]:
        """First source pixel, and the one behind the last, that target pixels `start` to `stop` - 1 are made of."""
        if self.is_mean:
            return start * self.source // self.target, -(-stop * self.source // self.target)
        places, _ = _read_between(self.source, self.target)
        return int(places[0, start]), int(places[1, stop - 1]) + 1

    def apply(self, x: Tensor, dim: int, start: int = 0, stop: int | None = None) -> Tensor:
        """Target pixels `start` to `stop` - 1 along axis `dim`, from exactly the source pixels of their `reach`."""
        stop = self.target if stop is None else stop
        first, last = self.reach(start, stop)
        if x.shape[dim] != last - first:
            raise ValueError(f"axis {dim} has {x.shape[dim]} pixels; pixels {first} to {last} of it are needed.")
        if self.target == self.source:
            return x
        if self.is_mean and self.source % self.target == 0:
            factor = self.source // self.target
            x = x.movedim(dim, 0)
            return (sum((x[place::factor] for place in range(1, factor)), x[::factor]) / factor).movedim(0, dim)
        places, weights = (_means if self.is_mean else _read_between)(self.source, self.target)
        shape = [1] * x.ndim
        shape[dim] = stop - start
        total: Tensor | None = None
        for place, weight in zip(places[:, start:stop] - first, weights[:, start:stop].to(x), strict=True):
            # a pixel of no weight may lie beyond the stretch
            found = x.index_select(dim, place.clamp(0, last - first - 1).to(x.device)) * weight.view(shape)
            total = found if total is None else total + found
        assert total is not None
        return total


@lru_cache(maxsize=64)
def _means(source: int, target: int) -> tuple[Tensor, Tensor]:
    """Places and weights (most pixels, target) of the source pixels that every target pixel is the mean of."""
    most = -(-source // target) + 1
    # in units of 1 / target of a source pixel everything is whole
    start = torch.arange(target) * source
    places = start // target + torch.arange(most)[:, None]  # (most, target)
    overlap = torch.minimum((places + 1) * target, start + source) - torch.maximum(places * target, start)
    weights = overlap.clamp_min(0).double() / source
    needed = int((weights > 0).any(1).sum())
    return places[:needed], weights[:needed]


@lru_cache(maxsize=64)
def _read_between(source: int, target: int) -> tuple[Tensor, Tensor]:
    """Places and weights (2, target) of the source pixels between which every target pixel is read."""
    twice = (2 * torch.arange(target) + 1) * source - target  # the centre, in units of 1 / (2 * target) pixels
    below = torch.div(twice, 2 * target, rounding_mode="floor")
    after = (twice - below * 2 * target).double() / (2 * target)
    places = torch.stack([below, below + 1]).clamp(0, source - 1)
    return places, torch.stack([1 - after, after])


def resize_to(images: Tensor, height: int, width: int) -> Tensor:
    """Images (B, C, H, W) of these pixels, axis by axis; in at least float32."""
    images = images.to(torch.promote_types(images.dtype, torch.float32))
    images = AxisResize(images.shape[-2], height).apply(images, images.ndim - 2)
    return AxisResize(images.shape[-1], width).apply(images, images.ndim - 1)
