"""Grids of constant area: exhaustive over small images and areas."""

import math
from fractions import Fraction
from itertools import pairwise

import pytest

from anyres.layers.aspect_grid import aspect_grid, least_tokens, most_tokens

SHAPES = sorted(
    {Fraction(rows, cols) for rows in range(1, 25) for cols in range(1, 25)} | {Fraction(1, 300), Fraction(300)}
)


def grids(area):
    """The grid of every shape, from the widest to the tallest."""
    return [aspect_grid((shape.numerator, shape.denominator), area) for shape in SHAPES]


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((1, 1), (14, 14)), ((97, 97), (14, 14)), ((20, 10), (20, 10)), ((30, 40), (12, 16)), ((70, 280), (7, 28)),
        ((99, 100), (14, 14)), ((9, 16), (11, 18)), ((2, 7), (7, 27)), ((1, 88), (1, 195)), ((1, 300), (1, 196)),
        ((10**9, 1), (196, 1)),
    ],
)  # fmt: skip
def test_by_hand(size, grid):
    assert aspect_grid(size, 14 * 14) == grid


@pytest.mark.parametrize("area", [*range(1, 70), 196, 197, 209, 210, 256, 1024])
def test_every_small_image(area):
    found = grids(area)
    assert found[::-1] == [(cols, rows) for rows, cols in found]
    for (rows, cols), (more_rows, fewer_cols) in pairwise(found):
        assert more_rows >= rows and fewer_cols <= cols
    for shape, (rows, cols) in zip(SHAPES, found, strict=True):
        assert rows >= 1 and cols >= 1 and rows * cols <= most_tokens(area)
        assert aspect_grid((rows, cols), area) == (rows, cols)
        true = math.sqrt(area * shape), math.sqrt(area / shape)
        (short, true_short), (long, true_long) = sorted(zip((rows, cols), true, strict=True), key=lambda pair: pair[1])
        assert abs(short - true_short) <= 0.5 + 1e-9 or short == 1 > true_short
        # the longer side is that of the area, as near to the true one as it may be
        may_be = [n for n in (math.ceil(area / short) - 1, math.ceil(area / short)) if n * short <= most_tokens(area)]
        assert long == min(may_be, key=lambda n: (round(abs(n - true_long), 9), -n)) or rows == cols


@pytest.mark.parametrize("side", range(1, 40))
def test_squares_get_a_square_and_every_grid_gets_itself(side):
    assert all(aspect_grid((n, n), side**2) == (side, side) for n in range(1, 60))
    assert all(aspect_grid((k * side, k * 7), 7 * side) == (side, 7) for k in (1, 2, 5))
    assert most_tokens(side**2) == side**2 + side // 2


def test_what_the_configuration_says_of_14x14():
    found = list(zip(SHAPES, grids(14 * 14), strict=True))
    counts = {math.prod(grid) for _, grid in found}
    assert min(counts) >= 186 and max(counts) == 200
    usual = [float(Fraction(*grid) / shape) for shape, grid in found if 1 / 4 <= shape <= 4]
    assert min(usual) > 1 / 1.11 and 1.1 < max(usual) < 1.11


@pytest.mark.parametrize("area", [1, 2, 3, 4, 9, 12, 16, 30, 49, 196])
def test_what_is_left_of_small_images_and_at_least(area):
    """An image of no more patches than the area keeps them all; the bound holds and grows with the image."""
    for size in ((rows, cols) for rows in range(1, 31) for cols in [*range(1, 61), 300]):
        kept = math.prod(min(pair) for pair in zip(size, aspect_grid(size, area), strict=True))
        least = least_tokens(size, area)
        assert kept == math.prod(size) if math.prod(size) <= area else kept >= max(least, 1)
        assert least <= kept and least_tokens((size[0] + 1, size[1]), area) >= least


def test_nothing_has_no_shape():
    with pytest.raises(ValueError, match="size is 0x3; both sides must be at least 1"):
        aspect_grid((0, 3), 16)
