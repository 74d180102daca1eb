"""Images with fewer or more pixels along an axis, whole or a stretch of it: what the pyramid merger looks at from afar.

Fewer pixels are area means: pixel i of `target` covers the interval [i, i + 1) * source / target of the source, and a
source pixel counts by how much of it lies there. Where the ratio is whole that is the mean of a box. More pixels are
read bilinearly between the centres of the source's, as `torch.nn.functional.interpolate` reads them.
"""

from functools import lru_cache

import torch
from torch import Tensor

Table = tuple[list[list[int]], list[list[float]]]
"""Of every target pixel the source pixels that it is made of, and their weights: (most of them, target) numbers each.
Numbers and not tensors, which would be those of the device and mode that was there first."""


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
        return places[0][start], places[1][stop - 1] + 1

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
            box = sum((x[place::factor] for place in range(1, factor)), x[::factor])
            return box.div_(factor).movedim(0, dim)
        if dim == x.ndim - 1 and x.ndim > 1:  # whole rows are picked several times as fast as single pixels
            turned = x.transpose(dim - 1, dim).contiguous()
            return self.apply(turned, dim - 1, start, stop).transpose(dim - 1, dim).contiguous()
        places, weights = (_means if self.is_mean else _read_between)(self.source, self.target)
        shape = [1] * x.ndim
        shape[dim] = stop - start
        total: Tensor | None = None
        for place, weight in zip(places, weights, strict=True):
            index = torch.tensor(place[start:stop], device=x.device) - first
            share = torch.tensor(weight[start:stop], device=x.device, dtype=x.dtype).view(shape)
            found = x.index_select(dim, index)
            total = found * share if total is None else total.addcmul_(found, share)
        assert total is not None
        return total


@lru_cache(maxsize=256)
def _means(source: int, target: int) -> Table:
    """The source pixels that every target pixel is the mean of."""
    found = []
    for start in range(0, target * source, source):  # in units of 1 / target of a source pixel everything is whole
        places = range(start // target, -(-(start + source) // target))
        overlaps = [min((place + 1) * target, start + source) - max(place * target, start) for place in places]
        found.append(([*places], [overlap / source for overlap in overlaps]))
    return _table(found)


@lru_cache(maxsize=256)
def _read_between(source: int, target: int) -> Table:
    """The source pixels between which every target pixel is read."""
    found = []
    for pixel in range(target):
        below, after = divmod((2 * pixel + 1) * source - target, 2 * target)  # its centre, in units of 1 / (2 * target)
        places = [min(max(place, 0), source - 1) for place in (below, below + bool(after))]
        found.append((places, [1 - after / (2 * target), after / (2 * target)]))
    return _table(found)


def _table(found: list[tuple[list[int], list[float]]]) -> Table:
    """Place by place instead of pixel by pixel; what has fewer places repeats its last one, without weight."""
    most = max(len(places) for places, _ in found)
    places = [[places[min(at, len(places) - 1)] for places, _ in found] for at in range(most)]
    return places, [[weights[at] if at < len(weights) else 0.0 for _, weights in found] for at in range(most)]


def resize_to(images: Tensor, height: int, width: int) -> Tensor:
    """Images (B, C, H, W) of these pixels, axis by axis; in at least float32."""
    images = images.to(torch.promote_types(images.dtype, torch.float32))
    images = AxisResize(images.shape[-2], height).apply(images, images.ndim - 2)
    return AxisResize(images.shape[-1], width).apply(images, images.ndim - 1)
