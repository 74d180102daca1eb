"""Grid attention (ViTAR, section 3.2, equation 1): every cell of at most 2x2 tokens becomes one."""

import math
from collections.abc import Callable
from typing import Any, get_args

import torch
from timm.layers import Mlp
from torch import Tensor, nn

from anyres.errors import check_choice
from anyres.layers.cells import Axis, is_padding, places
from anyres.layers.merge_plan import Level
from anyres.layers.options import Padding, Start
from anyres.layers.plain_linear import is_plain_linear

Extent = tuple[float, float]
"""Patches per cell (along rows, along columns), on average over the grid."""


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
        start: "random", or "mean": the last linear maps of attention and feed-forward network start at zero, so that
            the untrained pass is exactly the mean of a cell's tokens. An initialisation of all linear layers from
            outside must be followed by `init_weights`. Not in the paper.
        scale_query: adds to the query's input a learned linear map of log2(patches per cell along rows, along columns),
            so that a pass knows how coarse its tokens are. It starts at zero, without effect. Not in the paper.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float = 4.0,
        *,
        padding: Padding = "masked",
        start: Start = "random",
        scale_query: bool = False,
    ) -> None:
        super().__init__()
        check_choice("padding", padding, get_args(Padding))
        check_choice("start", start, get_args(Start))
        if width % heads:
            raise ValueError(f"width is {width}, heads is {heads}; the heads must divide the width.")
        self.heads, self.head_dim = heads, width // heads
        self.padding, self.start = padding, start
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.scale = nn.Linear(2, width, bias=False) if scale_query else None
        self._compiled: Callable[..., Tensor] | None = None
        self.init_weights()

    def compile_cells(self, **options: Any) -> None:
        """Compiles `merge_cells`, with options of `torch.compile`. Copies of the module are not compiled."""
        self._compiled = torch.compile(GridAttention.merge_cells, **options)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_compiled": None}

    @torch.no_grad()
    def init_weights(self) -> None:
        """Sets to zero what must start at zero; to be called after any initialisation of all linear layers."""
        if self.start == "mean":
            for parameter in (*self.proj.parameters(), *self.mlp.fc2.parameters()):
                nn.init.zeros_(parameter)
        if self.scale is not None:
            nn.init.zeros_(self.scale.weight)

    def forward(
        self,
        x: Tensor,
        level: Level,
        extent: Extent | None = None,
        is_kept: Tensor | None = None,
        base: Tensor | None = None,
    ) -> Tensor:
        """Merges tokens (B, rows, cols, D) of the level's input grid into (B, cell rows, cell cols, D).

        Args:
            x: (B, rows, cols, D).
            level: how they fall into cells.
            extent: patches that a cell of the output covers (along rows, along columns); with `scale_query` only.
            is_kept: (rows, cols) bool, tokens that take part, at least one in each cell; None for all.
            base: (B, cell rows, cell cols, D), what asks and what the answer is added to; None for the mean of a
                cell's tokens (equation 1).

        Raises:
            ValueError: tokens or a base of another grid, cells of more than 2x2, or an extent missing or without
                effect.
        """
        if tuple(x.shape[1:3]) != level.input_grid:
            raise ValueError(f"tokens have a grid of {tuple(x.shape[1:3])}; the level is for {level.input_grid}.")
        if (extent is None) != (self.scale is None):
            needed = "give the patches per cell (rows, cols)" if extent is None else "leave it out"
            raise ValueError(f"extent is {extent} and scale_query is {self.scale is not None}; {needed}.")
        _check_base(base, x, level)
        if is_kept is not None and self.padding == "zeros":
            raise ValueError('padding is "zeros" and patches are skipped; allowed with skipped patches: "masked".')
        if self.skips_queries(level):
            return self.merge_singles(x, base)
        tokens, is_absent = self._apart(x, level, is_kept)
        merged = self.merge(tokens.flatten(0, 2), is_absent, extent, None if base is None else base.flatten(0, 2))
        return merged.unflatten(0, tokens.shape[:3])

    def forward_shares(
        self, x: Tensor, level: Level, extent: Extent | None = None, base: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What `forward` gives, and how much of each cell's attention falls on each of its tokens.

        Returns:
            (B, R, C, D), and shares (B, R, C, places) float32, the mean over the heads; those of a cell's places, which
            are in the order of `cells.places`, sum to 1.
        """
        _check_base(base, x, level)
        if self.skips_queries(level):
            return self.merge_singles(x, base), x.new_ones(*x.shape[:3], 1, dtype=torch.float32)
        tokens, is_absent = self._apart(x, level, None)
        coarseness, base = _coarseness(tokens, extent), None if base is None else base.flatten(0, 2)
        merged, shares = self._merged(tokens.flatten(0, 2), is_absent, coarseness, self._is_absorbed, base)
        return merged.unflatten(0, tokens.shape[:3]), shares.mean(1).unflatten(0, tokens.shape[:3])

    def _apart(self, x: Tensor, level: Level, is_kept: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, rows, cols, D) as those of each cell (B, R, C, places, D), and (B * R * C, places) bool, which
        places hold none, if there are such."""
        rows, cols = Axis(level.rows), Axis(level.cols)
        is_absent = None
        if self.padding == "zeros":
            down, across = level.cell
            x = cols.filled(rows.filled(x, 1, down), 2, across)
            rows, cols = _even_axis(rows, down), _even_axis(cols, across)
        elif not (rows.is_even and cols.is_even):
            is_absent = is_padding(rows, cols, x.device)  # (R, C, 1, places)
        tokens = torch.stack(places(x, rows, cols), dim=3)  # (B, R, C, places, D)
        if is_kept is not None:
            kept = torch.stack(places(is_kept[None, ..., None], rows, cols), dim=-1)[0]  # (R, C, 1, places)
            is_absent = ~kept if is_absent is None else ~kept | is_absent
        if is_absent is not None:
            is_absent = is_absent[:, :, 0].expand(*tokens.shape[:-1]).flatten(0, 2)
        return tokens, is_absent

    def merge(
        self, tokens: Tensor, is_absent: Tensor | None, extent: Extent | None = None, base: Tensor | None = None
    ) -> Tensor:
        """Merges n cells that have been taken apart, (n, places, D) -> (n, D), compiled where that was asked for."""
        merge_cells = GridAttention.merge_cells if self._compiled is None else self._compiled
        return merge_cells(self, tokens, is_absent, _coarseness(tokens, extent), self._is_absorbed, base)

    def skips_queries(self, level: Level) -> bool:
        """Whether a level is done by `merge_singles`: all its cells hold one token, nothing is to be learned, and
        nobody waits for `q` to be called."""
        return level.cell == (1, 1) and not self.training and is_plain_linear(self.q)

    def merge_singles(self, x: Tensor, base: Tensor | None = None) -> Tensor:
        """What a pass makes of cells of one token each, (..., D): softmax over one key is 1. In inference only."""
        x = (x if base is None else base) + self.proj(self._values(self.norm1(x)))
        return x + self.mlp(self.norm2(x))

    def merge_cells(
        self,
        tokens: Tensor,
        is_absent: Tensor | None,
        coarseness: Tensor | None,
        is_absorbed: bool,
        base: Tensor | None = None,
    ) -> Tensor:
        """Equation 1 and the feed-forward network for n cells that have been taken apart.

        Args:
            tokens: (n, places, D), the tokens of every cell.
            is_absent: (n, places) bool, places that hold no token.
            coarseness: (2,), with `scale_query`: log2 of the patches per cell along rows and columns.
            is_absorbed: the weights of keys and values are used without calling `kv`, as `_attended` says.
            base: (n, D), see `forward`.

        Returns:
            (n, D)
        """
        return self._merged(tokens, is_absent, coarseness, is_absorbed, base)[0]

    def _merged(
        self,
        tokens: Tensor,
        is_absent: Tensor | None,
        coarseness: Tensor | None,
        is_absorbed: bool,
        base: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`merge_cells`, and the shares (n, heads, places) of a cell's tokens in its attention."""
        if base is None:
            base = _mean(tokens, is_absent)
        query = self.norm1(base)  # in equation 1 the mean of a cell is what asks its tokens
        if self.scale is not None and coarseness is not None:
            query = query + self.scale(coarseness[None])  # rows, since quantised layers take no vector
        tokens = self.norm1(tokens)
        attend = self._attend_absorbed if is_absorbed else self._attend_as_written
        attended, shares = attend(self.q(query), tokens, is_absent)
        x = base + self.proj(attended)  # the residual is what asked, not a token
        return x + self.mlp(self.norm2(x)), shares

    @property
    def _is_absorbed(self) -> bool:
        return is_plain_linear(self.kv)

    def _attend_as_written(self, q: Tensor, tokens: Tensor, is_absent: Tensor | None) -> tuple[Tensor, Tensor]:
        """Equation 1 as it is written, for a `kv` that must be called: attended values (n, D), and the shares."""
        keys, values = (
            self.kv(tokens).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # (n, heads, places, d)
        scores = (keys @ q.unflatten(1, (self.heads, -1, 1)).to(keys.dtype))[..., 0]  # (n, heads, places)
        shares = self._shares(scores, is_absent)
        return (shares.to(values.dtype)[:, :, None] @ values).flatten(1), shares

    def _values(self, tokens: Tensor) -> Tensor:
        """The values alone, (..., D)."""
        if self._is_absorbed:
            return nn.functional.linear(tokens, *self._value_weights())
        return self.kv(tokens).chunk(2, dim=-1)[1]

    def _value_weights(self) -> tuple[Tensor, Tensor]:
        width = self.heads * self.head_dim
        return self.kv.weight[width:], self.kv.bias[width:]

    def _attend_absorbed(self, q: Tensor, tokens: Tensor, is_absent: Tensor | None) -> tuple[Tensor, Tensor]:
        """The same without keys and values, see `_attended`."""
        shares = self._shares(self._absorbed_scores(q, tokens), is_absent)
        return self._attended(shares.to(tokens.dtype), tokens), shares

    def _attended(self, shares: Tensor, tokens: Tensor) -> Tensor:
        """The values of a cell's tokens (n, places, D), weighted by their shares (n, heads, places): (n, D).

        With a single query, q . (W_k x) = (W_k^T q) . x and sum a W_v x = W_v sum a x, so that the weights of keys and
        values meet a cell once instead of each of its tokens. The bias of the keys adds the same to all scores of a
        query and drops out. Faster in every precision than the plain form that the tests compare it with (docs/log.md).
        """
        values = self.kv.weight.chunk(2)[1].unflatten(0, (self.heads, -1))  # (heads, D / heads, D)
        found = (shares @ tokens).transpose(0, 1)  # (heads, n, D)
        merged = (found @ values.transpose(1, 2)).transpose(0, 1)  # (n, heads, D / heads)
        return merged.flatten(1) + self._value_weights()[1]

    def _absorbed_scores(self, q: Tensor, tokens: Tensor) -> Tensor:
        """Products of one query (n, D) with the keys of a cell's tokens (n, places, D): (n, heads, places)."""
        keys = self.kv.weight.chunk(2)[0].unflatten(0, (self.heads, -1))  # (heads, D / heads, D)
        q = q.unflatten(1, (self.heads, -1)).transpose(0, 1)  # (heads, n, D / heads)
        asked = (q @ keys).transpose(0, 1)  # (n, heads, D)
        return asked @ tokens.transpose(1, 2)

    def _shares(self, scores: Tensor, is_absent: Tensor | None) -> Tensor:
        """Attention of one query on a cell's tokens: (n, heads, places) float32, summing to 1."""
        scores = scores.float() * self.head_dim**-0.5
        if is_absent is not None:
            scores = scores.masked_fill(is_absent[:, None], float("-inf"))
        return scores.softmax(-1)


def _check_base(base: Tensor | None, x: Tensor, level: Level) -> None:
    needed = (len(x), *level.output_grid, x.shape[-1])
    if base is not None and tuple(base.shape) != needed:
        raise ValueError(f"the base has shape {tuple(base.shape)}; needed for the cells of the level: {needed}.")


def _mean(tokens: Tensor, is_absent: Tensor | None) -> Tensor:
    """The mean of the tokens that each cell holds: (n, places, D) -> (n, D)."""
    if is_absent is None:
        return tokens.mean(1)
    weights = (~is_absent).to(tokens.dtype)[..., None]  # (n, places, 1)
    return (tokens * weights).sum(1) / weights.sum(1)


def _coarseness(tokens: Tensor, extent: Extent | None) -> Tensor | None:
    return None if extent is None else tokens.new_tensor([math.log2(patches) for patches in extent])


def _even_axis(axis: Axis, cell: int) -> Axis:
    """The axis after `filled`, where all cells are of one size."""
    return Axis(tuple(range(0, axis.cells * cell + 1, cell)))
