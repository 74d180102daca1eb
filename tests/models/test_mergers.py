"""Every merger and its variants in whole models: any size, any list, all gradients; ToMe on a plain trunk."""

import pytest
import timm
import torch

import anyres
from anyres.layers.places import Places
from anyres.models.weights.timm import convert_timm_vit

TINY = {"width": 24, "heads": 2, "depth": 3, "patch_size": 4, "grid": 3, "num_classes": 5}
VARIANTS = {
    "pyramid": {"merger": "pyramid"},
    "pyramid aspect": {"merger": "pyramid", "grid_shape": "aspect", "extra_passes": 1, "start": "mean"},
    "concat": {"merger": "concat"},
    "concat balanced": {"merger": "concat", "cells": "balanced"},
    "start": {"start": "mean"},
    "scale_query": {"scale_query": True},
    "learned_levels": {"learned_levels": 1},
    "all of grid attention": {"start": "mean", "scale_query": True, "learned_levels": 2, "extra_passes": 1},
    "tome share": {"merger": "none", "tome": 0.3},
    "tome number": {"merger": "none", "tome": 5, "prefix_tokens": 1, "pool": "token"},
}
SIZES = [(17, 31), (1, 1), (5, 9), (40, 40), (17, 31), (3, 100)]
each_variant = pytest.mark.parametrize("variant", VARIANTS)


def make(variant, **overrides):
    """A model in which nothing is zero, so that no path is hidden."""
    torch.manual_seed(0)
    model = anyres.create_model("vitar_tiny_patch16", **(TINY | VARIANTS[variant] | overrides))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def images(sizes=SIZES):
    torch.manual_seed(1)
    return [torch.randn(3, *size) for size in sizes]


@each_variant
def test_a_mixed_list_equals_one_by_one(variant):
    model = make(variant).double()
    mixed = [image.double() for image in images()]
    alone = torch.cat([model(image[None]) for image in mixed])
    torch.testing.assert_close(model(mixed), alone, rtol=1e-5, atol=1e-5)


@each_variant
def test_gradients_reach_every_parameter_and_checkpointing_changes_none(variant):
    model, keys = make(variant).train(), torch.arange(len(SIZES))
    found = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        torch.manual_seed(3)
        model(images(), keys).square().sum().backward()
        found.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert [name for name, gradient in found[0].items() if gradient is None or not gradient.abs().sum() > 0] == []
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], msg=name)


@each_variant
def test_there_is_a_map_of_tokens_at_every_size(variant):
    model = make(variant)
    for image in images():
        features = model.forward_features(image[None])
        rows, cols = model.plan(*image.shape[1:]).grid
        assert features.tokens.shape == (1, rows, cols, 24)
        final, maps = model.forward_intermediates(image[None], norm=True)
        torch.testing.assert_close(maps[-1].permute(0, 2, 3, 1), features.tokens)
        torch.testing.assert_close(final.pooled, features.pooled)


def test_a_start_as_the_mean_averages_and_survives_the_models_initialisation():
    torch.manual_seed(0)
    model = anyres.create_model("vitar_tiny_patch16", **TINY, start="mean", scale_query=True).eval()
    image = torch.randn(1, 3, 48, 24)  # 12x6 patches, halved to 6x3 and then 3x3
    patches = model.position(model.stem(image))
    expected = patches.unflatten(1, (3, 4)).unflatten(3, (3, 2)).mean((2, 4))
    torch.testing.assert_close(model.grid_tokens(image), expected)


def test_levels_beyond_the_learned_ones_are_plain_means():
    one, all_levels = make("learned_levels"), make("learned_levels", learned_levels=None)
    all_levels.load_state_dict(one.state_dict())
    small, large = torch.randn(1, 3, 20, 24), torch.randn(1, 3, 48, 48)
    torch.testing.assert_close(one(small), all_levels(small))  # one level: 5x6 > 3x3
    assert not torch.allclose(one(large), all_levels(large), rtol=1e-2)


def test_tome_with_the_weights_of_a_timm_vit():
    """Pretrained ViTs load as they are; merging moves their result, and there is still a token for every patch."""
    torch.manual_seed(0)
    theirs = timm.create_model("deit_tiny_patch16_224", depth=2, num_classes=7).eval()
    image = torch.randn(2, 3, 224, 224)
    ours = anyres.create_model("deit_tiny_patch16", depth=2, num_classes=7).eval()
    ours.load_state_dict(convert_timm_vit(theirs.state_dict(), ours.config))
    merging = anyres.create_model("deit_tiny_patch16", depth=2, num_classes=7, tome=0.2).eval()
    merging.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(image), theirs(image), rtol=1e-4, atol=1e-5)
    difference = (merging(image) - theirs(image)).abs().max()
    assert 0 < difference < theirs(image).abs().max()
    assert merging.forward_features(image).tokens.shape == (2, 14, 14, 192)


def test_the_mean_of_merged_tokens_is_weighted_by_their_sizes():
    model = make("tome share")
    image = torch.randn(1, 3, 20, 28)
    x, places = model.grid_tokens(image).flatten(1, 2), Places()
    for block in model.trunk.blocks:
        x, places = block(x, places)
    tokens, sizes = model.trunk.norm(x), places.sizes
    assert tokens.shape[1] < 35 and sizes.sum() == 35
    torch.testing.assert_close(model.forward_features(image).pooled, (tokens * sizes).sum(1) / 35)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tome": 0.3}, "tome=0.3 has no effect because merger is not"),
        ({"merger": "none", "tome": 0.3, "position": "rotary"}, "acts in the trunk"),
        ({"merger": "none", "tome": 0.3, "position": "conditional"}, "acts in the trunk"),
        ({"merger": "none", "tome": -1.0}, "amount of tokens to merge is -1.0"),
        ({"merger": "concat", "start": "mean"}, "start='mean' has no effect"),
        ({"merger": "concat", "last_pass": False}, "last_pass=False has no effect"),
        ({"merger": "average", "scale_query": True}, "scale_query=True has no effect"),
        ({"learned_levels": -1}, "learned_levels is -1"),
        ({"learned_levels": 0, "last_pass": False}, "never used"),
        ({"learned_levels": 0, "cells": "2x2"}, "never used"),
        ({"learned_levels": 0, "scale_query": True}, "scale_query=True has no effect"),
        ({"cells": "1x1", "scale_query": True}, "scale_query=True has no effect"),
        ({"merger": "concat", "cells": "1x1"}, "nothing is merged"),
        ({"cells": "1x1", "padding": "zeros"}, "padding='zeros' has no effect"),
        ({"start": "average"}, "start"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        anyres.create_model("vitar_tiny_patch16", **options)
