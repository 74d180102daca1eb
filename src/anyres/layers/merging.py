"""Grid attention and the adaptive token merger (ViTAR, section 3.2), and the mergers that it is compared with.

All of them take tokens (B, rows, cols, D) and a merge plan for that grid, and return the plan's final grid.
"""

import functools
from collections.abc import Sequence
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
        self.index = (list(boundaries[:-1]), [stop - 1 for stop in boundaries[1:]])

    def places(self, x: Tensor, dim: int) -> list[Tensor]:
        """The first tokens of all cells along axis `dim`, and the second ones where cells hold two."""
        if self.is_even:
            return [x[(slice(None),) * dim + (slice(place, None, self.cell),)] for place in range(self.cell)]
        return [x.index_select(dim, torch.tensor(self.index[place], device=x.device)) for place in range(self.cell)]

    def is_padding(self, device: torch.device) -> Tensor:
        """(cells, cell), true for the second place of a cell that holds one position."""
        place = torch.arange(self.cell, device=device)
        return place >= torch.tensor(self.sizes, device=device)[:, None]


def _places(x: Tensor, rows: _Axis, cols: _Axis) -> list[Tensor]:
    """The one, two or four tokens of every cell: tensors (B, R, C, D) for R x C cells. No loop over cells."""
    return [place for half in rows.places(x, 1) for place in cols.places(half, 2)]


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
        """Equation 1. Written as sums over a cell's places: a query meets few keys, too few for a matrix product."""
        tokens = _places(x, rows, cols)
        mean = _sum(tokens) / len(tokens)  # (B, R, C, D); a padded cell repeats its token, so this is its mean
        head = (self.heads, -1)
        q = self.q(self.norm1(mean))
        k, v = self.kv(self.norm1(x)).chunk(2, dim=-1)  # (B, rows, cols, D) each
        scores = [(q * key).unflatten(-1, head).sum(-1) for key in _places(k, rows, cols)]  # (B, R, C, heads) each
        scores = torch.stack(scores, dim=-1).float() * (x.shape[-1] // self.heads) ** -0.5  # (B, R, C, heads, places)
        if not (rows.is_even and cols.is_even):
            scores = scores.masked_fill(_is_padding(rows, cols, x.device), float("-inf"))
        weights = scores.softmax(-1).to(v.dtype).unbind(-1)
        values = [value.unflatten(-1, head) for value in _places(v, rows, cols)]
        merged = _sum([weight[..., None] * value for weight, value in zip(weights, values, strict=True)])
        return mean + self.proj(merged.flatten(-2))


def _sum(parts: Sequence[Tensor]) -> Tensor:
    return functools.reduce(torch.add, parts)


def _is_padding(rows: _Axis, cols: _Axis, device: torch.device) -> Tensor:
    """(R, C, 1, places), true where the place of a cell is padding."""
    either = rows.is_padding(device)[:, None, :, None] | cols.is_padding(device)[:, None, :]  # (R, C, r, c)
    return either.flatten(2)[:, :, None]


def _with_zero_tokens(x: Tensor, rows: _Axis, cols: _Axis) -> tuple[Tensor, _Axis, _Axis]:
    """The tokens with zeros in the padded places, and the two axes of even cells that they now fill."""
    for dim, axis in ((1, rows), (2, cols)):
        cells = torch.stack(axis.places(x, dim), dim=dim + 1)
        is_padding = axis.is_padding(x.device)
        cells = cells.masked_fill(is_padding.view([*is_padding.shape, *[1] * (x.ndim - dim - 1)]), 0)
        x = cells.flatten(dim, dim + 1)
    return x, _even_axis(rows), _even_axis(cols)


def _even_axis(axis: _Axis) -> _Axis:
    return _Axis(tuple(range(0, axis.cells * axis.cell + 1, axis.cell)))


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
            sizes = [stop - start for start, stop in zip(edges, edges[1:], strict=False)]
            if max(sizes) == 1:
                continue
            if min(sizes) == max(sizes):
                x = x.unflatten(dim, (len(sizes), -1)).mean(dim + 1)
                continue
            cell_of = torch.tensor([cell for cell, size in enumerate(sizes) for _ in range(size)], device=x.device)
            shape = list(x.shape)
            shape[dim] = len(sizes)
            total = x.new_zeros(shape).index_add(dim, cell_of, x)
            counts = torch.tensor(sizes, device=x.device, dtype=x.dtype)
            x = total / counts.view([-1 if d == dim else 1 for d in range(x.ndim)])
        return x
