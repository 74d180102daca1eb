"""ToMe against loops over single tokens, and the block against timm's."""

import math

import pytest
import torch
from timm.models.vision_transformer import Block

from anyres.layers.places import Places
from anyres.layers.token_merging import ToMeBlock, match_tokens, merge_count, merge_tokens, two_sets

WIDTH, HEADS = 12, 3


def make_block(amount, prefix=0, **options):
    torch.manual_seed(0)
    block = ToMeBlock(WIDTH, HEADS, qkv_bias=True, amount=amount, prefix_tokens=prefix, **options).double().eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return block


def slow_merge(keys, x, sizes, count, prefix, owners=None):
    """One image: every token of the one set by itself; keys, x and sizes are lists of N rows.

    `owners` maps each token of the start to its place among the N and is brought up to date.
    """
    places = range(prefix, len(keys))
    first, second = [i for i in places if i % 2 == 0], [i for i in places if i % 2 == 1]
    edges = []  # (similarity, from, to) of the best partner of each token
    for i in first:
        cosine = [
            float(keys[i] @ keys[j]) / math.sqrt(float(keys[i] @ keys[i]) * float(keys[j] @ keys[j])) for j in second
        ]
        best = max(range(len(second)), key=lambda place: cosine[place])
        edges.append((cosine[best], i, second[best]))
    edges.sort(key=lambda edge: -edge[0])
    groups = {i: [i] for i in range(len(keys))}
    for _, source, target in edges[:count]:
        groups[target] += groups.pop(source)
    order = [i for i in [*range(prefix), *first, *second] if i in groups]
    new_sizes = [sum(sizes[i] for i in groups[j]) for j in order]
    if owners is not None:
        home = {i: place for place, j in enumerate(order) for i in groups[j]}
        owners[:] = [home[i] for i in owners]
    means = [sum(x[i] * sizes[i] for i in groups[j]) / size for j, size in zip(order, new_sizes, strict=True)]
    return torch.stack(means), torch.stack(new_sizes)


def slow_block(block, x, sizes, owners):
    """One image, (N, D) and (N,): softmax over size * exp(logit), so a token of size 3 counts as three tokens."""
    count, prefix = merge_count(block.amount, len(x) - block.prefix_tokens), block.prefix_tokens
    q, k, v = (part.view(len(x), HEADS, -1) for part in block.attn.qkv(block.norm1(x)).split(WIDTH, dim=-1))
    attended = torch.empty_like(v)  # (N, heads, d)
    for head in range(HEADS):
        for i in range(len(x)):
            weights = torch.stack([sizes[j] * (q[i, head] @ k[j, head] / 2).exp() for j in range(len(x))])
            attended[i, head] = sum(weights[j] * v[j, head] for j in range(len(x))) / weights.sum()
    x = x + block.attn.proj(attended.flatten(1))
    x, sizes = slow_merge(list(k.mean(1).detach()), list(x), list(sizes), count, prefix, owners)
    return x + block.mlp(block.norm2(x)), sizes


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    ("tokens", "prefix", "amount"), [(9, 0, 2), (9, 1, 2), (12, 0, 0.5), (13, 1, 0.3), (11, 2, 9), (7, 3, 1), (3, 1, 1)]
)
def test_two_blocks_equal_loops_over_tokens(tokens, prefix, amount, fused):
    block = make_block(amount, prefix)
    block.attn.fused_attn = fused
    x = torch.randn(2, tokens, WIDTH, dtype=torch.double)
    y, places = block(*block(x, Places()))
    sizes = places.sizes
    for image in range(2):
        owners = list(range(tokens))
        expected, expected_sizes = slow_block(block, x[image], torch.ones(tokens, dtype=torch.double), owners)
        expected, expected_sizes = slow_block(block, expected, expected_sizes, owners)
        assert places.owner[image].tolist() == owners
        torch.testing.assert_close(places.at_start(y)[image], torch.stack([y[image, place] for place in owners]))
        torch.testing.assert_close(y[image], expected)
        torch.testing.assert_close(sizes[image, :, 0], expected_sizes)
    assert sizes[:, :prefix].eq(1).all()
    assert sizes.sum() == 2 * tokens


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("tokens", [1, 2, 7])
def test_without_merging_it_is_the_plain_block(tokens, fused):
    """Also where a share of so few tokens is none, and with a pretrained block's weights."""
    plain = Block(WIDTH, HEADS, qkv_bias=True, init_values=0.1)
    x = torch.randn(2, tokens, WIDTH)
    for amount, prefix in ((0, 0), (0.05, 1), (4, tokens)):
        block = ToMeBlock(WIDTH, HEADS, qkv_bias=True, init_values=0.1, amount=amount, prefix_tokens=prefix)
        block.load_state_dict(plain.state_dict())
        block.attn.fused_attn = plain.attn.fused_attn = fused
        y, places = block(x, Places())
        assert torch.equal(y, plain(x))
        assert places == Places()


