"""The transformer block of the trunk: timm's, told the places of its tokens."""

from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from anyres.layers.attention import PositionedAttention
from anyres.layers.conditional import ConditionalPosition
from anyres.layers.places import Places
from anyres.layers.windows import in_windows


class TrunkBlock(Block):
    """timm's pre-norm block, with its parameter names. Without the last three arguments it computes what timm's does.

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
        self.needs_grid = position is not None or window > 0 or (attention is not None and attention.needs_grid)

    def init_weights(self) -> None:
        """Initialises what belongs to the position; the model initialises linear layers and norms."""
        if isinstance(self.attn, PositionedAttention):
            self.attn.init_weights()
        if self.position is not None:
            self.position.init_weights()

    def forward(self, x: Tensor, places: Places) -> tuple[Tensor, Places]:  # type: ignore[override]
        """Prefix tokens, then grid tokens row by row, (B, P + N, D), to the same shape at the same places."""
        if not self.window and not isinstance(self.attn, PositionedAttention):
            x = super().forward(x, places.mask)
        else:
            x = x + self.drop_path1(self.ls1(self._attended(self.norm1(x), places)))
            x = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return (x if self.position is None else self._positioned(x, places)), places

    def _attended(self, x: Tensor, places: Places) -> Tensor:
        if not self.window:
            return self.attn(x, places)
        assert places.grid is not None  # see Trunk.needs_grid
        return in_windows(self.attn, x, places.grid, self.window)

    def _positioned(self, x: Tensor, places: Places) -> Tensor:
        """x with positions added to its grid tokens; prefix tokens have none."""
        assert places.grid is not None and self.position is not None
        count = places.grid[0] * places.grid[1]
        prefix, tokens = x.split([x.shape[1] - count, count], dim=1)
        return torch.cat([prefix, self.position(tokens.unflatten(1, places.grid)).flatten(1, 2)], dim=1)
