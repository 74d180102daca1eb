"""Grid attention against a slow reference that goes cell by cell, and what padding and position may never change."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from anyres.layers import AdaptiveTokenMerger, AveragePoolMerger, GridAttention, MergePlan

WIDTH, HEADS = 12, 3


def make(padding="masked"):
    torch.manual_seed(0)
    block = GridAttention(WIDTH, HEADS, padding=padding).double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return block


def reference_cell(block, tokens, count):
    """Equation 1 for one cell, literally: tokens (n, D), of which the mean is taken over `count`."""
    mean = tokens.sum(0) / count
    query = block.q(block.norm1(mean)).view(HEADS, 1, -1)
    keys, values = block.kv(block.norm1(tokens)).split(WIDTH, dim=-1)
    keys, values = (x.view(len(tokens), HEADS, -1).transpose(0, 1) for x in (keys, values))  # (heads, n, d)
    attended = F.scaled_dot_product_attention(query, keys, values).reshape(WIDTH)
    x = mean + block.proj(attended)
    return x + block.mlp(block.norm2(x))


def reference(block, x, level, *, zeros=False):
    out = x.new_empty(len(x), *level.output_grid, WIDTH)
    for b in range(len(x)):
        for i in range(level.output_grid[0]):
            for j in range(level.output_grid[1]):
                cell = x[b, level.rows[i] : level.rows[i + 1], level.cols[j] : level.cols[j + 1]].reshape(-1, WIDTH)
                count = len(cell)
                if zeros:
                    full = [p // o for p, o in zip(level.padded_grid, level.output_grid, strict=True)]
                    count = full[0] * full[1]
                    cell = torch.cat([cell, cell.new_zeros(count - len(cell), WIDTH)])
                out[b, i, j] = reference_cell(block, cell, count)
    return out


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("padding", ["masked", "zeros"])
@pytest.mark.parametrize("size", [(4, 4), (7, 5), (1, 1), (1, 6), (9, 3), (3, 3), (13, 2)])
def test_equals_the_slow_reference(size, padding, training):
    block = make(padding).train(training)
    x = torch.randn(2, *size, WIDTH, dtype=torch.double)
    for level in MergePlan.halving(size, (3, 2)).levels:
        expected = reference(block, x, level, zeros=padding == "zeros")
        torch.testing.assert_close(block(x, level), expected)
        x = expected


SIDES = st.one_of(st.integers(1, 40), st.sampled_from([53, 127, 400]))


@given(rows=SIDES, cols=SIDES, balanced=st.booleans())
@settings(max_examples=40, deadline=None)
def test_any_size_ends_on_the_grid(rows, cols, balanced):
    merger = AdaptiveTokenMerger(WIDTH, HEADS)
    plan = (MergePlan.balanced if balanced else MergePlan.halving)((rows, cols), (5, 7))
    out = merger(torch.randn(1, rows, cols, WIDTH), plan)
    assert out.shape == (1, min(rows, 5), min(cols, 7), WIDTH)
    assert out.isfinite().all()


@pytest.mark.parametrize("merger", [AdaptiveTokenMerger(WIDTH, HEADS).double(), AveragePoolMerger()])
@pytest.mark.parametrize("size", [(17, 9), (23, 31), (6, 40)])
def test_a_final_token_depends_only_on_its_cell(merger, size):
    plan = MergePlan.halving(size, (5, 4))
    x = torch.randn(1, *size, WIDTH, dtype=torch.double)
    base = merger(x, plan)
    for row, col in [(0, 0), (plan.grid[0] - 1, plan.grid[1] - 1), (2, 1)]:
        changed = x.clone()
        rows = slice(plan.cell_rows[row], plan.cell_rows[row + 1])
        cols = slice(plan.cell_cols[col], plan.cell_cols[col + 1])
        changed[:, rows, cols] += torch.randn_like(changed[:, rows, cols])
        differs = (merger(changed, plan) != base).any(-1)[0]
        assert differs.nonzero().tolist() == [[row, col]]


def test_levels_share_their_weights():
    """Two levels of a plan are the same block applied twice."""
    merger = AdaptiveTokenMerger(WIDTH, HEADS).eval()
    plan = MergePlan.halving((8, 8), (2, 2), last_pass=False)
    x = torch.randn(1, 8, 8, WIDTH)
    torch.testing.assert_close(merger(x, plan), merger.block(merger.block(x, plan.levels[0]), plan.levels[1]))


def test_skipping_q_and_k_in_inference_changes_nothing_and_training_keeps_their_gradient():
    block = make()
    level = MergePlan.fixed((3, 5), 1).levels[0]
    x = torch.randn(2, 3, 5, WIDTH, dtype=torch.double)
    torch.testing.assert_close(block.eval()(x, level), block.train()(x, level))
    block(x, level).sum().backward()
    assert all(parameter.grad is not None for parameter in block.parameters())


def test_checkpointing_gives_the_same_gradients():
    merger = AdaptiveTokenMerger(WIDTH, HEADS)
    x = torch.randn(2, 11, 6, WIDTH)
    plan = MergePlan.halving((11, 6), (3, 3))
    found = []
    for merger.grad_checkpointing in (False, True):
        merger.zero_grad()
        merger(x, plan).square().sum().backward()
        found.append([parameter.grad.clone() for parameter in merger.parameters()])
    for plain, recomputed in zip(*found, strict=True):
        torch.testing.assert_close(plain, recomputed)


@pytest.mark.parametrize("size", [(28, 28), (29, 17), (70, 33), (14, 5)])
def test_average_equals_adaptive_pooling_cell_by_cell(size):
    plan = MergePlan.balanced(size, (14, 14), last_pass=False)
    x = torch.randn(2, *size, 4)
    out = AveragePoolMerger()(x, plan)
    for i in range(plan.grid[0]):
        for j in range(plan.grid[1]):
            cell = x[:, plan.cell_rows[i] : plan.cell_rows[i + 1], plan.cell_cols[j] : plan.cell_cols[j + 1]]
            torch.testing.assert_close(out[:, i, j], cell.mean((1, 2)))


def test_average_equals_torch_where_cells_are_equal():
    x = torch.randn(2, 28, 42, 4)
    out = AveragePoolMerger()(x, MergePlan.balanced((28, 42), (14, 14), last_pass=False))
    pooled = F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), (14, 14)).permute(0, 2, 3, 1)
    torch.testing.assert_close(out, pooled)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="divide the width"):
        GridAttention(10, 3)
    with pytest.raises(ValueError, match="'masked', 'zeros'|masked, zeros"):
        GridAttention(12, 3, padding="zero")
    with pytest.raises(ValueError, match=r"\(3, 3\)"):
        make()(torch.randn(1, 2, 3, WIDTH, dtype=torch.double), MergePlan.fixed((3, 3), 1).levels[0])
    with pytest.raises(ValueError, match="1 or 2"):
        from anyres.layers.merge_plan import Level

        make()(torch.randn(1, 3, 3, WIDTH, dtype=torch.double), Level((0, 3), (0, 1, 2, 3)))
