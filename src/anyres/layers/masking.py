"""Which cells of a grid are hidden while a model learns to fill them in: a pure function of an image's key."""

import torch
from torch import Tensor

from anyres.layers.counter_random import counter_uniform
from anyres.layers.merge_plan import Grid
from anyres.layers.options import visible_count

_MASK = 0x4D41534B  # keeps the draws of masks apart from all others


def hidden_cells(keys: Tensor, grid: Grid, ratio: float) -> Tensor:
    """Draws the hidden cells of images, all sets of their number being equally likely: (B, rows, cols) bool.

    Args:
        keys: (B,) int64, one for each image; the mask is a pure function of it.
        grid: (rows, cols).
        ratio: share of cells to hide, see `visible_count`.
    """
    visible = visible_count(grid, ratio)
    noise = counter_uniform(keys ^ _MASK, grid)[..., 0].flatten(1)  # (B, cells)
    is_hidden = torch.ones_like(noise, dtype=torch.bool)
    is_hidden.scatter_(1, noise.argsort(dim=1, stable=True)[:, :visible], False)
    return is_hidden.unflatten(1, grid)
