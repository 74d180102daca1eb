"""Concatenation of 2x2 tokens against Swin's patch merging as timm has it, and against a loop over cells."""

import pytest
import torch
from timm.models.swin_transformer import PatchMerging

from anyres.layers import MergePlan
from anyres.layers.merging import ConcatMerger

WIDTH = 6


def make():
    torch.manual_seed(0)
    merger = ConcatMerger(WIDTH).double()
    with torch.no_grad():
        for parameter in merger.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return merger


def swin(merger):
    """timm's layer with the same weights. Its channels go by (col, row) of the token, ours by (row, col)."""
    other = PatchMerging(WIDTH, WIDTH).double()
    order = torch.arange(4 * WIDTH).view(2, 2, WIDTH).transpose(0, 1).flatten()
    with torch.no_grad():
        other.norm.weight.copy_(merger.norm.weight[order])
        other.norm.bias.copy_(merger.norm.bias[order])
        other.reduction.weight.copy_(merger.reduction.weight[:, order])
    return other


@pytest.mark.parametrize("size", [(8, 8), (6, 2), (2, 10), (7, 4), (5, 9), (3, 3), (1, 1), (1, 6)])
def test_one_level_equals_swin(size):
    """Also on odd sides: a fixed plan leaves its short cell at the end, where Swin pads. 1x1 merges nothing here."""
    merger, x = make(), torch.randn(2, *size, WIDTH, dtype=torch.double)
    expected = swin(merger)(x) if size != (1, 1) else x
    torch.testing.assert_close(merger(x, MergePlan.fixed(size, 2)), expected)


@pytest.mark.parametrize("size", [(12, 8), (24, 16)])
def test_levels_share_their_weights(size):
    merger, x = make(), torch.randn(1, *size, WIDTH, dtype=torch.double)
    layer, expected = swin(merger), x
    while expected.shape[1:3] != (3, 2):
        expected = layer(expected)
    torch.testing.assert_close(merger(x, MergePlan.halving(size, (3, 2))), expected)


def reference_level(merger, x, level):
    out = x.new_empty(len(x), *level.output_grid, WIDTH)
    for b in range(len(x)):
        for i in range(level.output_grid[0]):
            for j in range(level.output_grid[1]):
                four = x.new_zeros(2, 2, WIDTH)
                cell = x[b, level.rows[i] : level.rows[i + 1], level.cols[j] : level.cols[j + 1]]
                four[: cell.shape[0], : cell.shape[1]] = cell
                out[b, i, j] = merger.reduction(merger.norm(four.flatten()))
    return out


@pytest.mark.parametrize("kind", ["halving", "balanced"])
@pytest.mark.parametrize("size", [(7, 5), (13, 2), (1, 11), (5, 5), (3, 2), (29, 17), (2, 1)])
def test_equals_the_slow_reference(size, kind):
    merger, x = make(), torch.randn(2, *size, WIDTH, dtype=torch.double)
    plan = getattr(MergePlan, kind)(size, (3, 2))
    expected = x
    for level in plan.levels:
        expected = expected if level.is_identity else reference_level(merger, expected, level)
    out = merger(x, plan)
    assert out.shape[1:3] == plan.grid
    torch.testing.assert_close(out, expected)


def test_last_pass_and_extra_passes_change_nothing():
    merger, x = make(), torch.randn(1, 9, 7, WIDTH, dtype=torch.double)
    plan = MergePlan.halving((9, 7), (3, 2), last_pass=False)
    out = merger(x, plan)
    assert torch.equal(merger(x, MergePlan.halving((9, 7), (3, 2))), out)
    assert torch.equal(merger(x, plan.with_extra_passes([2] * len(plan.levels))), out)


def test_a_final_token_depends_only_on_its_cell():
    merger, plan = make(), MergePlan.halving((17, 9), (5, 4))
    x = torch.randn(1, 17, 9, WIDTH, dtype=torch.double)
    changed = x.clone()
    rows, cols = slice(*plan.cell_rows[2:4]), slice(*plan.cell_cols[1:3])
    changed[:, rows, cols] += torch.randn_like(changed[:, rows, cols])
    assert (merger(changed, plan) != merger(x, plan)).any(-1)[0].nonzero().tolist() == [[2, 1]]


def test_absent_tokens_are_not_of_another_magnitude():
    """What enters the linear layer has unit variance whether a cell holds one token or four."""
    merger, found = make(), []
    merger.norm.reset_parameters()
    merger.reduction.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].var(-1, unbiased=False)))
    x = torch.randn(1, 3, 3, WIDTH, dtype=torch.double)
    merger(x, MergePlan.fixed((3, 3), 2))
    torch.testing.assert_close(found[0], torch.ones(1, 2, 2, dtype=torch.double), rtol=1e-3, atol=0)


def test_tokens_of_another_grid_are_refused():
    with pytest.raises(ValueError, match=r"\(4, 3\); the plan is for \(3, 4\)"):
        make()(torch.randn(1, 4, 3, WIDTH, dtype=torch.double), MergePlan.halving((3, 4), (2, 2)))
