"""Positional encodings that act on the patch tokens before they are merged, and what all encodings share.

Their one interface: `halo`, how many patches beyond its own a token's content depends on; `init_weights()`; and
`forward(tokens (B, rows, cols, D), keys=None, region=None)`, where the region says which part of an image's grid the
tokens are, if not all of it. With a halo, tokens that far from an inner edge of the region are wrong and are to be cut
off by the caller. Encodings of this kind meet every new resolution; those that act inside
the trunk's attention (layers/attention.py) meet under ViTAR the constant grid that the merger leaves.

Coordinates are those of token centres, (2i + 1) / n - 1 in [-1, 1] on an axis of n tokens (`align_corners=False`).
"""

from contextlib import AbstractContextManager, nullcontext
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyres.errors import check_choice
from anyres.layers.counter_random import counter_uniform
from anyres.layers.options import Interpolation
from anyres.layers.region import Region


def region_of(tokens: Tensor, region: Region | None) -> Region:
    """The region given, or that of a whole image with these tokens (B, rows, cols, D)."""
    return Region.whole((tokens.shape[1], tokens.shape[2])) if region is None else region


def token_centres(size: int, device: torch.device | None = None) -> Tensor:
    """Coordinates in [-1, 1] of the centres of `size` tokens, (size,) float32."""
    return (2 * torch.arange(size, device=device, dtype=torch.float32) + 1) / size - 1


def grid_centres(region: Region, device: torch.device | None = None) -> Tensor:
    """Coordinates (y, x) of the token centres of a region of a grid, (rows, cols, 2) float32."""
    rows, cols = region.grid
    y, x = token_centres(rows, device)[region.rows], token_centres(cols, device)[region.cols]
    return torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1)


def interpolation_matrix(
    size: int, table_size: int, device: torch.device | None = None, interpolation: Interpolation = "bilinear"
) -> Tensor:
    """Weights (size, table_size) that read a table at `size` token centres; bilinear repeats the border."""
    if interpolation != "bilinear":
        axis = torch.eye(table_size, device=device)[None, None]  # (1, 1, table_size, table_size)
        shape, antialias = (size, table_size), interpolation == "timm"
        return F.interpolate(axis, shape, mode="bicubic", align_corners=False, antialias=antialias)[0, 0]
    place = ((token_centres(size, device) + 1) * table_size - 1) / 2
    place = place.clamp(0, table_size - 1)
    return (1 - (place[:, None] - torch.arange(table_size, device=device)).abs()).clamp_min(0)


def image_keys(keys: Tensor | None, tokens: Tensor) -> Tensor:
    """One int64 key for each of the B images of tokens (B, ...): those given, or new ones from torch's generator.

    Raises:
        ValueError: keys of another shape or type.
    """
    batch = len(tokens)
    if keys is None:
        return torch.randint(2**62, (batch,), device=tokens.device)
    if keys.shape != (batch,) or keys.dtype != torch.int64:
        given = f"{keys.dtype} of shape {tuple(keys.shape)}"
        raise ValueError(f"the jitter keys are {given}; give one int64 for each of the {batch} images.")
    return keys


def full_precision(device: torch.device) -> AbstractContextManager:
    """Switches autocast off, on devices that have it."""
    return torch.autocast(device.type, enabled=False) if torch.amp.is_autocast_available(device.type) else nullcontext()


