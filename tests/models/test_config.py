"""Names, options and what is refused."""

import dataclasses

import pytest
import torch

import anyres
from anyres.models.architectures import get_config
from anyres.models.presets import CLASSIFIERS


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"mergr": "none"}, "merger"),
        ({"merger": "nothing"}, "grid_attention, pyramid, average, concat, none"),
        ({"stem": "convolution"}, "Did you mean 'conv'"),
        ({"heads": 5}, "nearest: 4"),
        ({"grid": 0}, "grid"),
        ({"grid": (3, 4, 5)}, "grid"),
        ({"width": 0}, "width is 0"),
        ({"num_classes": -1}, "num_classes is -1"),
        ({"drop_path_rate": 1.0}, "below 1"),
        ({"pool": "token"}, "prefix token"),
        ({"mean": (0.5,)}, "mean has 1 values for 3 channels"),
        ({"position": "learned", "jitter": 0.2}, "no effect"),
        ({"merger": "none", "cells": "balanced"}, "no effect"),
        ({"merger": "average", "padding": "zeros"}, "no effect"),
        ({"merger": "average", "extra_passes": 1}, "no effect"),
        ({"position": "none", "interpolation": "timm"}, "no effect"),
        ({"cells": "1x1", "last_pass": False}, "no effect"),
        ({"merger": "none", "position": "learned", "grid_shape": "aspect"}, "grid_shape='aspect' has no effect"),
        ({"cells": "1x1", "grid_shape": "aspect"}, "no effect because cells are fixed"),
        ({"cells": "2x2", "grid_shape": "aspect"}, "no effect because cells are fixed"),
        ({"grid_shape": "square"}, "fixed, aspect"),
        ({"depth": "two"}, "depth is 'two'; it must be a whole number"),
        ({"width": 96.0}, "whole number"),
        ({"drop_path_rate": None}, "must be a number"),
        ({"grid": ("a", 3)}, "grid"),
        ({"mlp_ratio": -1}, "above 0"),
        ({"std": (0.0, 1.0, 1.0)}, "above 0"),
        ({"mean": 0.5}, "mean has 1 values"),
        ({"position": "sin-cos"}, "Did you mean 'sincos'"),
        ({"position": "rotary", "placement": "trunk"}, "placement='trunk' has no effect"),
        ({"placement": "before"}, "placement='before' has no effect"),
        ({"position": "conditional", "placement": "after"}, "before, trunk"),
        ({"rescale": 2.0}, "rescale=2.0 has no effect"),
        ({"position": "rotary", "rescale": 0.5}, "at least 1"),
        ({"position": "rotary", "rescale": float("nan")}, "at least 1"),
        ({"position": "rotary", "rescale": "2"}, "must be a number"),
        ({"position": "sincos", "interpolation": "timm"}, "no effect"),
        ({"position": "sincos", "jitter": 0.1}, "no effect"),
        ({"position": "rotary", "heads": 32}, "nearest: heads=24"),
        ({"position": "rotary", "width": 30, "heads": 3}, "nearest: width=24|nearest: width=36"),
        ({"position": "sincos", "width": 30, "heads": 3}, "nearest: width=24|nearest: width=36"),
        ({"position": "global_local", "width": 6, "heads": 1}, "nearest: width=8|nearest: width=4"),
    ],
)
def test_impossible_or_idle_options_are_errors(overrides, message):
    with pytest.raises(ValueError, match=message):
        anyres.create_model("vitar_tiny_patch16", **overrides)


def test_configurations_are_frozen_and_normalised():
    config = get_config("vitar_base_patch16", grid=7, in_channels=4)
    assert config.grid == (7, 7) and config.mean == config.std == (0.5,) * 4
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.width = 3


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        # DeiT: the paper's and timm's counts, less the class token's entry of the position table; ViTAR: reference 6.1
        ("deit_tiny_patch16", 5.717), ("deit_small_patch16", 22.05), ("deit_base_patch16", 86.57),
        ("vitar_small_patch16", 23.8), ("vitar_base_patch16", 93.7), ("vitar_base_conv16", 94.2),
    ],
)  # fmt: skip
def test_sizes(name, millions):
    with torch.device("meta"):
        model = anyres.create_model(name)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=2e-3)


def test_named_shapes():
    large = CLASSIFIERS["vitar_large_patch16"]
    assert (large.width, large.depth, large.heads) == (1024, 24, 16)
    tiny = CLASSIFIERS["vitar_tiny_patch16"]
    assert (tiny.width, tiny.depth, tiny.heads) == (192, 12, 3)


def test_our_models_are_vitars_with_another_merger_grid_and_position():
    ours = [name for name in CLASSIFIERS if name.startswith("anyres")]
    assert len(ours) == sum(name.startswith("vitar") for name in CLASSIFIERS)
    for name in ours:
        same = get_config(name, merger="grid_attention", grid_shape="fixed", position="fuzzy")
        assert same == CLASSIFIERS[name.replace("anyres", "vitar")] != CLASSIFIERS[name]


def test_what_an_override_makes_idle_in_a_preset_is_dropped():
    config = get_config("deit_small_patch16", position="none")
    assert config.interpolation == "bilinear" and config.prefix_tokens == 1
    with pytest.raises(ValueError, match="no effect"):
        get_config("deit_small_patch16", position="none", interpolation="bicubic")


@pytest.mark.parametrize("merger", ["grid_attention", "average", "concat"])
def test_a_grid_that_follows_the_image(merger):
    """Of any merger; sides that are shorter than their target stay as they are."""
    config = get_config("vitar_tiny_patch16", merger=merger, grid_shape="aspect")
    fixed = get_config("vitar_tiny_patch16", merger=merger)
    for size, grid in (
        ((70, 70), (14, 14)), ((30, 60), (10, 20)), ((61, 31), (20, 10)), ((7, 30), (7, 28)), ((10, 20), (10, 20)),
        ((1, 300), (1, 196)), ((2, 600), (1, 196)), ((3, 5), (3, 5)), ((1, 1), (1, 1)), ((41, 31), (16, 12)),
    ):  # fmt: skip
        plan = config.plan(size)
        assert plan.grid == grid and plan.size == size
        assert plan.grid == tuple(min(pair) for pair in zip(size, config.final_grid(size), strict=True))
        assert plan.grid[0] * plan.grid[1] <= config.most_tokens == 203
        assert fixed.plan(size).grid == (min(size[0], 14), min(size[1], 14))
    assert fixed.final_grid((1, 300)) == (14, 14) and fixed.most_tokens == 196


def test_of_a_grid_that_follows_the_image_the_area_counts():
    config = get_config("vitar_tiny_patch16", grid=(6, 8), grid_shape="aspect")
    assert [config.final_grid(size) for size in ((60, 80), (80, 60), (50, 50))] == [(6, 8), (8, 6), (7, 7)]
