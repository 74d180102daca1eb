"""Lists of images of different sizes: each gives what it gives alone, and the trunk runs as seldom as it can."""

import pytest
import torch
from hypothesis import given, settings, strategies as st

import anyres

TINY = {"width": 24, "heads": 2, "depth": 2, "patch_size": 4, "grid": 3, "num_classes": 5}


def make(seed=0, **overrides):
    torch.manual_seed(seed)
    return anyres.create_model("vitar_tiny_patch16", **(TINY | overrides)).eval()


MODELS = {"grid_attention": make(), "pyramid": make(merger="pyramid", grid_shape="aspect", position="rotary")}
SIDES = st.one_of(st.integers(1, 40), st.sampled_from([1, 2, 3, 53, 97, 127, 211, 400]))


@pytest.mark.parametrize("merger", MODELS)
@given(sizes=st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=6), order=st.randoms())
@settings(max_examples=25)
def test_a_mixed_batch_equals_one_by_one_whatever_the_neighbours(merger, sizes, order):
    model = MODELS[merger]
    images = [torch.randn(3, height, width) for height, width in sizes]
    alone = [model.forward_features(image[None]) for image in images]
    places = list(range(len(images)))
    order.shuffle(places)
    together = model.forward_features([images[place] for place in places])
    logits = model([images[place] for place in places])
    for found, place in enumerate(places):
        torch.testing.assert_close(together.tokens[found], alone[place].tokens[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(together.pooled[found], alone[place].pooled[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(logits[found], model.head(alone[place].pooled[0]), rtol=1e-5, atol=1e-5)
        assert together.plan[found] == alone[place].plan


@pytest.mark.parametrize(
    "overrides",
    [
        {"merger": "none"},
        {"merger": "average"},
        {"stem": "conv"},
        {"prefix_tokens": 2, "pool": "token"},
        {"cells": "balanced"},
        {"cells": "2x2"},
        {"position": "none"},
        {"padding": "zeros"},
        {"in_channels": 5},
        {"grid": (2, 5)},
        {"patch_size": 14},
        {"last_pass": False},
        {"merger": "pyramid", "in_channels": 5},
        {"merger": "pyramid", "grid_shape": "aspect", "stem": "conv"},
        {"merger": "pyramid", "cells": "2x2", "prefix_tokens": 1},
    ],
)
def test_every_configuration_takes_mixed_sizes_and_trains(overrides):
    model = make(**overrides)
    channels = model.config.in_channels
    images = [torch.randn(channels, *size) for size in [(17, 31), (5, 9), (40, 40), (17, 31)]]
    alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(model(images), alone, rtol=1e-5, atol=1e-5)
    model.train()
    model(torch.randn(2, channels, 33, 50)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("count", [1, 3])
def test_a_list_needs_a_jitter_key_for_each_image(count):
    images = [torch.randn(3, 9, 9), torch.randn(3, 5, 7)]
    with pytest.raises(ValueError, match=f"{count} jitter keys for 2 images"):
        make().train()(images, jitter_keys=torch.arange(count))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prefix_tokens": 2, "pool": "token"},
        {"merger": "none", "position": "learned"},
        {"merger": "pyramid", "grid_shape": "aspect"},
        {"merger": "pyramid", "grid_shape": "aspect", "position": "rotary"},
        {"merger": "none", "position": "rotary", "prefix_tokens": 1},
    ],
)
def test_lists_share_one_padded_batch_of_the_trunk(options, monkeypatch):
    """Different final grids, one pass of every block; extreme shapes go in batches of their own."""
    model = anyres.create_model(
        "vitar_tiny_patch16", num_classes=5, patch_size=4, width=16, heads=4, depth=2, grid=(4, 5), **options
    ).eval()
    images = [torch.randn(3, height, width) for height, width in [(16, 20), (13, 20), (16, 17), (40, 16)]]
    calls = []
    block = model.trunk.blocks[0]
    monkeypatch.setattr(block, "forward", lambda x, *a, old=block.forward: (calls.append(len(x)), old(x, *a))[1])
    together = model(images)
    assert calls == [4] or options.get("merger") == "none"
    for image, row in zip(images, together, strict=True):
        torch.testing.assert_close(row, model(image[None])[0], rtol=1e-5, atol=1e-6)
    calls.clear()
    model([torch.randn(3, 16, 20), *[torch.randn(3, 4, 4 + 4 * n) for n in range(4)]])
    # padding would be most of it, but where a grid has about as many tokens whatever its shape
    assert len(calls) == (1 if options.get("merger") == "pyramid" else 5)
    together.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
