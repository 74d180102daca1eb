"""The transformer block of the trunk: timm's, told the grid of its tokens."""

from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from anyres.layers.attention import PositionedAttention
from anyres.layers.conditional import ConditionalPosition
from anyres.layers.merge_plan import Grid
from anyres.layers.windows import in_windows


class TrunkBlock(Block):
    """timm's pre-norm block, with its parameter names. Without the last two arguments it computes what timm's does.

    Args:
        width: D.
        heads: number of attention heads; must divide D.
        mlp_ratio: hidden width of the feed-forward network divided by D.
        drop_path: rate of stochastic depth.
        norm_layer: makes a normalisation from D.
        attention: attention that depends on the tokens' places, in the place of timm's.
        position: acts on the grid tokens that leave the block.
        window: side in tokens of the windows that timm's attention is kept in, without prefix tokens; 0: none.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float,
        *,
        drop_path: float,
        norm_layer: Any,
        attention: PositionedAttention | None = None,
        position: ConditionalPosition | None = None,
        window: int = 0,
    ) -> None:
        super().__init__(width, heads, mlp_ratio, qkv_bias=True, drop_path=drop_path, norm_layer=norm_layer)
        if attention is not None:
            self.attn: nn.Module = attention
        self.position, self.window = position, window

    def init_weights(self) -> None:
        """Initialises what belongs to the position; the model initialises linear layers and norms."""
        if isinstance(self.attn, PositionedAttention):
            self.attn.init_weights()
        if self.position is not None:
            self.position.init_weights()

    def forward(  # type: ignore[override]
        self, x: Tensor, grid: Grid, rotation: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """x (B, P + rows * cols, D), whose last tokens form `grid`, to the same shape.

        Args:
            x: prefix tokens, then grid tokens row by row.
            grid: (rows, cols).
            rotation: cosines and sines of `RotaryPosition`, for rotary attention only.
            mask: (B, 1, 1, P + N), added to attention's logits, for padded batches and blocks that know no grid
                only.
        """
        if not self.window and not isinstance(self.attn, PositionedAttention):
            x = super().forward(x, mask)
        else:
            x = x + self.drop_path1(self.ls1(self._attended(self.norm1(x), grid, rotation)))
            x = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        if self.position is None:
            return x
        prefix, tokens = x.split([x.shape[1] - grid[0] * grid[1], grid[0] * grid[1]], dim=1)
        return torch.cat([prefix, self.position(tokens.unflatten(1, grid)).flatten(1, 2)], dim=1)

    def _attended(self, x: Tensor, grid: Grid, rotation: Tensor | None) -> Tensor:
        return in_windows(self.attn, x, grid, self.window) if self.window else self.attn(x, grid, rotation)
