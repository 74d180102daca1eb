"""Rotary positional encoding: queries and keys are turned by angles that depend on the token's place."""

import math

import torch
from torch import Tensor, nn

from anyres.layers.counter_random import counter_uniform
from anyres.layers.position import grid_centres, image_keys
from anyres.layers.region import Region

BASE = 100.0  # DINOv3


class RotaryPosition(nn.Module):
    """Axial rotary encoding as in DINOv3 (Simeoni et al., arXiv 2508.10104). Nothing is learned.

    Each axis has head_dim / 4 periods, 100^(4i / head_dim); the angle is 2 pi times a token's coordinate divided by the
    period, with patch centres in [-1, 1] on each axis, so the same extent at every size. It acts on queries and keys in
    every block of the trunk (`RotaryAttention`), where under ViTAR it meets a constant grid. Prefix tokens are not
    turned.

    Args:
        head_dim: D / heads, divisible by 4.
        rescale: in training, the coordinates of an image are multiplied by a factor that is log-uniform in
            [1/rescale, rescale] (DINOv3: 2). The factor is the same on both axes and in all blocks, and a pure function
            of the image's key; the authors' code draws one for a batch, anew in every block. 1 switches it off.
    """

    def __init__(self, head_dim: int, *, rescale: float = 1.0) -> None:
        super().__init__()
        if head_dim % 4:
            raise ValueError(f"head_dim is {head_dim}; rotary positions need a multiple of 4.")
        if not 1 <= rescale < math.inf:
            raise ValueError(f"rescale is {rescale}; it must be at least 1 (1 is none, DINOv3 uses 2).")
        self.head_dim, self.rescale = head_dim, rescale

    def forward(self, tokens: Tensor, keys: Tensor | None = None) -> Tensor:
        """Cosines and sines for tokens (B, rows, cols, D): (2, 1 or B, 1, rows * cols, head_dim / 2) float32.

        Args:
            tokens: only their grid is read.
            keys: (B,) int64, one for each image; used in training with `rescale` only. None draws them from torch's
                generator.
        """
        centres = grid_centres(Region.whole((tokens.shape[1], tokens.shape[2])), tokens.device)
        return self.of_centres(centres.flatten(0, 1)[None], tokens, keys)

    def of_centres(self, centres: Tensor, images: Tensor, keys: Tensor | None = None) -> Tensor:
        """The same of tokens anywhere: (2, 1 or B, 1, N, head_dim / 2) float32.

        Args:
            centres: (1 or B, N, 2), coordinates (y, x) of the tokens in the grid of their own image.
            images: (B, ...), only their number and their device are read.
            keys: as in `forward`.
        """
        quarter = self.head_dim // 4
        periods = BASE ** (torch.arange(quarter, device=centres.device, dtype=torch.float32) / quarter)
        angle = (2 * math.pi * centres[..., None] / periods).flatten(2)[:, None]  # (1 or B, 1, N, head_dim / 2)
        if self.training and self.rescale > 1:
            angle = angle * self.factors(image_keys(keys, images))[:, None, None, None]
        return torch.stack([angle.cos(), angle.sin()])

    def factors(self, keys: Tensor) -> Tensor:
        """What the coordinates of the images with these keys are multiplied by in training: (B,) float32."""
        uniform = counter_uniform(keys, (1, 1))[:, 0, 0, 0]
        return ((2 * uniform - 1) * math.log(self.rescale)).exp()


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turns queries or keys (B, heads, P + N, head_dim) but not the P prefix tokens; channel i goes with i + d/2.

    Args:
        x: queries or keys.
        rotation: what `RotaryPosition` returns. The product is formed in float32 at least and given the type of x.
    """
    cos, sin = rotation
    prefix, grid = x[:, :, : x.shape[2] - cos.shape[2]], x[:, :, x.shape[2] - cos.shape[2] :]
    first, second = grid.chunk(2, dim=-1)  # (B, heads, N, head_dim / 2) each
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)
    return torch.cat([prefix, turned], dim=2) if prefix.shape[2] else turned
