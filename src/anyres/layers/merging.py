"""Grid attention and the adaptive token merger (ViTAR, section 3.2), and the mergers that it is compared with.

All of them take tokens (B, rows, cols, D) and a merge plan for that grid, and return the plan's final grid.
"""

from typing import Literal, get_args

import torch
from timm.layers import Mlp
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from anyres.errors import check_choice
from anyres.layers.merge_plan import Boundaries, Level, MergePlan

Padding = Literal["masked", "zeros"]


class _Axis:
    """How the positions of one axis fall into cells of one or two; a padded cell repeats its one position."""

    def __init__(self, boundaries: Boundaries) -> None:
        self.cells = len(boundaries) - 1
        self.sizes = [stop - start for start, stop in zip(boundaries, boundaries[1:], strict=False)]
        self.cell = max(self.sizes)
        if self.cell > 2:
            raise ValueError(f"a cell holds {self.cell} positions of an axis; grid attention takes 1 or 2.")
        self.is_even = min(self.sizes) == self.cell
        pairs = zip(boundaries, boundaries[1:], strict=False)
        self.index = [position for start, stop in pairs for position in (start, stop - 1)[: self.cell]]

    def split(self, x: Tensor, dim: int) -> Tensor:
        """Replaces axis `dim` of x by the two axes (cells, cell)."""
        if not self.is_even:
            x = x.index_select(dim, torch.tensor(self.index, device=x.device))
        return x.unflatten(dim, (self.cells, self.cell))

    def is_padding(self, device: torch.device) -> Tensor:
        """(cells, cell), true for the second place of a cell that holds one position."""
        place = torch.arange(self.cell, device=device)
        return place >= torch.tensor(self.sizes, device=device)[:, None]


class GridAttention(nn.Module):
    """One pass of the adaptive token merger: each cell of at most 2x2 tokens becomes one token (equation 1).

    With pre-normalisation: the query is the normalised mean of a cell's tokens, keys and values are the normalised
    tokens, the mean is added back, and a feed-forward network with its own residual follows.

    Args:
        width: D.
        heads: number of attention heads; must divide D.
        mlp_ratio: hidden width of the feed-forward network divided by D.
        padding: "masked" (padding changes nothing) or "zeros" (the paper's literal zero tokens, which take part in the
            mean and as keys).
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0, *, padding: Padding = "masked") -> None:
        super().__init__()
        check_choice("padding", padding, get_args(Padding))
        if width % heads:
            raise ValueError(f"width is {width}, heads is {heads}; the heads must divide the width.")
        self.heads, self.padding = heads, padding
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(self, x: Tensor, level: Level) -> Tensor:
        """Merges tokens (B, rows, cols, D) of the level's input grid into (B, cell rows, cell cols, D)."""
        if tuple(x.shape[1:3]) != level.input_grid:
            raise ValueError(f"tokens have a grid of {tuple(x.shape[1:3])}; the level is for {level.input_grid}.")
        rows, cols = _Axis(level.rows), _Axis(level.cols)
        if rows.cell == cols.cell == 1 and not self.training:
            values = nn.functional.linear(self.norm1(x), *self._value_weights())  # softmax over one key is 1
            x = x + self.proj(values)
        elif self.padding == "zeros" and not (rows.is_even and cols.is_even):
            x = self._attend(*_with_zero_tokens(x, rows, cols))
        else:
            x = self._attend(x, rows, cols)
        return x + self.mlp(self.norm2(x))

    def _value_weights(self) -> tuple[Tensor, Tensor]:
        width = self.q.in_features
        return self.kv.weight[width:], self.kv.bias[width:]

    def _attend(self, x: Tensor, rows: _Axis, cols: _Axis) -> Tensor:
        mean = _cell_mean(x, rows, cols)  # (B, R, C, D) for R x C cells
        head = (self.heads, -1)
        q = self.q(self.norm1(mean)).unflatten(-1, head)  # (B, R, C, heads, d)
        k, v = self.kv(self.norm1(x)).unflatten(-1, (2, *head)).unbind(-3)  # (B, rows, cols, heads, d)
        k, v = (cols.split(rows.split(part, 1), 3) for part in (k, v))  # (B, R, 1 or 2, C, 1 or 2, heads, d)
        scores = (q[:, :, None, :, None] * k).sum(-1) * k.shape[-1] ** -0.5  # (B, R, r, C, c, heads)
        if not (rows.is_even and cols.is_even):
            row_padding, col_padding = rows.is_padding(x.device), cols.is_padding(x.device)
            is_padding = row_padding[:, :, None, None, None] | col_padding[:, :, None]  # (R, r, C, c, 1)
            scores = scores.masked_fill(is_padding, float("-inf"))
        weights = _softmax_over_cell(scores)
        merged = (weights[..., None].to(v.dtype) * v).sum((2, 4))  # (B, R, C, heads, d)
        return mean + self.proj(merged.flatten(-2))


