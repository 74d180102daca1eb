"""Attention with positions inside, against timm's layers with the same weights."""

import pytest
import torch
import torch.nn.functional as F
from timm.layers import (
    Attention,
    AttentionRope,
    RelPosBias,
    RotaryEmbeddingDinoV3,
    resize_rel_pos_bias_table_simple,
)

from anyres.layers.attention import LocalValueAttention, RelativeBias, RelativeBiasAttention, RotaryAttention
from anyres.layers.places import Places
from anyres.layers.rotary import RotaryPosition

WIDTH, HEADS, GRID = 24, 3, (4, 5)
SIZES = [(1, 1), (3, 5), (4, 5), (1, 6), (7, 2)]
MAKE = {
    "local": lambda: LocalValueAttention(WIDTH, HEADS),
    "bias": lambda: RelativeBiasAttention(WIDTH, HEADS, GRID),
    "rotary": lambda: RotaryAttention(WIDTH, HEADS),
}


def places(size, name="rotary"):
    rotation = RotaryPosition(WIDTH // HEADS)(torch.zeros(1, *size, WIDTH)) if name == "rotary" else None
    return Places(size, rotation)


def randomised(name):
    attention = MAKE[name]()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return attention


def linear_weights(attention):
    return {name: value for name, value in attention.state_dict().items() if not name.startswith("position")}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("size", SIZES)
def test_local_values_by_hand(size, prefix, fused):
    """z = softmax(QK) V + H(V), one head, place and neighbour at a time."""
    ours, (rows, cols) = randomised("local"), size
    ours.fused_attn = fused
    x = torch.randn(2, prefix + rows * cols, WIDTH)
    q, k, v = (part.unflatten(-1, (HEADS, -1)) for part in ours.qkv(x).chunk(3, dim=-1))  # (B, N, heads, d)
    expected = torch.zeros_like(v)
    for head in range(HEADS):
        logits = q[:, :, head] @ k[:, :, head].transpose(1, 2) / (WIDTH // HEADS) ** 0.5
        expected[:, :, head] = logits.softmax(-1) @ v[:, :, head]
        for row in range(rows):
            for col in range(cols):
                place = prefix + row * cols + col
                expected[:, place, head] += ours.position.bias
                for down in range(max(row - 1, 0), min(row + 2, rows)):
                    for right in range(max(col - 1, 0), min(col + 2, cols)):
                        filters = ours.position.weight[:, 0, down - row + 1, right - col + 1]
                        expected[:, place, head] += filters * v[:, prefix + down * cols + right, head]
    torch.testing.assert_close(ours(x, Places(size)), ours.proj(expected.flatten(2)), rtol=1e-5, atol=1e-5)


def test_local_values_start_as_timms_attention():
    ours, theirs = MAKE["local"](), Attention(WIDTH, HEADS, qkv_bias=True)
    theirs.load_state_dict(linear_weights(ours))
    x = torch.randn(2, 21, WIDTH)
    torch.testing.assert_close(ours(x, Places((4, 5))), theirs(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_relative_bias_equals_timms_and_prefix_tokens_get_none(prefix, fused):
    ours, bias = randomised("bias"), RelPosBias(GRID, HEADS)
    ours.fused_attn = fused
    bias.relative_position_bias_table.data = ours.position.table.data.flatten(0, 1)
    torch.testing.assert_close(ours.position(GRID)[None], bias.get_bias())
    theirs = Attention(WIDTH, HEADS, qkv_bias=True)
    theirs.load_state_dict(linear_weights(ours))
    x = torch.randn(2, prefix + 20, WIDTH)
    mask = torch.zeros(1, HEADS, prefix + 20, prefix + 20)
    mask[:, :, prefix:, prefix:] = bias.get_bias()
    torch.testing.assert_close(ours(x, Places(GRID)), theirs(x, attn_mask=mask), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_relative_bias_at_other_grids_is_the_resized_table(size):
    """timm's resize wants a square table."""
    ours, theirs = RelativeBias(HEADS, (4, 4)), RelPosBias(size, HEADS)
    torch.nn.init.normal_(ours.table)
    shape = theirs.relative_position_bias_table.shape
    table = resize_rel_pos_bias_table_simple(ours.table.data.flatten(0, 1), size, shape)
    theirs.relative_position_bias_table.data = table
    torch.testing.assert_close(ours(size)[None], theirs.get_bias(), rtol=1e-5, atol=1e-5)


def test_relative_bias_does_not_swap_rows_and_columns():
    bias = RelativeBias(1, (2, 3))
    with torch.no_grad():
        bias.table.copy_(torch.arange(15.0).view(3, 5, 1))  # entry = 5 * (row offset + 1) + (column offset + 2)
    found = bias((2, 3))[0].unflatten(0, (2, 3)).unflatten(2, (2, 3))
    assert found[0, 0, 0, 0] == 7 and found[1, 0, 0, 0] == 12 and found[0, 0, 0, 2] == 5 and found[1, 2, 0, 0] == 14


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("size", SIZES)
def test_rotary_equals_timms(size, prefix, fused):
    ours = randomised("rotary")
    ours.fused_attn = fused
    theirs = AttentionRope(WIDTH, HEADS, num_prefix_tokens=prefix, rotate_half=True)
    theirs.load_state_dict(ours.state_dict())
    rope = RotaryEmbeddingDinoV3(WIDTH // HEADS, temperature=100.0, rotate_half=True).get_embed(size)
    x = torch.randn(2, prefix + size[0] * size[1], WIDTH)
    torch.testing.assert_close(ours(x, places(size)), theirs(x, rope=rope), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MAKE)
def test_the_switch_of_fused_attention_is_obeyed(name, monkeypatch):
    """Same values and gradients; plain attention calls no fused kernel."""
    attention, size = randomised(name).double(), (3, 4)
    x = torch.randn(2, 13, WIDTH, dtype=torch.float64)
    found = []
    for fused in (True, False):
        attention.fused_attn = fused
        attention.zero_grad()
        if not fused:
            monkeypatch.setattr(F, "scaled_dot_product_attention", None)
        y = attention(x, places(size, name))
        y.square().sum().backward()
        found.append([y, *[parameter.grad.clone() for parameter in attention.parameters()]])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MAKE)
def test_half_precision(name):
    attention, size = randomised(name), (3, 4)
    x = torch.randn(2, 13, WIDTH)
    expected = attention(x, places(size, name))
    with torch.autocast("cpu", torch.bfloat16):
        cast = attention(x, places(size, name))
    low = attention.bfloat16()(x.bfloat16(), places(size, name))
    assert cast.dtype == low.dtype == torch.bfloat16
    for found in (cast, low):
        assert (found.float() - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("prefix", [0, 2])
def test_rotary_sees_no_key_that_is_padding(prefix, fused):
    """What is left of a masked batch is what there is without the padding, in single precision and in half."""
    attention, whole = randomised("rotary"), places((3, 4))
    attention.fused_attn = fused
    x = torch.randn(2, prefix + 12, WIDTH)
    mask = torch.zeros(2, 1, 1, prefix + 12)
    mask[..., prefix + 7 :] = float("-inf")
    masked = whole._replace(grid=None, mask=mask)
    first = attention(x[:, : prefix + 7], Places(rotation=whole.rotation[:, :, :, :7]))
    torch.testing.assert_close(attention(x, masked)[:, : prefix + 7], first, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(attention(x, whole)[:, : prefix + 7], first, rtol=1e-3, atol=1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        low = attention(x, masked)[:, : prefix + 7].float()
    assert (low - first).abs().max() < 0.05 * first.abs().max()


def test_rotary_without_its_rotation():
    with pytest.raises(ValueError, match="RotaryPosition"):
        MAKE["rotary"]()(torch.zeros(1, 4, WIDTH), Places((2, 2)))
