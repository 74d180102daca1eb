"""Shares of patches in their cells and the way back to patches, against slow references that go patch by patch."""

import math

import pytest
import torch
import torch.nn.functional as F

from anyres.layers.cells import cell_sum, to_patches
from anyres.layers.merge_plan import MergePlan
from anyres.layers.merging import AdaptiveTokenMerger, AveragePoolMerger, ConcatMerger
from anyres.layers.shares import merge_with_shares
from anyres.layers.unmerge import Interpolate, LightHead, Unmerge

WIDTH, HEADS = 12, 3
PLANS = [
    MergePlan.halving((7, 5), (2, 2)),
    MergePlan.halving((13, 2), (3, 3)),
    MergePlan.halving((1, 1), (3, 3)),
    MergePlan.balanced((11, 6), (3, 2)),
    MergePlan.fixed((5, 8), 2),
    MergePlan.halving((4, 9), (2, 2)).with_extra_passes([1, 0, 0, 2]),
]


def shaken(module):
    torch.manual_seed(1)
    for value in module.state_dict().values():
        value.normal_(std=0.4)
    return module.double()


def slow_shares(merger, x, plan):
    """Attention of every cell on its tokens as equation 1 is written, cell by cell, multiplied patch by patch."""
    block, total = merger.block, torch.ones(len(x), *plan.size, dtype=torch.double)
    owner = {(row, col): (row, col) for row in range(plan.size[0]) for col in range(plan.size[1])}
    for index, level in enumerate(plan.levels):
        share = {}
        for row, (top, bottom) in enumerate(zip(level.rows, level.rows[1:], strict=False)):
            for col, (left, right) in enumerate(zip(level.cols, level.cols[1:], strict=False)):
                inside = [(i, j) for i in range(top, bottom) for j in range(left, right)]
                tokens = torch.stack([x[:, i, j] for i, j in inside], dim=1)  # (B, n, D)
                keys = block.kv(block.norm1(tokens))[..., :WIDTH].unflatten(-1, (HEADS, -1))
                query = block.q(block.norm1(tokens.mean(1))).unflatten(-1, (HEADS, -1))
                logits = torch.einsum("bhd,bnhd->bnh", query, keys) / math.sqrt(WIDTH / HEADS)
                plain = merger.is_plain(plan, index)
                for place, at in enumerate(inside):
                    share[at] = 1 / len(inside) if plain else logits.softmax(1).mean(-1)[:, place], (row, col)
        for patch, token in owner.items():
            total[:, patch[0], patch[1]] *= share[token][0]
            owner[patch] = share[token][1]
        x, _ = merger.step(x, plan, index, level)
    return total


