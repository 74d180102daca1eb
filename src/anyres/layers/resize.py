"""The one resize: bilinear with antialiasing (torch's), separable, for the pixels of every cell of an image.

Always in the precision of the pixels: rounded to bfloat16, a nearly flat cell would be nothing but rounding.
"""

from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from anyres.layers.merge_plan import Boundaries
from anyres.layers.position import full_precision


@lru_cache(maxsize=256)
def resize_matrix(size: int, target: int) -> Tensor:
    """Weights (target, size) that resize an axis of `size` pixels to `target`; each row sums to 1."""
    eye = torch.eye(size)[None, None]  # (1, 1, size, size)
    return F.interpolate(eye, (target, size), mode="bilinear", align_corners=False, antialias=True)[0, 0]


def resize_cells(images: Tensor, rows: Boundaries, cols: Boundaries, side: int) -> Tensor:
    """Every cell of images on its own, resized to a square: what lies outside a cell has no part in it.

    Args:
        images: (B, C, H, W).
        rows, cols: boundaries of the cells in pixels, from 0 to H and to W; cells may differ in size.
        side: of the squares, in pixels.

    Returns:
        (B, R, C', side, side, C) for R x C' cells, channels last as MAE orders them.
    """
    with full_precision(images.device):
        x = _resize_axis(images.transpose(2, 3), rows, side)  # (B, C, W, R, side)
        x = _resize_axis(x.movedim(2, -1), cols, side)  # (B, C, R, side, C', side)
    return x.permute(0, 2, 4, 3, 5, 1)


def paint_cells(squares: Tensor, rows: Boundaries, cols: Boundaries) -> Tensor:
    """The way back: squares (B, R, C', C, side, side), each resized to the pixels of its cell: (B, C, H, W)."""
    side, bands = squares.shape[-1], []
    with full_precision(squares.device):
        for r, (top, bottom) in enumerate(pairwise(rows)):
            down, band = resize_matrix(side, bottom - top).to(squares), []
            for c, (left, right) in enumerate(pairwise(cols)):
                across = resize_matrix(side, right - left).to(squares)
                band.append(down @ squares[:, r, c] @ across.T)  # (B, C, h, w)
            bands.append(torch.cat(band, dim=-1))
    return torch.cat(bands, dim=-2)


def _resize_axis(x: Tensor, edges: Boundaries, side: int) -> Tensor:
    """The cells of the last axis: (..., pixels) -> (..., cells, side)."""
    sizes = [stop - start for start, stop in pairwise(edges)]
    longest = max(sizes)
    weights = torch.stack([F.pad(resize_matrix(size, side), (0, longest - size)) for size in sizes]).to(x)
    index = torch.tensor(edges[:-1], device=x.device)[:, None] + torch.arange(longest, device=x.device)
    parts = x[..., index.clamp(max=edges[-1] - 1)]  # (..., cells, longest); what is beyond a cell has weight 0
    return torch.einsum("...cp,csp->...cs", parts, weights)
