"""When the weights of a linear layer may be read, and that what must be called is called, on every way of merging."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.testing._internal.two_tensor import TwoTensor

from anyres.layers import AdaptiveTokenMerger, MergePlan, Places, ToMeBlock
from anyres.layers.plain_linear import is_plain_linear
from anyres.layers.shares import merge_with_shares
from anyres.layers.visible import merge_visible

WIDTH, HEADS = 12, 3
EXACT = {"rtol": 1e-5, "atol": 1e-5}  # shares are in single precision, whatever the tokens are


class LowRank(nn.Module):
    """A layer and a product of two small ones beside it, as LoRA has it, in which nothing is zero."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, 2, bias=False, dtype=base.weight.dtype)
        self.up = nn.Linear(2, base.out_features, bias=False, dtype=base.weight.dtype)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


def added(low_rank):
    """The same as one layer."""
    layer = copy.deepcopy(low_rank.base)
    with torch.no_grad():
        layer.weight += low_rank.up.weight @ low_rank.down.weight
    return layer


def quantised_weight():
    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(TwoTensor(torch.zeros(4, 4), torch.zeros(4, 4)))
    return layer


def replaced_forward():
    layer = nn.Linear(4, 4)
    layer.forward = lambda x: x
    return layer


def hooked(register):
    layer = nn.Linear(4, 4)
    getattr(layer, register)(lambda *given: None)
    return layer


def test_what_is_a_plain_layer():
    layer = nn.Linear(4, 4)
    assert is_plain_linear(layer) and is_plain_linear(nn.Linear(4, 2, bias=False))
    handle = layer.register_forward_hook(lambda *given: None)
    assert not is_plain_linear(layer)
    handle.remove()
    assert is_plain_linear(layer)
    hooks = ("forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook")
    others = [hooked(f"register_{kind}") for kind in hooks]
    others += [prune.random_unstructured(nn.Linear(4, 4), "weight", 0.5), parametrizations.weight_norm(nn.Linear(4, 4))]
    others += [LowRank(nn.Linear(4, 4)), nn.LazyLinear(4), quantised_weight(), replaced_forward()]
    assert [each for each in others if is_plain_linear(each)] == []


def make(padding="masked", learned_levels=None):
    torch.manual_seed(0)
    merger = AdaptiveTokenMerger(WIDTH, HEADS, padding=padding, learned_levels=learned_levels).double()
    for parameter in merger.parameters():
        nn.init.normal_(parameter, std=0.3)
    return merger


def step_by_step(merger, x, plan):
    return merger(x, plan)


def with_shares(merger, x, plan):
    return torch.cat([each.flatten().double() for each in merge_with_shares(merger, x, plan)])


def visible_alone(merger, x, plan):
    is_visible = torch.ones(x.shape[:3], dtype=torch.bool)
    is_visible[0, 0] = False
    return merge_visible(merger, x[is_visible], is_visible, plan)[0]


def with_skipped_patches(merger, x, plan):
    counts = torch.ones(x.shape[1:3], dtype=torch.long)
    counts[0] = 0
    for index, level in enumerate(plan.levels):
        x, counts = merger.step(x, plan, index, level, counts)
    return x


def compiled(merger, x, plan):
    copied = copy.deepcopy(merger)
    copied.block.compile_cells(backend="eager", dynamic=True)
    return copied(x, plan)


def with_bases(merger, x, plan):
    generator = torch.Generator().manual_seed(4)
    for index, level in enumerate(plan.levels):
        base = torch.randn(len(x), *level.output_grid, WIDTH, generator=generator, dtype=x.dtype)
        x, _ = merger.step(x, plan, index, level, base=base)
    return x


WAYS = [step_by_step, with_shares, visible_alone, with_skipped_patches, compiled, with_bases]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("size", [(7, 5), (1, 6), (3, 2)])
@pytest.mark.parametrize("way", WAYS)
def test_low_rank_layers_beside_those_of_merging_are_products_added_to_their_weights(way, size, training):
    merger, plan = make().train(training), MergePlan.halving(size, (3, 2))
    x = torch.randn(2, *size, WIDTH, dtype=torch.double)
    before = way(merger, x, plan)
    for part in ("kv", "q"):
        setattr(merger.block, part, LowRank(getattr(merger.block, part)))
    whole = copy.deepcopy(merger)
    for part in ("kv", "q"):
        setattr(whole.block, part, added(getattr(whole.block, part)))
    found = way(merger, x, plan)
    torch.testing.assert_close(found, way(whole, x, plan), **EXACT)
    assert (found - before).abs().max() > 1e-2


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("padding", ["masked", "zeros"])
@pytest.mark.parametrize("way", WAYS)
def test_hooks_on_keys_and_values_and_on_queries_see_every_pass_and_change_it(way, padding, training):
    if padding == "zeros" and way in (visible_alone, with_skipped_patches):
        pytest.skip("only masked padding")
    merger, plan = make(padding).train(training), MergePlan.halving((7, 3), (3, 3))  # the last pass has cells of 1x1
    assert [level.cell for level in plan.levels][-1] == (1, 1)
    x, calls = torch.randn(2, 7, 3, WIDTH, dtype=torch.double), {"q": 0, "kv": 0}
    plain = way(merger, x, plan)

    def watch(part):
        def hook(*given):
            calls[part] += 1

        return getattr(merger.block, part).register_forward_hook(hook)

    handles = [watch("kv"), watch("q")]
    torch.testing.assert_close(way(merger, x, plan), plain, **EXACT)
    assert calls == {"q": len(plan.levels), "kv": len(plan.levels)}
    for handle in handles:
        handle.remove()
    assert torch.equal(way(merger, x, plan), plain)
    merger.block.kv.register_forward_hook(lambda module, given, output: 2 * output)
    doubled = make(padding).train(training)
    with torch.no_grad():
        for parameter in doubled.block.kv.parameters():
            parameter.mul_(2)
    torch.testing.assert_close(way(merger, x, plan), way(doubled, x, plan), **EXACT)


