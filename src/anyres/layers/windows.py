"""Attention inside windows of a grid (ViTDet, arXiv 2203.16527, section 3), without padding.

ViTDet completes a grid to whole windows with zeros, which are then keys of the windows at its right and bottom edge.
Here those windows are just smaller, so that nothing outside an image is ever seen and nothing is computed for it.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from anyres.layers.merge_plan import Grid


def in_windows(attend: Callable[[Tensor], Tensor], x: Tensor, grid: Grid, window: int) -> Tensor:
    """Attention of the tokens of every window among themselves: (B, rows * cols, D) to the same shape.

    Args:
        attend: (n, N, D) -> (n, N, D), each of the n sets of tokens by itself.
        x: the tokens of `grid`, row by row.
        grid: (rows, cols).
        window: rows and columns of a window; those at the right and at the bottom edge have what remains.
    """
    tokens = x.unflatten(1, grid)
    bands = []
    for rows in spans(grid[0], window):
        parts = [_attended(attend, tokens[:, rows, cols], window) for cols in spans(grid[1], window)]
        bands.append(torch.cat(parts, dim=2))
    return torch.cat(bands, dim=1).flatten(1, 2)


def spans(length: int, window: int) -> list[slice]:
    """The part of an axis that whole windows cover and the rest of it, as far as there is either."""
    whole = length - length % window
    return [part for part in (slice(0, whole), slice(whole, length)) if part.stop > part.start]


def _attended(attend: Callable[[Tensor], Tensor], part: Tensor, window: int) -> Tensor:
    """Attention in a part (B, rows, cols, D) of whole windows, or of what remains, on either axis."""
    batch, rows, cols, _ = part.shape
    height, width = min(window, rows), min(window, cols)
    sets = part.unflatten(2, (-1, width)).unflatten(1, (-1, height)).transpose(2, 3)  # (B, R, C, height, width, D)
    found = attend(sets.flatten(3, 4).flatten(0, 2)).view(sets.shape)
    return found.transpose(2, 3).reshape(batch, rows, cols, -1)
