"""What share of a final cell each patch has: the merger's own attention, multiplied over its levels.

The shares of a cell's patches add up to 1, so that whatever is spread by them over the patches keeps its sum.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from anyres.layers.cells import cell_and_place, cell_areas, to_patches
from anyres.layers.merge_plan import MergePlan
from anyres.layers.merging import AdaptiveTokenMerger, AveragePoolMerger, ConcatMerger
from anyres.layers.pyramid_merger import bases_of


def merge_with_shares(
    merger: AdaptiveTokenMerger | AveragePoolMerger | ConcatMerger | None,
    x: Tensor,
    plan: MergePlan,
    bases: Sequence[Tensor] = (),
) -> tuple[Tensor, Tensor]:
    """What a merger makes of tokens (B, rows, cols, D), and the share of every patch in its final cell.

    The mean over the heads at every level, multiplied. Mergers without attention give equal shares, none leaves every
    patch its own. With `padding="zeros"` a part of the attention falls on what is not there, and less than 1 is left.

    Args:
        merger: of any kind.
        x: (B, rows, cols, D).
        plan: how they are merged.
        bases: of a pyramid merger, (B, R, C, D) for each level of the plan.

    Returns:
        (B, *plan.grid, D), and (B, rows, cols) float32.
    """
    if merger is None:
        return x, x.new_ones(x.shape[:3], dtype=torch.float32)
    if not isinstance(merger, AdaptiveTokenMerger):
        areas = to_patches(cell_areas(plan.cell_rows, plan.cell_cols, x.device)[None], plan)
        return merger(x, plan), (1 / areas.float()).expand(len(x), -1, -1)
    total = x.new_ones(len(x), *plan.size, dtype=torch.float32)
    row, col = (torch.arange(side, device=x.device) for side in plan.size)  # the token that each patch is now in
    for index, (level, base) in enumerate(zip(plan.levels, bases_of(merger, bases, plan), strict=True)):
        x, shares = merger.step_shares(x, plan, index, base)
        (row_cell, row_place), (col_cell, col_place) = (
            cell_and_place(level.rows, x.device),
            cell_and_place(level.cols, x.device),
        )
        across = level.cell[1]
        of_tokens = shares[:, row_cell[:, None], col_cell, row_place[:, None] * across + col_place]  # (B, r, c)
        total = total * of_tokens[:, row[:, None], col]
        row, col = row_cell[row], col_cell[col]
    return x, total