def test_a_hook_after_compilation_is_called():
    merger, plan = make().eval(), MergePlan.halving((7, 5), (3, 2))
    merger.block.compile_cells(backend="eager", dynamic=True)
    x = torch.randn(2, 7, 5, WIDTH, dtype=torch.double)
    merger(x, plan)
    merger.block.kv.register_forward_hook(lambda module, given, output: 2 * output)
    doubled = make().eval()
    with torch.no_grad():
        for parameter in doubled.block.kv.parameters():
            parameter.mul_(2)
    torch.testing.assert_close(merger(x, plan), doubled(x, plan), **EXACT)


@pytest.mark.parametrize("training", [False, True])
def test_pruned_keys_and_values_are_pruned_and_follow_what_is_learned(training):
    merger, plan = make().train(training), MergePlan.halving((7, 5), (3, 2))
    x = torch.randn(2, 7, 5, WIDTH, dtype=torch.double)
    prune.random_unstructured(merger.block.kv, "weight", 0.5)
    for _ in range(2):
        expected = make().train(training)
        with torch.no_grad():
            merger.block.kv.weight_orig.mul_(1.7)  # as a step of an optimiser does, which the mask is put on later
            expected.block.kv.weight.copy_(merger.block.kv.weight_orig * merger.block.kv.weight_mask)
        torch.testing.assert_close(merger(x, plan), expected(x, plan), **EXACT)
    merger(x, plan).sum().backward()
    gradient = merger.block.kv.weight_orig.grad
    assert gradient.any() and not gradient[merger.block.kv.weight_mask == 0].any()


def test_parametrised_keys_and_values():
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    merger, expected, plan = make().eval(), make().eval(), MergePlan.halving((7, 5), (3, 2))
    x = torch.randn(2, 7, 5, WIDTH, dtype=torch.double)
    parametrize.register_parametrization(merger.block.kv, "weight", Doubled())
    with torch.no_grad():
        expected.block.kv.weight.mul_(2)
    torch.testing.assert_close(merger(x, plan), expected(x, plan), **EXACT)


@pytest.mark.parametrize("training", [False, True])
def test_tome_compares_the_keys_of_a_layer_as_it_acts(training):
    torch.manual_seed(0)
    block = ToMeBlock(WIDTH, HEADS, qkv_bias=True, amount=0.4).double().train(training)
    x = torch.randn(2, 11, WIDTH, dtype=torch.double)
    before, _ = block(x, Places())
    block.attn.qkv = LowRank(block.attn.qkv)
    whole = copy.deepcopy(block)
    whole.attn.qkv = added(block.attn.qkv)
    (found, places), (expected, wanted) = block(x, Places()), whole(x, Places())
    assert torch.equal(places.owner, wanted.owner)
    torch.testing.assert_close(found, expected)
    assert (found - before).abs().max() > 1e-2
    hooked = copy.deepcopy(whole)
    hooked.attn.qkv.register_forward_hook(lambda module, given, output: output.flip(-1))
    turned = copy.deepcopy(whole)
    with torch.no_grad():
        for parameter in turned.attn.qkv.parameters():
            parameter.copy_(parameter.flip(0))
    (found, places), (expected, wanted) = hooked(x, Places()), turned(x, Places())
    assert torch.equal(places.owner, wanted.owner)
    torch.testing.assert_close(found, expected)


def test_tome_in_half_precision_with_a_layer_beside():
    torch.manual_seed(0)
    block = ToMeBlock(WIDTH, HEADS, qkv_bias=True, amount=0.4).bfloat16().eval()
    block.attn.qkv = LowRank(block.attn.qkv)
    assert block(torch.randn(2, 11, WIDTH).bfloat16(), Places())[0].dtype == torch.bfloat16
    block = block.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert block(torch.randn(2, 11, WIDTH), Places())[0].isfinite().all()
