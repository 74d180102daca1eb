"""Final grids of constant area that follow the image's shape, so that nothing is squashed. Not in the paper, whose grid
is the same for every image. Integer arithmetic only."""

from math import isqrt

from anyres.layers.merge_plan import Grid


def aspect_grid(size: Grid, area: int) -> Grid:
    """The grid of about `area` tokens for an image of `size` = (rows, cols) patches.

    Each side is sqrt(area * side / other side), rounded, halves up, and at least 1. Where that is more than
    `most_tokens(area)`, because both were rounded up or the shorter one was lifted to 1, the longer side is cut.

    An image of the shape of a grid of this area gets exactly that grid. Transposing the image transposes its grid, and
    more rows to a column never give fewer rows nor more columns.
    """
    if min(size) < 1:
        raise ValueError(f"size is {size[0]}x{size[1]}; both sides must be at least 1.")
    rows, cols = (_side(area, side, other) for side, other in (size, size[::-1]))
    most = most_tokens(area)
    return (rows, min(cols, most // rows)) if rows < cols else (min(rows, most // cols), cols)


def most_tokens(area: int) -> int:
    """The most that `aspect_grid` gives an image of any shape: `area` and half a side of its square, 203 for 14x14."""
    side = _side(area, 1, 1)
    return max(area + side // 2, side**2)  # the latter is more for some areas that are no square


def least_tokens(size: Grid, area: int) -> int:
    """A lower bound of the tokens that an image of `size` patches leaves, no side being enlarged; it never falls as the
    image grows, which the number itself does."""
    # of as many patches or fewer nothing is merged; else the least is where sqrt(area / shape) is rounded from 1.5 to 1
    return min(size[0] * size[1], max(2 * area // 3, 1))


def _side(area: int, side: int, other: int) -> int:
    # 2 * sqrt(x) rounded down is isqrt(4 * x), which makes the rounding exact
    return max((isqrt(4 * area * side // other) + 1) // 2, 1)
