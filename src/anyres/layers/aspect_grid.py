"""Final grids of constant area that follow the image's shape, so that nothing is squashed. Not in the paper, whose grid
is the same for every image. Integer arithmetic only."""

from math import isqrt

from anyres.layers.merge_plan import Grid


def aspect_grid(size: Grid, area: int) -> Grid:
    """The grid of about `area` tokens for an image of `size` = (rows, cols) patches.

    Each side is sqrt(area * side / other side), rounded, halves up, and at least 1; the longer one is then held to what
    makes the area: area / shorter side, rounded up or one less, and no more than `most_tokens`.

    A square gets a square, an image of the shape of a grid of just this area that grid, and one of as many patches as a
    grid found here the same grid. Transposing the image transposes its grid, and more rows to a column never give fewer
    rows nor more columns.
    """
    if min(size) < 1:
        raise ValueError(f"size is {size[0]}x{size[1]}; both sides must be at least 1.")
    rows, cols = (_side(area, side, other) for side, other in (size, size[::-1]))
    return (rows, _held(cols, rows, area)) if rows < cols else (_held(rows, cols, area), cols)


def most_tokens(area: int) -> int:
    """An upper bound of what `aspect_grid` gives: the area and half a side of its square, 203 for 14x14."""
    side = _side(area, 1, 1)
    return max(area + side // 2, side**2)  # the latter is more for some areas that are no square


def least_tokens(size: Grid, area: int) -> int:
    """A lower bound of the tokens that an image of `size` patches leaves, no side being enlarged; it never falls as the
    image grows, which the number itself does."""
    # as many patches or fewer are all kept; of more, the longer side may lack one cell, or where the shorter is merged
    # to few, such as 2 to 1, have fewer patches than there would be cells
    return min(size[0] * size[1], max(min(area - _side(area, 1, 1), 8 * area // 9), 1))


def _side(area: int, side: int, other: int) -> int:
    # 2 * sqrt(x) rounded down is isqrt(4 * x), which makes the rounding exact
    return max((isqrt(4 * area * side // other) + 1) // 2, 1)


def _held(long: int, short: int, area: int) -> int:
    full = -(-area // short)
    return min(max(long, full - 1), full, most_tokens(area) // short)