def test_sizes_of_one_are_the_plain_block_and_equal_tokens_may_stand_for_one():
    """Proportional attention: one token of size 3 is seen by the others as three equal tokens are."""
    block = make_block(0)
    x = torch.randn(1, 5, WIDTH, dtype=torch.double)
    torch.testing.assert_close(block(x, Places(sizes=torch.ones(1, 5, 1)))[0], block(x, Places())[0])
    sizes = torch.tensor([3.0, 1, 1, 1, 1])[None, :, None]
    repeated = torch.cat([x[:, :1], x[:, :1], x], dim=1)
    found, expected = block(x, Places(sizes=sizes))[0], block(repeated, Places())[0][:, 2:]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("prefix", [0, 1])
def test_a_batch_is_its_images_one_by_one_and_twice_the_same(prefix):
    block = make_block(0.4, prefix)
    x = torch.randn(4, 23, WIDTH, dtype=torch.double)
    x[3] = x[3, :1]  # all ties
    y, places = block(*block(x, Places()))
    again, _ = block(*block(x, Places()))
    assert torch.equal(y, again)
    for image in range(3):
        alone, its = block(*block(x[image : image + 1], Places()))
        torch.testing.assert_close(y[image], alone[0])
        assert torch.equal(places.sizes[image], its.sizes[0])
        assert torch.equal(places.owner[image], its.owner[0])


def test_ties_go_to_the_earlier_token():
    matching = match_tokens(torch.ones(1, 9, 4), count=2, prefix=1)
    assert matching.going.tolist() == [[0, 1]]  # tokens 2 and 4; token 0 is the class token
    assert matching.target.tolist() == [[0, 0]]  # token 1
    assert matching.kept.tolist() == [[2, 3]]


def test_the_sets_and_a_merge_by_hand():
    x = torch.tensor([[9.0], [10], [20], [11], [40]])[None]  # a class token, then four tokens at 1 to 4
    first, second = two_sets(x, 1)
    assert (first.flatten().tolist(), second.flatten().tolist()) == ([20, 40], [10, 11])
    metric = torch.tensor([[0.0, 1], [1, 0], [0, 1], [1, 1], [-1, 0.2]])[None]
    matching = match_tokens(metric, 1, 1)  # token 2 is most like token 3; token 4 is like nobody
    merged, sizes = merge_tokens(x, torch.tensor([1.0, 1, 3, 1, 1])[None, :, None], matching, 1)
    assert merged.flatten().tolist() == [9, 40, 10, (3 * 20 + 11) / 4]
    assert sizes.flatten().tolist() == [1, 1, 1, 4]


@pytest.mark.parametrize(
    ("amount", "tokens", "count"),
    [
        (0, 50, 0),
        (13, 196, 13),
        (13, 20, 10),
        (1, 1, 0),
        (1, 2, 1),
        (0.5, 7, 3),
        (0.1, 196, 20),
        (0.29, 100, 29),
        (0.9, 10, 5),
    ],
)
def test_amounts(amount, tokens, count):
    assert merge_count(amount, tokens) == count


def test_gradients_reach_every_parameter_and_the_tokens():
    block = make_block(3).train()
    x = torch.randn(2, 10, WIDTH, dtype=torch.double, requires_grad=True)
    y, places = block(*block(x, Places()))
    (y * places.sizes).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in block.parameters())
    assert x.grad.abs().sum(-1).all()


@pytest.mark.parametrize("fused", [False, True])
def test_half_precision(fused):
    """Sizes stay exact beyond 256, where bfloat16 counts no further; autocast and a bfloat16 model both run."""
    block = make_block(2).float()
    block.attn.fused_attn = fused
    x, sizes = torch.randn(1, 6, WIDTH), torch.tensor([300.0, 1, 300, 1, 1, 1])[None, :, None]
    plain, _ = block(x, Places(sizes=sizes))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast, places = block(x, Places(sizes=sizes))
    torch.testing.assert_close(cast.float(), plain, rtol=0.1, atol=0.3)
    assert (places.sizes.dtype, places.sizes.sum().item()) == (torch.float32, 604)
    for given, patches in ((sizes, 604), (None, 6)):
        low, places = block.bfloat16()(x.bfloat16(), Places(sizes=given))
        total = places.sizes
        assert (low.dtype, total.dtype, total.sum().item()) == (torch.bfloat16, torch.float32, patches)


@pytest.mark.parametrize(("amount", "nearest"), [(-1, 0), (1.5, 2), (13.2, 13), (float("nan"), 16), (float("inf"), 16)])
def test_impossible_amounts_are_refused(amount, nearest):
    with pytest.raises(ValueError, match=f"nearest: {nearest}"):
        ToMeBlock(WIDTH, HEADS, amount=amount)


def test_normalised_keys_are_refused():
    with pytest.raises(ValueError, match="qk_norm"):
        ToMeBlock(WIDTH, HEADS, amount=1, qk_norm=True)