class FuzzyPositionalEncoding(nn.Module):
    """Fuzzy positional encoding (ViTAR, section 3.3): a learned table, read at jittered positions while training.

    Training: every token of every image is shifted by its own offsets, uniform in +-`jitter` tokens of the current
    grid on each axis, and the table is read bilinearly there. Evaluation: the exact token centres. The offsets are a
    pure function of the image's key and the token's row and column, not of the batch or of the piece of the image.
    Added to the patch tokens before the merger.

    Args:
        width: D.
        grid: rows and columns of the table.
        jitter: largest offset in tokens; 0 gives an ordinary learned encoding.
        interpolation: how the table is read at other grids than its own in evaluation and, with jitter 0, in training:
            "bilinear" (as the jittered reading), "bicubic" (DeiT's own code) or "timm" (bicubic, antialiased).
    """

    halo = 0  # patches beyond its own that a token depends on

    def __init__(
        self, width: int, grid: tuple[int, int], *, jitter: float = 0.5, interpolation: Interpolation = "bilinear"
    ) -> None:
        super().__init__()
        check_choice("interpolation", interpolation, get_args(Interpolation))
        if jitter < 0:
            raise ValueError(f"jitter is {jitter}; it must be 0 or more (the paper uses 0.5 tokens).")
        self.grid, self.jitter, self.interpolation = grid, jitter, interpolation
        self.table = nn.Parameter(torch.empty(*grid, width))  # (grid rows, grid cols, D)
        self.init_weights()

    def init_weights(self) -> None:
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, tokens: Tensor, keys: Tensor | None = None, region: Region | None = None) -> Tensor:
        """Adds positions to tokens (B, rows, cols, D).

        Args:
            tokens: (B, rows, cols, D).
            keys: (B,) int64, one for each image; used in training only. None draws them from torch's generator.
            region: which part of the image they are; None for all of it.

        Raises:
            ValueError: keys of another shape or type.
        """
        region = region_of(tokens, region)
        if not (self.training and self.jitter):
            return tokens + self.exact(region).to(tokens.dtype)
        places = self.places(region, image_keys(keys, tokens))
        return tokens + self.read(places).to(tokens.dtype)

    def add_to_visible(self, tokens: Tensor, is_visible: Tensor, keys: Tensor | None = None) -> Tensor:
        """Adds to tokens (n, D), of the places marked in (B, rows, cols), what `forward` adds to them."""
        region = Region.whole((is_visible.shape[1], is_visible.shape[2]))
        if not (self.training and self.jitter):
            return tokens + at_visible(self.exact(region), is_visible).to(tokens.dtype)
        places = self.places(region, image_keys(keys, is_visible))[is_visible]  # (n, 2)
        return tokens + self.read(places[None, :, None])[0, :, 0].to(tokens.dtype)

    def exact(self, region: Region) -> Tensor:
        """The encoding at the exact centres of a region of a grid: (rows, cols, D) float32."""
        table = self.table.float()
        if region.grid == self.grid:
            return table[region.rows, region.cols]
        rows = interpolation_matrix(region.grid[0], self.grid[0], table.device, self.interpolation)[region.rows]
        cols = interpolation_matrix(region.grid[1], self.grid[1], table.device, self.interpolation)[region.cols]
        with full_precision(table.device):
            along_rows = (rows @ table.flatten(1)).unflatten(1, (self.grid[1], -1))  # (rows, grid cols, D)
            return cols @ along_rows

    def places(self, region: Region, keys: Tensor) -> Tensor:
        """Jittered coordinates (B, rows, cols, 2) in units of [-1, 1]; the last axis is (y of rows, x of columns)."""
        offset = (2 * counter_uniform(keys, region.size, start=region.start) - 1) * self.jitter  # tokens of the grid
        token = 2 / torch.tensor(region.grid, dtype=torch.float32, device=keys.device)
        return grid_centres(region, keys.device) + offset * token

    def read(self, places: Tensor) -> Tensor:
        """Reads the table bilinearly at places (B, rows, cols, 2), (y, x): (B, rows, cols, D) float32."""
        batch, rows, cols, _ = places.shape
        image = self.table.float().permute(2, 0, 1)[None]  # (1, D, grid rows, grid cols)
        x_first = places.flip(-1).reshape(1, batch * rows, cols, 2)
        with full_precision(places.device):
            found = F.grid_sample(image, x_first, mode="bilinear", padding_mode="border", align_corners=False)
        return found[0].permute(1, 2, 0).reshape(batch, rows, cols, -1)


def at_visible(encoding: Tensor, is_visible: Tensor) -> Tensor:
    """An encoding (rows, cols, D) at the places marked in (B, rows, cols), image by image: (n, D)."""
    _, row, col = is_visible.nonzero(as_tuple=True)
    return encoding[row, col]


class NoPosition(nn.Module):
    """Leaves the tokens as they are."""

    halo = 0

    def init_weights(self) -> None:
        """Nothing to initialise."""

    def forward(self, tokens: Tensor, keys: Tensor | None = None, region: Region | None = None) -> Tensor:
        return tokens

    def add_to_visible(self, tokens: Tensor, is_visible: Tensor, keys: Tensor | None = None) -> Tensor:
        return tokens
