"""Windowed attention against a slow reference that masks the attention of all pairs, at grids of any shape."""

import re

import pytest
import torch
from timm.layers import Attention

import anyres
from anyres.layers.options import usual_global_blocks
from anyres.layers.places import Places
from anyres.layers.windows import in_windows
from anyres.models.config import ViTARConfig

TINY = {"width": 24, "heads": 2, "depth": 4, "patch_size": 4, "grid": 5, "num_classes": 0}
VIT = {"merger": "none", "position": "learned"}


def sees(grid, window):
    """(N, N) bool: whether two tokens are in one window."""
    places = torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1])) // window
    return (places[:, None] == places).all(-1)


@pytest.mark.parametrize("window", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("grid", [(1, 1), (6, 6), (7, 5), (1, 11), (13, 2), (14, 17)])
def test_a_token_sees_its_own_window_and_nothing_else(grid, window):
    torch.manual_seed(0)
    attention = Attention(24, num_heads=3, qkv_bias=True).double()
    x = torch.randn(2, grid[0] * grid[1], 24, dtype=torch.double, requires_grad=True)
    found = in_windows(attention, x, grid, window)
    mask = torch.zeros(x.shape[1], x.shape[1], dtype=torch.double).masked_fill(~sees(grid, window), float("-inf"))
    expected = attention(x, attn_mask=mask[None, None])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    pull = torch.randn_like(found)
    ours, theirs = (torch.autograd.grad(y, x, pull, retain_graph=True)[0] for y in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "extra", [VIT, {"cells": "1x1"}, {"cells": "2x2"}, {"cells": "1x1", "position": "conditional"}]
)
@pytest.mark.parametrize("size", [(40, 40), (37, 53), (12, 68)])
def test_a_trunk_with_windows_is_the_masked_one_without(extra, size):
    torch.manual_seed(0)
    model = anyres.create_model("vitar_tiny_patch16", **TINY, window=3, global_blocks=(1,), **extra).double().eval()
    plain = anyres.create_model("vitar_tiny_patch16", **TINY, **extra).double().eval()
    plain.load_state_dict(model.state_dict())
    image = torch.randn(2, 3, *size, dtype=torch.double)
    grid = model.plan(*size).grid
    mask = torch.zeros(grid[0] * grid[1], grid[0] * grid[1], dtype=torch.double)
    mask = mask.masked_fill(~sees(grid, 3), float("-inf"))[None, None]
    x = plain.grid_tokens(image).flatten(1, 2)
    for index, block in enumerate(plain.trunk.blocks):
        x, _ = block(x, Places(grid, mask=None if index == 1 else mask))
    found = model.forward_intermediates(image, indices=[3], intermediates_only=True)[0]
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), x, rtol=1e-10, atol=1e-10)


def test_a_list_of_images_equals_one_by_one():
    torch.manual_seed(0)
    model = anyres.create_model("vitar_tiny_patch16", **TINY, window=3, global_blocks=(1,), cells="1x1").eval()
    images = [torch.randn(3, *size) for size in ((20, 24), (24, 20), (13, 29))]
    together = model.forward_features(images).tokens
    for found, image in zip(together, images, strict=True):
        torch.testing.assert_close(found, model.forward_features(image[None]).tokens[0], rtol=1e-5, atol=1e-5)


def test_which_blocks_stay_global():
    assert usual_global_blocks(12) == (2, 5, 8, 11) and usual_global_blocks(24) == (5, 11, 17, 23)
    assert usual_global_blocks(32) == (7, 15, 23, 31) and usual_global_blocks(6) == (0, 2, 3, 5)
    blocks = anyres.create_model("vitar_tiny_patch16", window=14, depth=12).trunk.blocks
    assert [block.window for block in blocks] == [14, 14, 0] * 4
    blocks = anyres.create_model("vitar_tiny_patch16", window=14, depth=2, global_blocks=()).trunk.blocks
    assert [block.window for block in blocks] == [14, 14]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"window": 3, "prefix_tokens": 1}, "prefix_tokens is 1; allowed with windows: prefix_tokens=0"),
        ({"window": 3, "position": "rotary"}, "position 'rotary' acts in the trunk's attention"),
        ({"window": 3, "merger": "none", "tome": 0.3, "position": "learned"}, "tome is 0.3"),
        ({"window": 3, "depth": 2}, "window=3 has no effect because all 2 blocks are global"),
        ({"window": 3, "global_blocks": (0, 12)}, "allowed: numbers of blocks from 0 to 11; usual: (2, 5, 8, 11)"),
        ({"global_blocks": (1,)}, "global_blocks=(1,) has no effect because window is 0"),
        ({"window": -1}, "window is -1; it must be 0 or more"),
        ({"window": 2.5}, "window is 2.5; it must be a whole number"),
    ],
)
def test_what_windows_do_not_go_with(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ViTARConfig(**options)
