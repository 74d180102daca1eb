"""Masks: how many cells are hidden, that they are a pure function of the key, and that they know unequal cells."""

import pytest
import torch

from anyres.layers.cells import to_patches
from anyres.layers.masking import hidden_cells
from anyres.layers.merge_plan import MergePlan
from anyres.layers.options import visible_count


@pytest.mark.parametrize(
    ("grid", "ratio", "visible"), [((14, 14), 0.75, 49), ((2, 2), 0.75, 1), ((7, 3), 0.75, 5), ((5, 2), 0.9, 1)]
)
def test_as_many_cells_as_in_mae_stay_visible(grid, ratio, visible):
    keys = torch.arange(9) * 104729 - 4
    is_hidden = hidden_cells(keys, grid, ratio)
    assert is_hidden.shape == (9, *grid)
    assert visible_count(grid, ratio) == visible
    assert ((~is_hidden).flatten(1).sum(1) == visible).all()


def test_a_mask_is_a_function_of_its_key_alone():
    keys = torch.tensor([3, 2**62 - 1, 17, 3])
    together = hidden_cells(keys, (13, 7), 0.6)
    alone = [hidden_cells(key[None], (13, 7), 0.6)[0] for key in keys]
    assert torch.equal(together, torch.stack(alone))
    assert torch.equal(together[0], together[3]) and not torch.equal(together[0], together[2])


def test_every_cell_is_hidden_as_often_as_the_ratio_says():
    share = hidden_cells(torch.arange(4000), (5, 4), 0.75).float().mean(0)
    assert (share - 0.75).abs().max() < 4 * (0.75 * 0.25 / 4000) ** 0.5  # four standard deviations


@pytest.mark.parametrize("plan", [
    MergePlan.halving((42, 70), (14, 14)), MergePlan.balanced((23, 37), (5, 7)), MergePlan.halving((3, 29), (14, 4)),
])  # fmt: skip
def test_a_cell_is_expanded_to_the_patches_that_the_plan_merges_into_it(plan):
    numbers = torch.arange(plan.grid[0] * plan.grid[1]).view(1, *plan.grid)
    found = to_patches(numbers, plan)[0]
    for row in range(plan.size[0]):
        for col in range(plan.size[1]):
            r = sum(edge <= row for edge in plan.cell_rows) - 1
            c = sum(edge <= col for edge in plan.cell_cols) - 1
            assert found[row, col] == r * plan.grid[1] + c


@pytest.mark.parametrize(
    ("grid", "ratio", "message"),
    [((1, 3), 0.75, "at least 4"), ((2, 2), 0.9, "none is visible"), ((3, 3), 0.0, "none is hidden")],
)
def test_impossible_masks_are_refused(grid, ratio, message):
    with pytest.raises(ValueError, match=message):
        visible_count(grid, ratio)
