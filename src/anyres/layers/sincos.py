"""Fixed encodings from sines and cosines of a token's row and column."""

import torch
from torch import Tensor, nn

from anyres.layers.position import at_visible, region_of
from anyres.layers.region import Region

TEMPERATURE = 10000.0  # of the original transformer, MAE, DETR and ResFormer


def angles(places: Tensor, width: int) -> Tensor:
    """Angles (n, D/4) of n places on an axis: each place times the frequencies 10000^(-i / (D/4))."""
    quarter = width // 4
    exponents = torch.arange(quarter, device=places.device, dtype=torch.float32) / quarter
    return places[:, None] * TEMPERATURE**-exponents


def over_grid(by_row: Tensor, by_col: Tensor) -> tuple[Tensor, Tensor]:
    """What depends on the row (rows, d) and on the column (cols, d) alone, each as a map (rows, cols, d)."""
    rows, cols = len(by_row), len(by_col)
    return by_row[:, None].expand(-1, cols, -1), by_col[None].expand(rows, -1, -1)


class SinCosPosition(nn.Module):
    """MAE's fixed encoding (He et al. 2022, util/pos_embed.py): nothing is learned.

    The first half of the channels encodes the column, the second the row; each half is D/4 sines, then D/4 cosines.
    On an axis of n tokens, where the model's grid has G, token i is at (i + 1/2) * G / n - 1/2: MAE's 0 .. G-1 at the
    model's own grid, and the same extent of G places at every other size, as the interpolation of a table has it.

    Added to the patch tokens before the merger, so it meets every resolution.

    Args:
        width: D, divisible by 4.
        grid: rows and columns of the model's own grid.
    """

    halo = 0

    def __init__(self, width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        if width % 4:
            raise ValueError(f"width is {width}; sin-cos positions need a multiple of 4, such as {-(-width // 4) * 4}.")
        self.width, self.grid = width, grid

    def init_weights(self) -> None:
        """Nothing to initialise."""

    def forward(self, tokens: Tensor, keys: Tensor | None = None, region: Region | None = None) -> Tensor:
        """Adds positions to tokens (B, rows, cols, D)."""
        return tokens + self.exact(region_of(tokens, region), tokens.device).to(tokens.dtype)

    def add_to_visible(self, tokens: Tensor, is_visible: Tensor, keys: Tensor | None = None) -> Tensor:
        """Adds to tokens (n, D), of the places marked in (B, rows, cols), what `forward` adds to them."""
        region = Region.whole((is_visible.shape[1], is_visible.shape[2]))
        return tokens + at_visible(self.exact(region, tokens.device), is_visible).to(tokens.dtype)

    def exact(self, region: Region, device: torch.device | None = None) -> Tensor:
        """The encoding of a region of a grid: (rows, cols, D) float32."""
        by_axis = []
        for part, count, own in zip((region.rows, region.cols), region.grid, self.grid, strict=True):
            places = (torch.arange(part.start, part.stop, device=device, dtype=torch.float32) + 0.5) * own / count - 0.5
            angle = angles(places, self.width)
            by_axis.append(torch.cat([angle.sin(), angle.cos()], dim=-1))  # (rows or cols, D/2)
        rows, cols = over_grid(*by_axis)
        return torch.cat([cols, rows], dim=-1)
