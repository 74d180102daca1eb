"""How an image gets as many pixels as its plan has patches: completed by repeating its edge, or enlarged to them."""

import torch
from torch import Tensor

from anyres.layers.averaged import AxisResize


class AxisFit:
    """How an axis of `source` pixels becomes one of `patches` whole patches.

    The last patch is completed by its edge. With `enlarges`, an axis that has fewer patches is read bilinearly instead.
    """

    def __init__(self, source: int, patches: int, patch_size: int, *, enlarges: bool) -> None:
        self.source, self.target = source, patches * patch_size
        self.enlarging = None
        if enlarges and source <= (patches - 1) * patch_size:
            self.enlarging = AxisResize(source, self.target)

    def reach(self, start: int, stop: int) -> tuple[int, int]:
        """First source pixel, and the one behind the last, that pixels `start` to `stop` - 1 are made of."""
        if self.enlarging is not None:
            return self.enlarging.reach(start, stop)
        return min(start, self.source - 1), min(stop, self.source)

    def apply(self, x: Tensor, dim: int, start: int = 0, stop: int | None = None) -> Tensor:
        """Pixels `start` to `stop` - 1 along axis `dim`, from exactly the source pixels of their `reach`."""
        stop = self.target if stop is None else stop
        if self.enlarging is not None:
            exact = x.to(torch.promote_types(x.dtype, torch.float32))
            return self.enlarging.apply(exact, dim, start, stop).to(x.dtype)
        beyond = stop - max(start, self.source)
        if beyond <= 0:
            return x
        edge = x.narrow(dim, x.shape[dim] - 1, 1)
        repeated = edge.expand(*[beyond if axis == dim else -1 for axis in range(x.ndim)])
        return repeated if start >= self.source else torch.cat([x, repeated], dim=dim)
