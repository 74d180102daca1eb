"""What layers can be told, without torch: the choices, and the checks that a configuration makes of them."""

import math
from typing import Literal

from anyres.layers.merge_plan import Grid
from anyres.sizes import size_text

Padding = Literal["masked", "zeros"]
"""Padded places of a cell: out of the mean and never a key, or the literal zero tokens of the paper."""

Start = Literal["random", "mean"]
"""Untrained grid attention: of random weights, or exactly the mean of a cell's tokens."""

Interpolation = Literal["bilinear", "bicubic", "timm"]
"""How a position table is read at other grids than its own; "timm" is bicubic and antialiased."""

LEAST_CELLS = 4
"""Fewest cells of a grid that can be masked."""

_ROUNDING = 1e-6


def check_amount(amount: float) -> None:
    """Raises ValueError unless `amount` is 0, a share below 1 or a whole number."""
    if not 0 <= amount < float("inf") or (amount > 1 and amount != int(amount)):
        nearest = max(round(amount), 0) if abs(amount) < float("inf") else 16
        raise ValueError(
            f"the amount of tokens to merge is {amount}; give 0 (none), a share between 0 and 1, or a whole number of "
            f"tokens; nearest: {nearest}."
        )


def usual_global_blocks(depth: int) -> tuple[int, ...]:
    """Four blocks spread evenly, counted from 0, the last of them the last block: of 12 those that ViTDet takes."""
    return tuple(sorted({max(depth * part // 4 - 1, 0) for part in (1, 2, 3, 4)}))


def visible_count(grid: Grid, ratio: float) -> int:
    """How many of a grid's cells stay visible: a share of 1 - `ratio`, rounded down (as in MAE).

    Raises:
        ValueError: fewer than four cells, or none that stays visible or none that is hidden.
    """
    cells = grid[0] * grid[1]
    given = f"the grid has {size_text(grid)} cells"
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


def doublings(scale: float) -> int:
    """How often a map is doubled (or, if negative, halved) for a scale. ValueError unless it is a power of two."""
    if not 0 < scale < math.inf:
        raise ValueError(f"scale is {scale:g}; allowed: powers of two, such as 4, 2, 1 and 0.5")
    steps = round(math.log2(scale))
    if 2.0**steps != scale:
        raise ValueError(f"scale is {scale:g}; allowed: powers of two; nearest: {2.0**steps:g}")
    return steps
