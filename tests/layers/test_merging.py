"""Grid attention against a slow reference that goes cell by cell, and what padding and position may never change."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from anyres.layers import AdaptiveTokenMerger, AveragePoolMerger, GridAttention, Level, MergePlan

WIDTH, HEADS = 12, 3
SINGLE = {"rtol": 1e-6, "atol": 1e-6}  # the softmax is in single precision, whatever the tokens are


def randomised(module):
    """The module in double precision with all parameters random, so that no zero or one hides an error."""
    torch.manual_seed(0)
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return module


def make(padding="masked", **options):
    return randomised(GridAttention(WIDTH, HEADS, padding=padding, **options))


def reference_cell(block, tokens, count, scale=0.0):
    """Equation 1 for one cell, literally: tokens (n, D), of which the mean is taken over `count`."""
    mean = tokens.sum(0) / count
    query = block.q(block.norm1(mean) + scale).view(HEADS, 1, -1)
    keys, values = block.kv(block.norm1(tokens)).split(WIDTH, dim=-1)
    keys, values = (x.view(len(tokens), HEADS, -1).transpose(0, 1) for x in (keys, values))  # (heads, n, d)
    attended = F.scaled_dot_product_attention(query, keys, values).reshape(WIDTH)
    x = mean + block.proj(attended)
    return x + block.mlp(block.norm2(x))


def reference(block, x, level, *, zeros=False, scale=0.0):
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
                out[b, i, j] = reference_cell(block, cell, count, scale)
    return out


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("padding", ["masked", "zeros"])
@pytest.mark.parametrize("size", [(4, 4), (7, 5), (1, 1), (1, 6), (9, 3), (3, 3), (13, 2)])
def test_equals_the_slow_reference(size, padding, training):
    block = make(padding).train(training)
    x = torch.randn(2, *size, WIDTH, dtype=torch.double)
    for level in MergePlan.halving(size, (3, 2)).levels:
        expected = reference(block, x, level, zeros=padding == "zeros")
        torch.testing.assert_close(block(x, level), expected, **SINGLE)
        x = expected


SIDES = st.one_of(st.integers(1, 40), st.sampled_from([53, 127, 400]))


@given(rows=SIDES, cols=SIDES, balanced=st.booleans())
@settings(max_examples=40)
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


def reference_means(x, level):
    """The mean of each cell of one level, one by one."""
    out = x.new_empty(len(x), *level.output_grid, x.shape[-1])
    for i in range(level.output_grid[0]):
        for j in range(level.output_grid[1]):
            cell = x[:, level.rows[i] : level.rows[i + 1], level.cols[j] : level.cols[j + 1]]
            out[:, i, j] = cell.mean((1, 2))
    return out


@pytest.mark.parametrize("size", [(9, 5), (31, 2), (8, 8), (1, 1)])
def test_start_as_the_mean(size):
    """Untrained, every pass is the mean of the cell's real tokens; as soon as a weight moves it is not."""
    merger = AdaptiveTokenMerger(WIDTH, HEADS, start="mean").double()
    for module in merger.modules():
        if isinstance(module, torch.nn.Linear):  # what a model does to all linear layers
            torch.nn.init.xavier_uniform_(module.weight)
    plan = MergePlan.halving(size, (3, 2))
    x = torch.randn(2, *size, WIDTH, dtype=torch.double)
    expected = x
    for level in plan.levels:
        expected = reference_means(expected, level)
    assert not torch.allclose(merger(x, plan), expected)
    merger.block.init_weights()
    for merger.training in (True, False):
        torch.testing.assert_close(merger(x, plan), expected)
    merger(x, plan).square().sum().backward()
    assert merger.block.proj.weight.grad.abs().sum() > 0  # it can leave the mean
    assert merger.block.mlp.fc2.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("padding", ["masked", "zeros"])
@pytest.mark.parametrize(("size", "kind"), [((13, 5), "halving"), ((2, 31), "balanced"), ((6, 4), "halving")])
def test_the_query_knows_the_scale(size, kind, padding, training):
    merger = randomised(AdaptiveTokenMerger(WIDTH, HEADS, padding=padding, scale_query=True)).train(training)
    plan = getattr(MergePlan, kind)(size, (3, 2))
    x = torch.randn(1, *size, WIDTH, dtype=torch.double)
    expected = x
    for level in plan.levels:
        rows, cols = level.output_grid
        logs = [math.log2(size[0] / rows), math.log2(size[1] / cols)]
        scale = merger.block.scale.weight[:, 0] * logs[0] + merger.block.scale.weight[:, 1] * logs[1]
        expected = reference(merger.block, expected, level, zeros=padding == "zeros", scale=scale)
    torch.testing.assert_close(merger(x, plan), expected, **SINGLE)


