"""Costs: the paper's printed ones, torch's flop counter, and memory."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch.utils.flop_counter import FlopCounterMode

import anyres
from anyres.costs.cost import _seen_share, cost, macs_by_part, window_pairs
from anyres.costs.memory import peak_tensor_bytes
from anyres.layers.cells import cell_sum
from anyres.layers.masking import hidden_cells
from anyres.models.architectures import AUTOENCODER, get_config
from anyres.models.presets import CLASSIFIERS

RESOLUTIONS = (224, 448, 512, 640, 896, 1120, 1792, 2240, 2800, 3360, 4032)
PRINTED = {  # ViTAR paper, Table 1, 1e9 multiply-accumulates
    "vitar_small_conv16": (5, 6, 7, 7, 9, 13, 24, 35, 52, 72, 102),
    "vitar_base_conv16": (19, 23, 26, 29, 37, 49, 93, 137, 203, 282, 399),
}


@pytest.mark.parametrize("name", PRINTED)
def test_all_costs_of_table_1(name):
    for side, printed in zip(RESOLUTIONS, PRINTED[name], strict=True):
        found = sum(macs_by_part(get_config(name), (side, side), "paper").values()) / 1e9
        assert round(found) == printed, side


@pytest.mark.parametrize(("side", "printed"), [(384, 22), (672, 30)])
def test_figure_1(side, printed):
    assert round(cost("vitar_base_conv16", (side, side), "paper", memory=False).macs / 1e9) == printed


@pytest.mark.parametrize("side, printed", [(224, 4.9), (448, 5.6), (1120, 11.0), (4032, 80.5)])
def test_patch_stem_in_the_papers_convention(side, printed):
    """reference: small with 16x16 patches, counted by hand without norms of the merger's small operations."""
    assert cost("vitar_small_patch16", (side, side), "paper", memory=False).macs / 1e9 == pytest.approx(
        printed, rel=0.012
    )


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"stem": "conv"},
        {"stem": "conv", "patch_size": 9, "width": 48},
        {"merger": "none"},
        {"merger": "average"},
        {"cells": "balanced"},
        {"cells": "2x2"},
        {"padding": "zeros"},
        {"grid_shape": "aspect"},
        {"grid_shape": "aspect", "merger": "concat", "position": "rotary"},
        {"grid_shape": "aspect", "merger": "average", "grid": (3, 9), "window": 3, "global_blocks": (1,)},
        {"last_pass": False},
        {"prefix_tokens": 3, "pool": "token"},
        {"position": "none"},
        {"position": "sincos"},
        {"position": "conditional"},
        {"position": "conditional", "placement": "trunk"},
        {"position": "conditional", "merger": "none", "prefix_tokens": 1},
        {"position": "conditional", "merger": "none", "placement": "before"},
        {"position": "global_local"},
        {"position": "global_local", "placement": "before"},
        {"position": "global_local", "merger": "none", "prefix_tokens": 1, "pool": "token"},
        {"position": "global_local", "merger": "none", "placement": "before"},
        {"position": "relative_bias"},
        {"position": "relative_bias", "merger": "none", "prefix_tokens": 1},
        {"position": "rotary"},
        {"position": "rotary", "merger": "none", "prefix_tokens": 2},
        {"merger": "concat"},
        {"merger": "concat", "cells": "balanced"},
        {"merger": "concat", "cells": "2x2"},
        {"start": "mean"},
        {"scale_query": True},
        {"learned_levels": 1},
        {"learned_levels": 2, "cells": "balanced", "scale_query": True},
        {"merger": "pyramid"},
        {"merger": "pyramid", "stem": "conv", "grid_shape": "aspect"},
        {"merger": "pyramid", "stem": "conv", "cells": "2x2", "patch_size": 6},
        {"merger": "pyramid", "cells": "1x1"},
        {"merger": "pyramid", "last_pass": False, "position": "conditional"},
        {"merger": "pyramid", "position": "global_local", "placement": "before", "grid": (3, 9)},
        {"grid_shape": "aspect"},
        {"merger": "none", "tome": 0.3, "depth": 3},
        {"merger": "none", "tome": 7, "depth": 3, "prefix_tokens": 1, "pool": "token"},
        {"interpolation": "timm"},
        {"in_channels": 1, "grid": (3, 9)},
        {"mlp_ratio": 2.5, "num_classes": 0},
        {"window": 3, "global_blocks": (1,)},
        {"window": 14, "global_blocks": (), "cells": "1x1"},
        {"window": 5, "global_blocks": (0, 2), "cells": "2x2", "depth": 4},
        {"window": 4, "global_blocks": (), "merger": "none", "position": "learned"},
        {"window": 14, "depth": 5, "merger": "none"},
    ],
)
@pytest.mark.parametrize("size", [(56, 56), (61, 200), (224, 17), (7, 1000)])
def test_executed_equals_torchs_flop_counter(overrides, size):
    options = {"width": 32, "heads": 4, "depth": 2, "patch_size": 8, "grid": 7, "num_classes": 10} | overrides
    with torch.device("meta"):
        model = anyres.create_model("vitar_tiny_patch16", **options).eval()
    image = torch.empty(1, model.config.in_channels, *size, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    assert 2 * sum(macs_by_part(model.config, size, "executed").values()) == counter.get_total_flops()


@pytest.mark.parametrize("options", [{"global_pool": "map", "class_token": False}, {"reg_tokens": 2}])
def test_executed_of_an_upgraded_vit(options):
    vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=5, **options)
    model = anyres.upgrade(vit).requires_grad_(False).to("meta")
    for size in ((32, 32), (61, 200)):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, *size, device="meta"))
        assert 2 * sum(macs_by_part(model.config, size, "executed").values()) == counter.get_total_flops()