@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("learned_levels", [None, 1])
@pytest.mark.parametrize("training", [False, True])
def test_shares_are_the_mergers_attention_multiplied(plan, learned_levels, training):
    merger = shaken(AdaptiveTokenMerger(WIDTH, HEADS, learned_levels=learned_levels)).train(training)
    x = torch.randn(2, *plan.size, WIDTH, dtype=torch.double)
    merged, shares = merge_with_shares(merger, x, plan)
    torch.testing.assert_close(merged, merger(x, plan), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(shares.double(), slow_shares(merger, x, plan), rtol=1e-5, atol=1e-6)
    sums = cell_sum(shares[..., None], plan.cell_rows, plan.cell_cols)
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("plan", PLANS[:5], ids=str)
@pytest.mark.parametrize("merger", [AveragePoolMerger(), ConcatMerger(WIDTH)], ids=["average", "concat"])
def test_mergers_without_attention_share_equally(plan, merger):
    x = torch.randn(2, *plan.size, WIDTH)
    merged, shares = merge_with_shares(merger, x, plan)
    torch.testing.assert_close(merged, merger(x, plan))
    for top, bottom in zip(plan.cell_rows, plan.cell_rows[1:], strict=False):
        for left, right in zip(plan.cell_cols, plan.cell_cols[1:], strict=False):
            assert (shares[:, top:bottom, left:right] == 1 / ((bottom - top) * (right - left))).all()


def test_recomputing_gives_the_same_gradients():
    plan, gradients = PLANS[0], []
    x = torch.randn(2, *plan.size, WIDTH, dtype=torch.double)
    for recomputes in (False, True):
        merger = shaken(AdaptiveTokenMerger(WIDTH, HEADS))
        merger.grad_checkpointing = recomputes
        merged, shares = merge_with_shares(merger, x, plan)
        (merged.square().sum() + shares.square().sum()).backward()
        gradients.append([parameter.grad for parameter in merger.parameters()])
    torch.testing.assert_close(*gradients)


def slow_unmerge(unmerge, cells, patches, shares, plan):
    """Patch by patch."""
    found = torch.zeros_like(patches)
    rows, cols = plan.cell_rows, plan.cell_cols
    down, across = plan.size[0] / plan.grid[0], plan.size[1] / plan.grid[1]
    for i in range(plan.size[0]):
        for j in range(plan.size[1]):
            r = next(cell for cell in range(plan.grid[0]) if rows[cell] <= i < rows[cell + 1])
            c = next(cell for cell in range(plan.grid[1]) if cols[cell] <= j < cols[cell + 1])
            count = (rows[r + 1] - rows[r]) * (cols[c + 1] - cols[c])
            x = cells[:, r, c] * (1 + unmerge.gain * (shares[:, i, j] * count - 1)[:, None])
            token = unmerge.norm(patches[:, i, j])
            if unmerge.skip is not None:
                x = x + unmerge.skip(token)
            if unmerge.neighbours is not None:
                near = unmerge.neighbours
                query = near.q(token).unflatten(-1, (HEADS, -1))
                logits, values = [], []
                for a in range(max(r - 1, 0), min(r + 2, plan.grid[0])):
                    for b in range(max(c - 1, 0), min(c + 2, plan.grid[1])):
                        key, value = near.kv(near.norm(cells[:, a, b])).chunk(2, -1)
                        dy = (i + 0.5 - (rows[a] + rows[a + 1]) / 2) / down
                        dx = (j + 0.5 - (cols[b] + cols[b + 1]) / 2) / across
                        logit = (query * key.unflatten(-1, (HEADS, -1))).sum(-1) / math.sqrt(WIDTH / HEADS)
                        logits.append(logit - F.softplus(near.decay) * (dy**2 + dx**2))
                        values.append(value.unflatten(-1, (HEADS, -1)))
                weights = torch.stack(logits).softmax(0)  # (n, B, heads)
                x = x + near.proj((weights[..., None] * torch.stack(values)).sum(0).flatten(1))
            found[:, i, j] = x
    return found


@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("skip, neighbours", [(True, False), (False, True), (True, True)])
def test_every_patch_gets_what_the_definition_says(plan, skip, neighbours):
    unmerge = shaken(Unmerge(WIDTH, HEADS, skip=skip, neighbours=neighbours))
    cells, patches = (torch.randn(2, *grid, WIDTH, dtype=torch.double) for grid in (plan.grid, plan.size))
    shares = torch.rand(2, *plan.size)
    found = unmerge(cells, patches, shares, plan)
    torch.testing.assert_close(
        found, slow_unmerge(unmerge, cells, patches, shares.double(), plan), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("side, size", [(14, (31, 17)), (28, (41, 59)), (56, (57, 67))])
def test_the_way_back_from_the_grids_of_the_models(side, size):
    plan = MergePlan.halving(size, (side, side))
    merger, unmerge = shaken(AdaptiveTokenMerger(WIDTH, HEADS)).eval(), shaken(Unmerge(WIDTH, HEADS, neighbours=True))
    patches = torch.randn(1, *size, WIDTH, dtype=torch.double)
    with torch.no_grad():
        cells, shares = merge_with_shares(merger, patches, plan)
        torch.testing.assert_close(shares.double(), slow_shares(merger, patches, plan), rtol=1e-5, atol=1e-6)
        expected = slow_unmerge(unmerge, cells, patches, shares.double(), plan)
        torch.testing.assert_close(unmerge(cells, patches, shares, plan), expected, rtol=1e-5, atol=1e-6)


def test_untrained_and_alone_it_repeats_the_cells():
    plan = PLANS[0]
    cells, patches = (torch.randn(2, *grid, WIDTH) for grid in (plan.grid, plan.size))
    found = Unmerge(WIDTH, HEADS, skip=False)(cells, patches, torch.rand(2, *plan.size), plan)
    assert torch.equal(found, to_patches(cells, plan))


def test_attention_of_the_merger_learns_through_the_shares():
    plan = PLANS[0]
    merger, unmerge = shaken(AdaptiveTokenMerger(WIDTH, HEADS)), shaken(Unmerge(WIDTH, HEADS, skip=False))
    x = torch.randn(1, *plan.size, WIDTH, dtype=torch.double)
    merged, shares = merge_with_shares(merger, x, plan)
    unmerge(merged.detach(), x, shares, plan).square().sum().backward()
    assert merger.block.q.weight.grad.abs().max() > 1e-6


def test_the_control_interpolates():
    plan = PLANS[0]
    cells, patches = (torch.randn(2, *grid, WIDTH) for grid in (plan.grid, plan.size))
    control = Interpolate(WIDTH)
    expected = F.interpolate(cells.permute(0, 3, 1, 2), plan.size, mode="bilinear").permute(0, 2, 3, 1)
    torch.testing.assert_close(control(cells, patches, patches, plan), expected + control.skip(patches))
    torch.testing.assert_close(Interpolate(WIDTH, skip=False)(cells, patches, patches, plan), expected)


@pytest.mark.parametrize("grid", [(1, 1), (5, 3)])
def test_the_light_head_gives_four_logits_a_side_for_every_patch(grid):
    head = LightHead(WIDTH, 7, 5)
    found = head(torch.randn(2, WIDTH, *grid))
    assert found.shape == (2, 5, 4 * grid[0], 4 * grid[1])