def test_scale_starts_without_effect_and_then_matters():
    torch.manual_seed(0)
    merger = AdaptiveTokenMerger(WIDTH, HEADS, scale_query=True)
    plain = AdaptiveTokenMerger(WIDTH, HEADS)
    assert plain.load_state_dict(merger.state_dict(), strict=False).unexpected_keys == ["block.scale.weight"]
    plan, x = MergePlan.halving((11, 7), (3, 2)), torch.randn(2, 11, 7, WIDTH)
    out = merger(x, plan)
    torch.testing.assert_close(out, plain(x, plan), rtol=0, atol=0)
    out.square().sum().backward()
    assert merger.block.scale.weight.grad.abs().sum() > 0
    torch.nn.init.ones_(merger.block.scale.weight)
    assert not torch.allclose(merger(x, plan), out)
    merger.block.init_weights()
    assert not merger.block.scale.weight.any()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("learned", [0, 1, 2, 3, 9])
@pytest.mark.parametrize("size", [(29, 5), (3, 2), (13, 31)])
def test_only_the_last_merging_levels_are_learned(size, learned, checkpointing):
    merger = randomised(AdaptiveTokenMerger(WIDTH, HEADS, learned_levels=learned))
    merger.grad_checkpointing = checkpointing
    plan = MergePlan.halving(size, (3, 2))
    plan = plan.with_extra_passes([1] * len(plan.levels))  # extra passes with 1x1 cells everywhere: always learned
    merging = [level for level in plan.levels if not level.is_identity]
    x = torch.randn(1, *size, WIDTH, dtype=torch.double)
    expected = x
    for level in plan.levels:
        is_learned = level.is_identity or len(merging) - merging.index(level) <= learned
        expected = merger.block(expected, level) if is_learned else reference_means(expected, level)
    torch.testing.assert_close(merger(x, plan), expected)


def test_learned_levels_of_all_or_more_is_the_plain_merger():
    plan, x = MergePlan.halving((23, 9), (3, 2)), torch.randn(2, 23, 9, WIDTH)
    merger = AdaptiveTokenMerger(WIDTH, HEADS)
    found = [merger(x, plan) for merger.learned_levels in (None, 3, 4)]
    assert torch.equal(found[0], found[1])  # 23 > 12 > 6 > 3: three levels
    assert torch.equal(found[0], found[2])


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="divide the width"):
        GridAttention(10, 3)
    with pytest.raises(ValueError, match="'masked', 'zeros'|masked, zeros"):
        GridAttention(12, 3, padding="zero")
    with pytest.raises(ValueError, match=r"\(3, 3\)"):
        make()(torch.randn(1, 2, 3, WIDTH, dtype=torch.double), MergePlan.fixed((3, 3), 1).levels[0])
    with pytest.raises(ValueError, match="1 or 2"):
        make()(torch.randn(1, 3, 3, WIDTH, dtype=torch.double), Level((0, 3), (0, 1, 2, 3)))
    with pytest.raises(ValueError, match="Did you mean 'mean'"):
        GridAttention(12, 3, start="meen")
    with pytest.raises(ValueError, match="0 or more, or None"):
        AdaptiveTokenMerger(12, 3, learned_levels=-1)
    level, x = MergePlan.fixed((2, 3), 1).levels[0], torch.randn(1, 2, 3, WIDTH, dtype=torch.double)
    with pytest.raises(ValueError, match="give the patches per cell"):
        make(scale_query=True)(x, level)
    with pytest.raises(ValueError, match="leave it out"):
        make()(x, level, (1.0, 1.0))
    for merger in (AdaptiveTokenMerger(WIDTH, HEADS), AveragePoolMerger()):
        with pytest.raises(ValueError, match=r"plan is for \(3, 2\)"):
            merger(x, MergePlan.halving((3, 2), (2, 2)))


@pytest.mark.parametrize("side", [28, 71, 250])
def test_an_average_in_bfloat16_is_the_exact_one_rounded(side):
    """Also where cells differ in size; two roundings, one for each axis."""
    torch.manual_seed(0)
    x = (torch.rand(1, side, side, 8) + 1).bfloat16()
    plan = MergePlan.halving((side, side), (14, 14))
    found = AveragePoolMerger()(x, plan)
    torch.testing.assert_close(found.float(), AveragePoolMerger()(x.float(), plan), rtol=2 * 2**-8, atol=0)
