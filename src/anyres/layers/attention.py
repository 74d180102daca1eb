"""Self-attention of the trunk where a position enters: on the values, as a bias of the logits, or as a rotation.

Parameters have timm's names, and what belongs to the position lies in `position`. Tokens are (B, P + N, D): P prefix
tokens, which no position touches, before N = rows * cols tokens of the grid.
"""

import torch
import torch.nn.functional as F
from timm.layers import use_fused_attn
from torch import Tensor, nn

from anyres.layers.conditional import DepthwiseConv
from anyres.layers.merge_plan import Grid
from anyres.layers.places import Places
from anyres.layers.rotary import rotate


class PositionedAttention(nn.Module):
    """Multi-head self-attention that is told the places of its tokens. Variants say in `attend` what they do with them.

    Args:
        width: D.
        heads: number of attention heads; must divide D.
    """

    needs_grid = True  # or else a rotation and a mask are enough

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width is {width}, heads is {heads}; the heads must divide the width.")
        self.num_heads, self.head_dim = heads, width // heads
        self.fused_attn = use_fused_attn()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def init_weights(self) -> None:
        """Initialises what belongs to the position; the model initialises the linear layers."""

    def forward(self, x: Tensor, places: Places) -> Tensor:
        """Attention over tokens x (B, P + N, D), of which the last N are at `places`."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)  # (B, heads, P + N, head_dim) each
        x = self.attend(q, k, v, places)
        return self.proj(x.transpose(1, 2).flatten(2))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, places: Places) -> Tensor:
        """The attended values (B, heads, P + N, head_dim) of queries, keys and values of that shape."""
        raise NotImplementedError

    def _softmax(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """softmax(QK / sqrt(head_dim) + bias) V; bias (1 or B, 1 or heads, 1 or P + N, P + N)."""
        bias = None if bias is None else bias.to(q.dtype)
        if self.fused_attn:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        logits = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)  # (B, heads, P + N, P + N)
        return (logits if bias is None else logits + bias).softmax(dim=-1) @ v


class LocalValueAttention(PositionedAttention):
    """ResFormer's local encoding: softmax(QK) V + H(V), where H is a depthwise 3x3 convolution on the grid.

    H acts inside every block, its head_dim filters are shared by the heads and start as zeros; prefix tokens get
    zeros. Under ViTAR it meets a constant grid. (Tian et al., CVPR 2023; `global_local` with `placement="trunk"`.)
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.position = DepthwiseConv(self.head_dim, zero=True)

    def init_weights(self) -> None:
        self.position.init_weights()

    def attend(self, q: Tensor, k: Tensor, v: Tensor, places: Places) -> Tensor:
        grid = _grid(places)
        prefix = v.shape[2] - grid[0] * grid[1]
        values = v[:, :, prefix:].unflatten(2, grid).flatten(0, 1)  # (B * heads, rows, cols, head_dim)
        local = self.position(values).flatten(1, 2).unflatten(0, (-1, self.num_heads))
        return self._softmax(q, k, v) + F.pad(local, (0, 0, prefix, 0))


class RelativeBiasAttention(PositionedAttention):
    """Swin's relative position bias (Liu et al., ICCV 2021): a learned bias of the logits for every offset and head.

    Every block has a table of its own, of the model's grid. Under ViTAR that is the grid it always meets, unless grids
    follow the image's shape.
    """

    def __init__(self, width: int, heads: int, grid: Grid) -> None:
        super().__init__(width, heads)
        self.position = RelativeBias(heads, grid)

    def init_weights(self) -> None:
        self.position.init_weights()

    def attend(self, q: Tensor, k: Tensor, v: Tensor, places: Places) -> Tensor:
        grid = _grid(places)
        prefix = q.shape[2] - grid[0] * grid[1]
        bias = F.pad(self.position(grid), (prefix, 0, prefix, 0))
        return self._softmax(q, k, v, bias[None])


class RelativeBias(nn.Module):
    """The table of `RelativeBiasAttention`: (2 * rows - 1, 2 * cols - 1, heads), Swin's with its offsets unflattened.

    At other grids it is resized per head as an image, bicubic, so that its border stays the largest offset (Swin).
    The bias of N tokens has heads * N^2 entries, whatever attention is used: a plain trunk at large sizes runs out of
    memory earlier with it than without.
    """

    def __init__(self, heads: int, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        self.table = nn.Parameter(torch.empty(2 * grid[0] - 1, 2 * grid[1] - 1, heads))
        self.init_weights()

    def init_weights(self) -> None:
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, grid: Grid) -> Tensor:
        """The bias (heads, N, N) of every query (first) and key (second) on a grid (rows, cols)."""
        rows, cols = grid
        table = self.table.permute(2, 0, 1)  # (heads, 2 * rows - 1, 2 * cols - 1)
        if grid != self.grid:
            size = (2 * rows - 1, 2 * cols - 1)
            table = F.interpolate(table[None].float(), size, mode="bicubic", align_corners=False)[0]
        row, col = torch.arange(rows, device=table.device), torch.arange(cols, device=table.device)
        down = (row[:, None] - row + rows - 1)[:, None, :, None]  # (rows, 1, rows, 1): query row less key row
        right = (col[:, None] - col + cols - 1)[None, :, None, :]  # (1, cols, 1, cols)
        return table[:, down, right].flatten(3, 4).flatten(1, 2)


class RotaryAttention(PositionedAttention):
    """Attention whose queries and keys are turned by `RotaryPosition` (layers/rotary.py). Nothing is learned."""

    needs_grid = False

    def attend(self, q: Tensor, k: Tensor, v: Tensor, places: Places) -> Tensor:
        if places.rotation is None:
            raise ValueError("rotary attention needs the rotation of its tokens; give what RotaryPosition returns.")
        return self._softmax(rotate(q, places.rotation), rotate(k, places.rotation), v, places.mask)


def _grid(places: Places) -> Grid:
    """The grid of tokens that attention cannot do without."""
    assert places.grid is not None  # see Trunk.needs_grid
    return places.grid