@pytest.mark.parametrize("grid", [(1, 1), (5, 7), (14, 14), (28, 15), (3, 41)])
@pytest.mark.parametrize("window", [1, 2, 5, 14])
def test_pairs_in_windows_are_those_that_share_one(grid, window):
    places = torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1])) // window
    assert window_pairs(grid, window) == int((places[:, None] == places[None]).all(-1).sum())


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("side", [224, 448])
def test_executed_for_every_named_model(name, side):
    with torch.device("meta"):
        model = anyres.create_model(name).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, side, side, device="meta"))
    found = cost(name, (side, side), memory=False)
    assert 2 * found.macs == counter.get_total_flops()
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert sum(found.parts.values()) == found.macs


@pytest.mark.parametrize(
    ("size", "printed"),
    [("small", (5, 23, 32, 58, 159, 327, 1722, 3965)), ("base", (18, 79, 107, 184, 450, 863, 3976))],
)
def test_the_papers_column_of_deit_is_resformers_cost(size, printed):
    """Every printed digit, with ResFormer's depthwise convolutions; DeiT's own cost misses the largest ones."""
    sides = RESOLUTIONS[: len(printed)]
    found = {
        name: [
            round(sum(macs_by_part(get_config(f"{name}_{size}_patch16"), (r, r), "paper").values()) / 1e9)
            for r in sides
        ]
        for name in ("resformer", "deit")
    }
    assert tuple(found["resformer"]) == printed
    assert found["deit"][:2] == list(printed[:2]) and found["deit"] != found["resformer"]


@pytest.mark.parametrize(
    ("size", "side", "digits"),
    [
        ("small", 1120, 327.3),
        ("small", 1792, 1721.6),
        ("small", 2240, 3964.6),
        ("base", 1120, 862.8),
        ("base", 1792, 3976.0),
    ],
)
def test_resformer_counted_by_hand(size, side, digits):
    found = sum(macs_by_part(get_config(f"resformer_{size}_patch16"), (side, side), "paper").values())
    assert round(found / 1e9, 1) == digits


def test_parts_are_named():
    parts = cost("vitar_base_patch16", (1120, 640), memory=False).parts
    assert list(parts) == [
        "stem", "positions", "merger 1: 70x40 > 35x20", "merger 2: 35x20 > 18x14", "merger 3: 18x14 > 14x14",
        "merger 4: 14x14 > 14x14", "trunk", "head",
    ]  # fmt: skip


def test_bases_of_the_pyramid_merger_by_hand():
    """Three levels that merge, each with a patch embedding of its grid; positions are the table's own at 14x14 alone,
    else rows of the table are read first and columns then. Nothing else differs from the paper's merger."""
    for convention in ("paper", "plain", "executed"):
        paper = macs_by_part(get_config("vitar_base_patch16"), (1120, 640), convention)
        pyramid = macs_by_part(get_config("vitar_base_patch16", merger="pyramid"), (1120, 640), convention)
        reads = [rows * 14 * 14 + rows * cols * 14 for rows, cols in ((35, 20), (18, 14))]
        patches = 35 * 20 + 18 * 14 + 14 * 14
        assert pyramid.pop("bases") == 768 * (3 * 16**2 * patches + sum(reads))
        assert pyramid == paper and list(pyramid) == list(paper)


def test_images_smaller_than_the_grid_cost_the_pyramid_merger_what_the_grid_does():
    config = get_config("vitar_small_conv16", merger="pyramid", grid_shape="aspect")
    assert macs_by_part(config, (17, 1)) == macs_by_part(config, (32, 16))
    assert macs_by_part(config, (100, 100)) == macs_by_part(config, (224, 224))
    assert "bases" not in macs_by_part(config, (224, 224))


def test_the_pyramid_merger_costs_three_percent_more_at_1120_pixels():
    for side, most in ((448, 1.006), (1120, 1.032), (4032, 1.062)):
        paper, pyramid = (
            sum(macs_by_part(get_config("vitar_base_patch16", merger=merger), (side, side)).values())
            for merger in ("grid_attention", "pyramid")
        )
        assert 1 < pyramid / paper < most


