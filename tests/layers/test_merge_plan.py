"""The plan: the chains that must come out, and what holds for every size."""

import pytest
from hypothesis import given, strategies as st

from anyres.layers import MergePlan

SIDES = st.integers(1, 700)
GRIDS = st.tuples(st.integers(1, 28), st.integers(1, 28))


@pytest.mark.parametrize(
    ("side", "chain"),
    [
        (32, [32, 16, 14]),
        (70, [70, 35, 18, 14]),
        (252, [252, 126, 63, 32, 16, 14]),
        (28, [28, 14]),
        (29, [29, 15, 14]),
        (27, [27, 14]),
        (15, [15, 14]),
        (14, [14]),
        (9, [9]),
        (1, [1]),
    ],
)
def test_paper_chains(side, chain):
    plan = MergePlan.halving((side, side), (14, 14))
    assert plan.chain == tuple((n, n) for n in chain)
    assert plan.levels[-1].is_identity  # the last pass
    assert len(plan.levels) == len(chain)


def test_axes_are_independent():
    assert MergePlan.halving((40, 14), (14, 14)).chain == ((40, 14), (20, 14), (14, 14))
    assert MergePlan.halving((9, 9), (14, 14)).chain == ((9, 9),)
    wide = MergePlan.halving((1, 300), (14, 14))
    assert wide.chain == ((1, 300), (1, 150), (1, 75), (1, 38), (1, 19), (1, 14))


def test_printed():
    assert str(MergePlan.halving((70, 40), (14, 14))) == "70x40 > 35x20 > 18x14 > 14x14 + 1 pass of 1x1 cells"
    assert str(MergePlan.fixed((5, 8), 2)) == "5x8 > 3x4"


def test_halving_boundaries_by_hand():
    level = MergePlan.halving((7, 5), (4, 3)).levels[0]
    assert level.rows == (0, 2, 4, 5, 7)  # floor(i * 7 / 4 + 1/2)
    assert level.cols == (0, 2, 3, 5)


@given(size=st.tuples(SIDES, SIDES), grid=GRIDS, kind=st.sampled_from(["halving", "balanced"]))
def test_every_plan_is_a_partition_into_small_cells(size, grid, kind):
    plan = getattr(MergePlan, kind)(size, grid)
    assert plan.grid == (min(size[0], grid[0]), min(size[1], grid[1]))
    current = size
    for level in plan.levels:
        assert level.input_grid == current
        for boundaries in (level.rows, level.cols):
            cells = [b - a for a, b in zip(boundaries, boundaries[1:], strict=False)]
            assert boundaries[0] == 0
            assert set(cells) <= {1, 2}
        current = level.output_grid
    assert current == plan.grid


@given(size=st.tuples(SIDES, SIDES), grid=GRIDS)
def test_composed_cells_follow_every_patch(size, grid):
    """`cell_rows` against following each row of patches through the levels one by one."""
    plan = MergePlan.halving(size, grid)
    for axis, edges in (("rows", plan.cell_rows), ("cols", plan.cell_cols)):
        for patch in range(edges[-1]):
            place = patch
            for level in plan.levels:
                boundaries = getattr(level, axis)
                place = next(cell for cell, stop in enumerate(boundaries[1:]) if place < stop)
            assert edges[place] <= patch < edges[place + 1]


@given(side=SIDES, grid=st.integers(1, 28))
def test_balanced_cells_differ_by_at_most_one(side, grid):
    edges = MergePlan.balanced((side, side), (grid, grid)).cell_rows
    cells = [b - a for a, b in zip(edges, edges[1:], strict=False)]
    assert max(cells) - min(cells) <= 1
    if side >= grid:
        assert edges == tuple((2 * i * side + grid) // (2 * grid) for i in range(grid + 1))


@pytest.mark.parametrize(
    ("pixels", "halving", "balanced"),
    [
        (224, {1}, {1}),
        (1120, {2, 4, 8}, {5}),
        (1136, {3, 4, 8}, {5, 6}),
        (3360, {8, 10, 16}, {15}),
        (4032, {12, 16, 32}, {18}),
    ],
)
def test_cell_sides_at_the_papers_sizes(pixels, halving, balanced):
    """Patches along a side of a final cell, patch 16 and grid 14: at 1120 the paper's cells differ fourfold."""
    size = (pixels // 16, pixels // 16)
    for kind, sides in (("halving", halving), ("balanced", balanced)):
        plan = getattr(MergePlan, kind)(size, (14, 14))
        for edges in (plan.cell_rows, plan.cell_cols):
            assert {stop - start for start, stop in zip(edges, edges[1:], strict=False)} == sides
            assert (edges[0], edges[-1], len(edges)) == (0, pixels // 16, 15)


@pytest.mark.parametrize("side", [32, 56, 64, 112, 224])
def test_a_flipped_image_has_flipped_cells(side):
    edges = MergePlan.halving((side, side), (14, 14)).cell_rows
    assert edges == tuple(side - edge for edge in reversed(edges))


@given(size=st.tuples(SIDES, SIDES))
def test_fixed_plans_have_a_constant_stride(size):
    one, two = MergePlan.fixed(size, 1), MergePlan.fixed(size, 2)
    assert one.grid == size
    assert len(one.levels) == len(two.levels) == 1
    assert two.grid == (-(-size[0] // 2), -(-size[1] // 2))
    assert all(edge == 2 * i for i, edge in enumerate(two.cell_rows[:-1]))


def test_extra_passes():
    plan = MergePlan.halving((20, 20), (14, 14))
    deeper = plan.with_extra_passes([1, 2])
    assert len(deeper.levels) == 5
    assert deeper.chain == plan.chain
    assert deeper.cell_rows == plan.cell_rows
    with pytest.raises(ValueError, match="2 levels"):
        plan.with_extra_passes([1])


@pytest.mark.parametrize("size", [(0, 3), (3, 0), (-1, 1)])
def test_impossible_sizes_are_refused(size):
    with pytest.raises(ValueError, match="at least 1"):
        MergePlan.halving(size, (14, 14))
    with pytest.raises(ValueError, match="1 or 2"):
        MergePlan.fixed((3, 3), 3)
