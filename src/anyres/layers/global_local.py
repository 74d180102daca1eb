"""Global-local positional encoding of ResFormer (Tian et al., CVPR 2023): the part outside attention."""

import math

import torch
from torch import Tensor, nn

from anyres.layers.conditional import ConditionalPosition, DepthwiseConv
from anyres.layers.position import region_of
from anyres.layers.region import Region
from anyres.layers.sincos import angles, over_grid

_EPSILON = 1e-6  # in the authors' division by the side


class GlobalLocalPosition(nn.Module):
    """ResFormer's global encoding, and its local one if that is to act before the merger.

    Global: a sin-cos map of the grid, rows 1..n divided by n and times 2 pi (DETR's normalised form: the same extent
    at every size), the first half of the channels for the row, sines and cosines interleaved. One depthwise 3x3
    convolution of that map replaces it and is added to the patch tokens before the merger, so it meets every
    resolution; it depends on the grid, not on any token's content.

    Local, `placement="trunk"` (the authors' choice): on the values inside every block, `LocalValueAttention`; under
    ViTAR it meets a constant grid. `placement="before"`: a zero-initialised depthwise 3x3 convolution added to the
    tokens here, which meets every resolution and sees one patch around (`halo` 1).

    Args:
        width: D, divisible by 4.
        local: whether the local part acts here.
    """

    def __init__(self, width: int, *, local: bool = False) -> None:
        super().__init__()
        if width % 4:
            raise ValueError(f"width is {width}; global positions need a multiple of 4, such as {-(-width // 4) * 4}.")
        self.width = width
        self.conv = DepthwiseConv(width)
        self.local = ConditionalPosition(width, zero=True) if local else None
        self.halo = self.local.halo if self.local is not None else 0

    def init_weights(self) -> None:
        self.conv.init_weights()
        if self.local is not None:
            self.local.init_weights()

    def forward(self, tokens: Tensor, keys: Tensor | None = None, region: Region | None = None) -> Tensor:
        """Adds positions to tokens (B, rows, cols, D)."""
        region = region_of(tokens, region)
        outer = region.grown(1, 1)  # what the convolution sees
        encoding = self.conv(self.waves(outer, tokens.device)[None].to(self.conv.weight.dtype))
        tokens = tokens + region.cut_from(encoding, outer).to(tokens.dtype)
        return tokens if self.local is None else self.local(tokens)

    def waves(self, region: Region, device: torch.device | None = None) -> Tensor:
        """The sin-cos map of a region of a grid, before the convolution: (rows, cols, D) float32."""
        by_axis = []
        for part, count in zip((region.rows, region.cols), region.grid, strict=True):
            places = torch.arange(part.start + 1, part.stop + 1, device=device, dtype=torch.float32)
            angle = angles(places / (count + _EPSILON) * (2 * math.pi), self.width)
            by_axis.append(torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1))  # (rows or cols, D/2)
        return torch.cat(over_grid(*by_axis), dim=-1)
