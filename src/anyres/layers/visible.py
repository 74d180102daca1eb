"""Merging where only some patches of each image are visible, at the cost of those alone.

Tokens of the visible places of B images are one list (n, D), in the order of `is_visible` (B, rows, cols). A cell is
merged from its visible tokens; a cell without any does not come into being. With whole cells visible or hidden the
result is what the merger makes of the whole image at those cells.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from anyres.layers.cells import Axis, is_padding, places
from anyres.layers.merge_plan import Level, MergePlan
from anyres.layers.merging import AdaptiveTokenMerger
from anyres.layers.pyramid_merger import bases_of


def merge_visible(
    merger: AdaptiveTokenMerger, x: Tensor, is_visible: Tensor, plan: MergePlan, bases: Sequence[Tensor] = ()
) -> tuple[Tensor, Tensor]:
    """Applies all levels of a plan to the visible tokens of images.

    Args:
        merger: with masked padding.
        x: (n, D), the tokens of the visible places.
        is_visible: (B, rows, cols) bool on the plan's patches, n of them true.
        plan: how the patches of each image are merged.
        bases: of a pyramid merger, (m, D) for each level of the plan: those of the cells that hold a visible patch.

    Returns:
        (m, D), the tokens of the cells that hold a visible patch, and which those are, (B, R, C) bool.
    """
    for index, base in enumerate(bases_of(merger, bases, plan)):
        x, is_visible = _merge_level(merger, x, is_visible, plan, index, base)
    return x, is_visible


def visible_cells(is_visible: Tensor, level: Level) -> Tensor:
    """Which cells of a level hold something visible: (B, rows, cols) -> (B, R, C) bool."""
    return torch.stack(places(is_visible, Axis(level.rows), Axis(level.cols)), dim=-1).any(dim=-1)


def _merge_level(
    merger: AdaptiveTokenMerger, x: Tensor, is_visible: Tensor, plan: MergePlan, index: int, base: Tensor | None
) -> tuple[Tensor, Tensor]:
    level, block = plan.levels[index], merger.block
    if block.skips_queries(level):
        return merger.weighted(block.merge_singles(x, base), base, plan, index), is_visible
    tokens, is_absent, is_visible = _taken_apart(x, is_visible, Axis(level.rows), Axis(level.cols))
    if merger.is_plain(plan, index):
        if is_absent is None:
            return tokens.mean(1), is_visible
        weights = (~is_absent).to(x.dtype)[..., None]  # (m, places, 1)
        return (tokens * weights).sum(1) / weights.sum(1), is_visible
    arguments = (tokens, is_absent, merger.extent(plan, index), base)
    if merger.grad_checkpointing and torch.is_grad_enabled():
        merged = checkpoint(block.merge, *arguments, use_reentrant=False)
    else:
        merged = block.merge(*arguments)
    return merger.weighted(merged, base, plan, index), is_visible


def _taken_apart(x: Tensor, is_visible: Tensor, rows: Axis, cols: Axis) -> tuple[Tensor, Tensor | None, Tensor]:
    """The tokens of the cells that hold any, (m, places, D); which places have none, (m, places), or None if all have
    one; and which cells those are, (B, R, C)."""
    order = is_visible.flatten().cumsum(0).sub_(1).clamp_(min=0).view_as(is_visible)  # place of each token in x
    where = torch.stack(places(order, rows, cols), dim=-1)  # (B, R, C, places)
    is_there = torch.stack(places(is_visible, rows, cols), dim=-1)
    if not (rows.is_even and cols.is_even):
        is_there = is_there & ~is_padding(rows, cols, x.device)[:, :, 0]
    is_cell = is_there.any(dim=-1)  # (B, R, C)
    is_absent = ~is_there[is_cell]
    return x[where[is_cell]], is_absent if bool(is_absent.any()) else None, is_cell
