"""Positional encodings that act on the patch tokens before they are merged, and what all encodings share.

Their one interface: `halo`, how many patches beyond its own a token's content depends on; `init_weights()`; and
`forward(tokens (B, rows, cols, D), keys=None)`. Encodings of this kind meet every new resolution; those that act inside
the trunk's attention (layers/attention.py) meet under ViTAR the constant grid that the merger leaves.

Coordinates are those of token centres, (2i + 1) / n - 1 in [-1, 1] on an axis of n tokens (`align_corners=False`).
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyres.errors import check_choice
from anyres.layers.counter_random import counter_uniform

Interpolation = Literal["bilinear", "bicubic", "timm"]


def token_centres(size: int, device: torch.device | None = None) -> Tensor:
    """Coordinates in [-1, 1] of the centres of `size` tokens, (size,) float32."""
    return (2 * torch.arange(size, device=device, dtype=torch.float32) + 1) / size - 1


def interpolation_matrix(size: int, table_size: int, device: torch.device | None = None) -> Tensor:
    """Weights (size, table_size) that read a table at `size` token centres, bilinear with the border repeated."""
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

    def forward(self, tokens: Tensor, keys: Tensor | None = None) -> Tensor:
        """Adds positions to tokens (B, rows, cols, D).

        Args:
            tokens: (B, rows, cols, D).
            keys: (B,) int64, one for each image; used in training only. None draws them from torch's generator.

        Raises:
            ValueError: keys of another shape or type.
        """
        size = (tokens.shape[1], tokens.shape[2])
        if not (self.training and self.jitter):
            return tokens + self.exact(size).to(tokens.dtype)
        places = self.places(size, image_keys(keys, tokens))
        return tokens + self.read(places).to(tokens.dtype)

    def exact(self, size: tuple[int, int]) -> Tensor:
        """The encoding at the exact centres of a grid of `size`: (rows, cols, D) float32."""
        table = self.table.float()
        if size == self.grid:
            return table
        if self.interpolation != "bilinear":
            image = table.permute(2, 0, 1)[None]  # (1, D, grid rows, grid cols)
            antialias = self.interpolation == "timm"
            return F.interpolate(image, size, mode="bicubic", align_corners=False, antialias=antialias)[0].permute(
                1, 2, 0
            )
        rows = interpolation_matrix(size[0], self.grid[0], table.device)
        cols = interpolation_matrix(size[1], self.grid[1], table.device)
        with full_precision(table.device):
            along_rows = (rows @ table.flatten(1)).unflatten(1, (self.grid[1], -1))  # (rows, grid cols, D)
            return cols @ along_rows

    def places(self, size: tuple[int, int], keys: Tensor) -> Tensor:
        """Jittered coordinates (B, rows, cols, 2) in units of [-1, 1]; the last axis is (y of rows, x of columns)."""
        rows, cols = size
        y, x = token_centres(rows, keys.device), token_centres(cols, keys.device)
        exact = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1)  # (rows, cols, 2)
        offset = (2 * counter_uniform(keys, size) - 1) * self.jitter  # tokens of the current grid
        return exact + offset * (2 / torch.tensor([rows, cols], dtype=torch.float32, device=keys.device))

    def read(self, places: Tensor) -> Tensor:
        """Reads the table bilinearly at places (B, rows, cols, 2), (y, x): (B, rows, cols, D) float32."""
        batch, rows, cols, _ = places.shape
        image = self.table.float().permute(2, 0, 1)[None]  # (1, D, grid rows, grid cols)
        x_first = places.flip(-1).reshape(1, batch * rows, cols, 2)
        with full_precision(places.device):
            found = F.grid_sample(image, x_first, mode="bilinear", padding_mode="border", align_corners=False)
        return found[0].permute(1, 2, 0).reshape(batch, rows, cols, -1)


class NoPosition(nn.Module):
    """Leaves the tokens as they are."""

    halo = 0

    def init_weights(self) -> None:
        """Nothing to initialise."""

    def forward(self, tokens: Tensor, keys: Tensor | None = None) -> Tensor:
        return tokens
