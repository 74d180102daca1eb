"""Which cells of a grid are hidden while a model learns to fill them in: a pure function of an image's key."""

import torch
from torch import Tensor

from anyres.layers.counter_random import counter_uniform
from anyres.layers.merge_plan import Grid, MergePlan

LEAST_CELLS = 4

_MASK = 0x4D41534B  # keeps the draws of masks apart from all others
_ROUNDING = 1e-6


def visible_count(grid: Grid, ratio: float) -> int:
    """How many of a grid's cells stay visible: a share of 1 - `ratio`, rounded down (as in MAE).

    Raises:
        ValueError: fewer than four cells, or none that stays visible or none that is hidden.
    """
    cells = grid[0] * grid[1]
    given = f"the grid has {grid[0]}x{grid[1]} cells"
    if cells < LEAST_CELLS:
        raise ValueError(f"{given}; masking needs at least {LEAST_CELLS}: give larger images or smaller patches.")
    visible = int(cells * (1 - ratio) + _ROUNDING)
    if not 0 < visible < cells:
        what = "visible" if visible <= 0 else "hidden"
        low, high = 1 / cells, (cells - 1) / cells
        raise ValueError(
            f"mask_ratio is {ratio} and {given}, so that none is {what}; allowed here: {low:.3g} to {high:.3g}."
        )
    return visible


def hidden_cells(keys: Tensor, grid: Grid, ratio: float) -> Tensor:
    """Draws the hidden cells of images, all sets of their number being equally likely: (B, rows, cols) bool.

    Args:
        keys: (B,) int64, one for each image; the mask is a pure function of it.
        grid: (rows, cols).
        ratio: share of cells to hide, see `visible_count`.
    """
    visible = visible_count(grid, ratio)
    noise = counter_uniform(keys ^ _MASK, grid)[..., 0].flatten(1)  # (B, cells)
    is_hidden = torch.ones_like(noise, dtype=torch.bool)
    is_hidden.scatter_(1, noise.argsort(dim=1, stable=True)[:, :visible], False)
    return is_hidden.unflatten(1, grid)


def to_patches(of_cells: Tensor, plan: MergePlan) -> Tensor:
    """What is known of final cells (B, R, C), for each patch by the plan's own map: (B, rows, cols)."""
    for dim, edges in ((1, plan.cell_rows), (2, plan.cell_cols)):
        cell_of = [cell for cell in range(len(edges) - 1) for _ in range(edges[cell], edges[cell + 1])]
        of_cells = of_cells.index_select(dim, torch.tensor(cell_of, device=of_cells.device))
    return of_cells