def _softmax_over_cell(scores: Tensor) -> Tensor:
    """Softmax of (B, R, r, C, c, heads) over r and c, in float32."""
    scores = scores.float()
    scores = (scores - scores.amax((2, 4), keepdim=True)).exp()
    return scores / scores.sum((2, 4), keepdim=True)


def _cell_mean(x: Tensor, rows: _Axis, cols: _Axis) -> Tensor:
    """Mean over the real tokens of each cell: a padded cell repeats its one position, so the plain mean is right."""
    return cols.split(rows.split(x, 1), 3).mean((2, 4))


def _with_zero_tokens(x: Tensor, rows: _Axis, cols: _Axis) -> tuple[Tensor, _Axis, _Axis]:
    """The tokens with zeros in the padded places, and the two axes of even cells that they now fill."""
    for dim, axis in ((1, rows), (2, cols)):
        cells = axis.split(x, dim)
        is_padding = axis.is_padding(x.device)
        cells = cells.masked_fill(is_padding.view([*is_padding.shape, *[1] * (x.ndim - dim - 1)]), 0)
        x = cells.flatten(dim, dim + 1)
    return x, *(_Axis(tuple(range(0, axis.cells * axis.cell + 1, axis.cell))) for axis in (rows, cols))


class AdaptiveTokenMerger(nn.Module):
    """Applies one shared `GridAttention` level by level (ViTAR, section 3.2)."""

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0, *, padding: Padding = "masked") -> None:
        super().__init__()
        self.block = GridAttention(width, heads, mlp_ratio, padding=padding)
        self.grad_checkpointing = False

    def forward(self, x: Tensor, plan: MergePlan) -> Tensor:
        """Merges tokens (B, rows, cols, D) of the plan's size into (B, *plan.grid, D)."""
        for level in plan.levels:
            if self.grad_checkpointing and torch.is_grad_enabled():
                x = checkpoint(self.block, x, level, use_reentrant=False)
            else:
                x = self.block(x, level)
        return x


class AveragePoolMerger(nn.Module):
    """The mean over each final cell of the plan: the paper's ablation of the merger (Table 7). No parameters."""

    def forward(self, x: Tensor, plan: MergePlan) -> Tensor:
        """Averages tokens (B, rows, cols, D) over the plan's final cells: (B, *plan.grid, D)."""
        if tuple(x.shape[1:3]) != plan.size:
            raise ValueError(f"tokens have a grid of {tuple(x.shape[1:3])}; the plan is for {plan.size}.")
        for dim, edges in ((1, plan.cell_rows), (2, plan.cell_cols)):
            sizes = torch.tensor(edges).diff()
            if int(sizes.max()) == 1:
                continue
            if int(sizes.min()) == int(sizes.max()):
                x = x.unflatten(dim, (len(sizes), -1)).mean(dim + 1)
            else:
                cell_of = torch.repeat_interleave(torch.arange(len(sizes)), sizes).to(x.device)
                shape = list(x.shape)
                shape[dim] = len(sizes)
                total = x.new_zeros(shape).index_add(dim, cell_of, x)
                x = total / sizes.to(x).view([-1 if d == dim else 1 for d in range(x.ndim)])
        return x
