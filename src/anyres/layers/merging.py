"""Grid attention and the adaptive token merger (ViTAR, section 3.2), and the mergers that it is compared with.

All of them take tokens (B, rows, cols, D) and a merge plan for that grid, and return the plan's final grid. Each is
`finish` after one `step` for each level of the plan; a step can also be done on a rectangle of the level's cells alone
(`Level.part`), which is how images are merged piece by piece (`pieces`).

    merger               what a cell becomes                                   levels       parameters     1x1 passes
    AdaptiveTokenMerger  mean + attention of the mean over the cell's tokens,  one by one   one block      run
                         then a feed-forward network (equation 1)
      learned_levels=n   the same in the last n levels that merge and in 1x1   one by one   the same       run
                         passes; before them the plain mean
      start="mean"       the same; untrained it is exactly the plain mean      one by one   the same       run
      scale_query=True   the same; the query also knows how many patches a     one by one   2 D more       run
                         cell covers
    ConcatMerger         norm and linear map of its four tokens side by side,  one by one   4 D^2 + 8 D    skipped
                         absent ones zero (as in Swin)
    AveragePoolMerger    plain mean of the patches of the final cell           all at once  none           no effect

Parameters are shared by all levels.
Means are over the tokens that a cell really holds, also where it holds fewer than its neighbours; only
`padding="zeros"` counts the absent ones. Where patches of an image were skipped (`counts`, how many that were not
stand behind each token), the tokens without any take no part, except that a cell left empty keeps its first. The
content-adaptive rival, ToMe, merges inside the trunk: `token_merging`.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from anyres.layers.cells import Axis, cell_areas, cell_mean, cell_sum, is_padding, kept_tokens
from anyres.layers.grid_attention import Extent, GridAttention
from anyres.layers.merge_plan import Grid, Level, MergePlan
from anyres.layers.options import Padding, Start


def _check_size(x: Tensor, plan: MergePlan) -> None:
    if tuple(x.shape[1:3]) != plan.size:
        raise ValueError(f"tokens have a grid of {tuple(x.shape[1:3])}; the plan is for {plan.size}.")


def _merge(merger: "AdaptiveTokenMerger | ConcatMerger", x: Tensor, plan: MergePlan) -> Tensor:
    """All levels of a plan in turn."""
    _check_size(x, plan)
    for index, level in enumerate(plan.levels):
        x, _ = merger.step(x, plan, index, level)
    return merger.finish(x, plan)


class AdaptiveTokenMerger(nn.Module):
    """Applies one shared `GridAttention` level by level (ViTAR, section 3.2).

    Args:
        width, heads, mlp_ratio, padding, start, scale_query: see `GridAttention`.
        learned_levels: only the last so many levels that merge use the block; the ones before them, where an image is
            larger, take the plain mean of the real tokens of their cells. Passes with 1x1 cells always use the block.
            None: all levels are learned (the paper).
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
        learned_levels: int | None = None,
    ) -> None:
        super().__init__()
        if learned_levels is not None and learned_levels < 0:
            raise ValueError(f"learned_levels is {learned_levels}; give 0 or more, or None for all levels.")
        self.block = GridAttention(width, heads, mlp_ratio, padding=padding, start=start, scale_query=scale_query)
        self.learned_levels = learned_levels
        self.grad_checkpointing = False

    def forward(self, x: Tensor, plan: MergePlan) -> Tensor:
        """Merges tokens (B, rows, cols, D) of the plan's size into (B, *plan.grid, D)."""
        return _merge(self, x, plan)

    def step(
        self,
        x: Tensor,
        plan: MergePlan,
        index: int,
        level: Level,
        counts: Tensor | None = None,
        base: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Level `index` of a plan, or a part of it: tokens (B, rows, cols, D) -> (B, R, C, D), and their counts."""
        is_kept = None
        if counts is not None:
            is_kept, counts = kept_tokens(counts, level.rows, level.cols)
        if self.is_plain(plan, index):
            if is_kept is None:
                return cell_mean(x, level.rows, level.cols), counts
            total = cell_sum(x * is_kept[..., None], level.rows, level.cols)
            number = cell_sum(is_kept[None, ..., None].float(), level.rows, level.cols)
            return (total / number).to(x.dtype), counts
        extent = self.extent(plan, index)
        if self.grad_checkpointing and torch.is_grad_enabled():
            merged = checkpoint(self.block, x, level, extent, is_kept, base, use_reentrant=False)
        else:
            merged = self.block(x, level, extent, is_kept, base)
        return self.weighted(merged, base, plan, index), counts

    def step_shares(self, x: Tensor, plan: MergePlan, index: int, base: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Level `index` of a plan as `step`, and the shares (B, R, C, places) of a cell's tokens in its attention;
        they are equal in a level of plain means."""
        level, extent = plan.levels[index], self.extent(plan, index)
        if self.is_plain(plan, index):
            absent = is_padding(Axis(level.rows), Axis(level.cols), x.device)[:, :, 0]  # (R, C, places)
            weights = (~absent).float()
            shares = weights / weights.sum(-1, keepdim=True)
            return cell_mean(x, level.rows, level.cols), shares.expand(len(x), -1, -1, -1)
        if self.grad_checkpointing and torch.is_grad_enabled():
            merged, shares = checkpoint(self.block.forward_shares, x, level, extent, base, use_reentrant=False)
        else:
            merged, shares = self.block.forward_shares(x, level, extent, base)
        return self.weighted(merged, base, plan, index), shares

    def weighted(self, merged: Tensor, base: Tensor | None, plan: MergePlan, index: int) -> Tensor:
        """What level `index` of a plan leaves, (..., D): all that the block gives; see `PyramidMerger`."""
        return merged

    def extent(self, plan: MergePlan, index: int) -> Extent | None:
        """Patches that a cell of level `index` covers, where the block is to be told."""
        return None if self.block.scale is None else _extent(plan.size, plan.levels[index].output_grid)

    def is_plain(self, plan: MergePlan, index: int) -> bool:
        """Whether level `index` takes plain means instead of the block."""
        if self.learned_levels is None or plan.levels[index].is_identity:
            return False
        return sum(not level.is_identity for level in plan.levels[index:]) > self.learned_levels

    def finish(self, x: Tensor, plan: MergePlan, counts: Tensor | None = None) -> Tensor:
        """Nothing is left to do after the last level."""
        return x


def _extent(patches: Grid, cells: Grid) -> Extent:
    return patches[0] / cells[0], patches[1] / cells[1]


class ConcatMerger(nn.Module):
    """2x2 tokens side by side, LayerNorm and a linear layer back to D, level by level with shared weights.

    This is Swin's patch merging (arXiv 2103.14030, section 3.1) with an output as wide as its input. The linear layer
    always sees four tokens in the order (row 0, col 0), (row 0, col 1), (row 1, col 0), (row 1, col 1). Where a cell
    holds fewer, the absent ones are zero *before* the norm: that is how Swin treats odd sides, and because the norm
    then spans tokens and zeros alike, what enters the linear layer has the same magnitude however many are absent.
    Levels with 1x1 cells merge nothing and are skipped; an image of at most the final grid passes unchanged.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor, plan: MergePlan) -> Tensor:
        """Merges tokens (B, rows, cols, D) of the plan's size into (B, *plan.grid, D)."""
        return _merge(self, x, plan)

    def step(
        self, x: Tensor, plan: MergePlan, index: int, level: Level, counts: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Level `index` of a plan, or a part of it: tokens (B, rows, cols, D) -> (B, R, C, D), and their counts."""
        if counts is not None:
            is_kept, counts = kept_tokens(counts, level.rows, level.cols)
            x = x * is_kept[..., None]
        if not plan.levels[index].is_identity:
            x = Axis(level.cols).filled(Axis(level.rows).filled(x, 1, 2), 2, 2)  # (B, 2 R, 2 C, D)
            cells = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).transpose(2, 3)  # (B, R, C, 2, 2, D)
            x = self.reduction(self.norm(cells.flatten(3)))  # (B, R, C, D)
        return x, counts

    def finish(self, x: Tensor, plan: MergePlan, counts: Tensor | None = None) -> Tensor:
        """Nothing is left to do after the last level."""
        return x


class AveragePoolMerger(nn.Module):
    """The mean over each final cell of the plan: the paper's ablation of the merger (Table 7). No parameters."""

    def forward(self, x: Tensor, plan: MergePlan) -> Tensor:
        """Averages tokens (B, rows, cols, D) over the plan's final cells: (B, *plan.grid, D)."""
        _check_size(x, plan)
        return cell_mean(x, plan.cell_rows, plan.cell_cols)

    def step(
        self, x: Tensor, plan: MergePlan, index: int, level: Level, counts: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Level `index` of a plan, or a part of it: sums (B, rows, cols, D) -> (B, R, C, D) in float32, and counts."""
        if counts is not None:
            is_kept, counts = kept_tokens(counts, level.rows, level.cols)
            x = x * is_kept[..., None]
        return cell_sum(x, level.rows, level.cols), counts

    def finish(self, x: Tensor, plan: MergePlan, counts: Tensor | None = None) -> Tensor:
        """Divides the sums by the number of patches: (B, *plan.grid, D)."""
        number = cell_areas(plan.cell_rows, plan.cell_cols, x.device) if counts is None else counts.clamp_min(1)
        return x / number[..., None]