@pytest.mark.parametrize(
    "name", ["anyres_tiny_patch16", "vitar_tiny_patch16", "deit_tiny_patch16", "resformer_tiny_patch16"]
)
@pytest.mark.parametrize("size", [(32, 32), (90, 200), (256, 264)])
def test_activation_bytes_are_those_of_a_real_run(name, size):
    """Up to 1056 trunk tokens, where plain attention would need several times the memory of fused attention."""
    model = anyres.create_model(name, depth=2, patch_size=8, grid=5).eval()
    image = torch.randn(1, 3, *size)
    with torch.no_grad():
        measured = peak_tensor_bytes(lambda: model(image))
    assert cost(model, size).activation_bytes == pytest.approx(measured, rel=0.05)


def test_peak_tensor_bytes_by_hand():
    base = torch.zeros(1000)

    def chain():
        x = base
        for _ in range(5):
            x = x + 1
        return x

    assert peak_tensor_bytes(chain) == 8000  # one input and one result alive at a time
    assert peak_tensor_bytes(lambda: [base + 1 for _ in range(5)]) == 20000
    assert peak_tensor_bytes(lambda: base.view(10, 100)[2]) == 0


def test_bad_input():
    with pytest.raises(ValueError, match="paper, executed"):
        cost("vitar_base_patch16", (224, 224), "flops")
    with pytest.raises(ValueError, match="at least 1 pixel"):
        cost("vitar_base_patch16", (0, 224))
    with pytest.raises(ValueError, match="vitar_base_patch16"):
        cost("vitar_bas_patch16", (224, 224))
    with pytest.raises(ValueError, match="mask_rcnn_vitar_base_patch16"):
        cost("mask_rcn_vitar_base_patch16", (224, 224))


def test_without_memory_the_rest_is_the_same():
    whole, quick = (cost("vitar_tiny_patch16", (300, 224), memory=each) for each in (True, False))
    assert whole.activation_bytes and quick.activation_bytes is None
    assert whole.parts == quick.parts and whole.parameters == quick.parameters


@pytest.mark.parametrize("kind", ["vitar", "vit", "pyramid", "rotary"])
@pytest.mark.parametrize("size", [(16, 16), (32, 48), (28, 48), (64, 64), (16, 64), (96, 24)])
def test_masked_auto_encoding_costs_what_torch_counts_over_all_cells(kind, size):
    """Four masks that show every cell once: their mean is the mean over all masks."""
    name = "mae_vit_tiny_patch16" if kind == "vit" else "mae_vitar_tiny_patch16"
    shape = {"grid_shape": "aspect"} if kind != "vit" and max(size) > 3 * min(size) else {}  # 2x8 and 8x2
    shape |= {"merger": "pyramid"} if kind in ("pyramid", "rotary") else {}
    shape |= {"position": "rotary"} if kind == "rotary" else {}
    small = shape | {
        "width": 24,
        "heads": 3,
        "depth": 2,
        "patch_size": 4,
        "grid": 4,
        "decoder_width": 16,
        "decoder_heads": 2,
    }
    model = anyres.create_model(name, **small, decoder_depth=3, large_target="vitar" in name).eval()
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # the counter does not know the fused one of CPUs
    grid = model.config.plan(*size).grid
    cells = torch.arange(grid[0] * grid[1]).view(grid)
    assert cells.numel() % 4 == 0
    counted = 0
    for part in range(4):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.rand(1, 3, *size), is_hidden=(cells % 4 != part)[None])
        counted += counter.get_total_flops() / 2 / 4
    assert cost(model, size).macs == pytest.approx(counted, rel=1e-9)


def test_cells_with_a_visible_patch_are_counted_for_random_patches():
    config = AUTOENCODER.get_config(
        "mae_vitar_tiny_patch16", width=24, patch_size=4, grid=5, masking="patches", heads=3
    )
    plan, visible = config.backbone.plan((23, 31)), config.visible(92, 124)
    is_hidden = hidden_cells(torch.arange(600), plan.size, config.mask_ratio)
    for levels in range(len(plan.levels) + 1):
        x = (~is_hidden)[..., None].float()
        for level in plan.levels[:levels]:
            x = cell_sum(x, level.rows, level.cols)
        shares = (x > 0).float().mean((1, 2, 3))
        assert _seen_share(config, plan, levels, visible) == pytest.approx(shares.mean().item(), abs=4e-3)


def test_masked_auto_encoding_at_1120_pixels_costs_about_half_as_much_again():
    at_224, at_1120 = (cost("mae_vitar_base_patch16", (side, side), "plain").macs for side in (224, 1120))
    assert at_224 / 1e9 == pytest.approx(9.9, abs=0.05)
    assert at_1120 / at_224 == pytest.approx(1.5, abs=0.1)
