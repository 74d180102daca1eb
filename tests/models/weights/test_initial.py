"""Weights to start from: equal to the models that they come from, and what is refused."""

import json
import math
import re

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import anyres
from anyres.models.architectures import DETECTOR, SEGMENTER, backbone_of, get_config
from anyres.models.detector import Detector
from anyres.models.segmenter import Segmenter
from anyres.models.vitar import ViTAR
from anyres.models.weights.files import save
from anyres.models.weights.initial import initial_digest, initial_weights, read_initial

SMALL = {"patch_size": 4, "grid": (3, 3), "width": 16, "depth": 2, "heads": 2}
VIT = {"patch_size": 4, "img_size": 12, "embed_dim": 16, "depth": 2, "num_heads": 2}


def shaken(model):
    """Random values everywhere, so that no two parts are alike."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def vit(path, **changes):
    """A timm ViT, written to a file."""
    model = shaken(timm.create_model("vit_tiny_patch16_224", num_classes=5, **(VIT | changes)))
    save_file(model.state_dict(), path)
    return model


def started(source, name, *, resize_positions=False, **options):
    """A model that starts from there, in evaluation."""
    model = anyres.create_model(name, **(SMALL | {"num_classes": 0} | options))
    model.load_state_dict(initial_weights(source, model.config, resize_positions=resize_positions), strict=False)
    return model.eval()


def config(name="deit_tiny_patch16", **options):
    return get_config(name, **(SMALL | options))


def flat(features):
    """Prefix and grid tokens, (B, P + N, D)."""
    return torch.cat([features.prefix, features.tokens.flatten(1, 2)], dim=1)


@torch.no_grad()
@pytest.mark.parametrize(("pixels", "grid"), [(12, (3, 3)), ((8, 20), (2, 5))])
def test_a_timm_vit_gives_its_own_features(tmp_path, pixels, grid):
    theirs = vit(tmp_path / "vit.safetensors", img_size=pixels)
    ours = started(tmp_path / "vit.safetensors", "deit_tiny_patch16", grid=grid)
    images = torch.randn(2, 3, 4 * grid[0], 4 * grid[1])
    torch.testing.assert_close(flat(ours.forward_features(images)), theirs.forward_features(images))


def test_pth_files_nested_or_not_and_half_precision(tmp_path):
    state = vit(tmp_path / "vit.safetensors").state_dict()
    whole = initial_weights(tmp_path / "vit.safetensors", config())
    torch.save(state, tmp_path / "a.pth")
    torch.save({"model": state, "epoch": 3}, tmp_path / "b.pth")
    for name in ("a.pth", "b.pth"):
        found = initial_weights(tmp_path / name, config())
        assert found.keys() == whole.keys() and all(torch.equal(found[key], whole[key]) for key in whole)
    save_file({key: value.half() for key, value in state.items()}, tmp_path / "half.safetensors")
    for key, value in initial_weights(tmp_path / "half.safetensors", config()).items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, whole[key], rtol=1e-3, atol=1e-3)


def test_what_starts_fresh_and_what_is_left_out_is_named(tmp_path):
    vit(tmp_path / "vit.safetensors")
    same = read_initial(tmp_path / "vit.safetensors", config())
    assert (same.fresh, same.left_out) == ((), ("head",))
    vitar = read_initial(tmp_path / "vit.safetensors", config("vitar_tiny_patch16"))
    assert (vitar.fresh, vitar.left_out) == (("merger",), ("head", "prefix"))
    rotary = read_initial(tmp_path / "vit.safetensors", config("vitar_tiny_patch16", position="rotary"))
    assert (rotary.fresh, rotary.left_out) == (("merger",), ("head", "position", "prefix"))
    vit(tmp_path / "mean.safetensors", global_pool="avg")  # its norm acts behind the pooling
    mean = read_initial(tmp_path / "mean.safetensors", config())
    assert (mean.fresh, mean.left_out) == (("norm",), ("fc_norm", "head"))
    table = read_initial(tmp_path / "vit.safetensors", config("vitar_tiny_patch16", position="relative_bias"))
    assert table.fresh[0].startswith("blocks.*.attn.") and table.fresh[-1] == "merger"


@pytest.mark.parametrize("grid", [(5, 2), (3, 4), (6, 6)])
def test_a_table_is_resized_as_torch_resizes_images(tmp_path, grid):
    theirs = vit(tmp_path / "vit.safetensors")
    ours = started(tmp_path / "vit.safetensors", "vitar_tiny_patch16", grid=grid, resize_positions=True)
    image = theirs.pos_embed[0, 1:].reshape(3, 3, 16).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(image, grid, mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
    torch.testing.assert_close(ours.position.table, expected)
    theirs.pos_embed.detach_()
    assert torch.equal(ours.trunk.blocks[1].mlp.fc2.weight, theirs.blocks[1].mlp.fc2.weight)


def transformers_mae(**changes):
    transformers = pytest.importorskip("transformers")
    settings = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    settings |= {"image_size": 12, "patch_size": 4, "mask_ratio": 0.0, "layer_norm_eps": 1e-6}
    decoder = {"decoder_hidden_size": 8, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    known = transformers.ViTMAEConfig(**(settings | decoder | {"decoder_intermediate_size": 16} | changes))
    model = shaken(transformers.ViTMAEForPreTraining(known))
    model.vit.embeddings.position_embeddings[0, 1:] = sincos(3, 3, 16)  # zeros in a fresh model, this in its files
    return model


def sincos(rows, cols, width):
    """MAE's positions (util/pos_embed.py), number by number, (rows * cols, width)."""
    frequencies = [10000 ** (-i / (width // 4)) for i in range(width // 4)]
    waves = [math.sin, math.cos]
    return torch.tensor(
        [
            [wave(place * frequency) for place in (col, row) for wave in waves for frequency in frequencies]
            for row in range(rows)
            for col in range(cols)
        ]
    )


@torch.no_grad()
@pytest.mark.parametrize("form", ["folder", "file", "as in memory", "encoder alone"])
def test_transformers_mae_gives_its_own_features(tmp_path, form):
    theirs = transformers_mae()
    saved = theirs.vit if form == "encoder alone" else theirs
    saved.save_pretrained(tmp_path)
    source = tmp_path if form in ("folder", "encoder alone") else tmp_path / "model.safetensors"
    if form == "as in memory":
        save_file(theirs.state_dict(), source)
    images = torch.randn(2, 3, 12, 12)
    in_order = torch.arange(9.0).expand(2, 9)
    expected = theirs.vit(images, noise=in_order).last_hidden_state  # (B, 1 + 9, D)
    for position in ("sincos", "learned"):
        ours = started(source, "deit_tiny_patch16", position=position)
        torch.testing.assert_close(flat(ours.forward_features(images)), expected)
    left_out = read_initial(source, config(position="sincos")).left_out
    assert left_out == (() if form == "encoder alone" else ("decoder",))


def test_names_of_the_files_on_the_hub(tmp_path):
    theirs = transformers_mae().vit
    old = {}
    for name, value in theirs.state_dict().items():
        name = re.sub(r"(encoder\.layer|layers)\.", "vit.encoder.layer.", name)
        name = re.sub(r"attention\.(q|k|v)_proj", lambda m: f"attention.attention.{_LONG[m[1]]}", name)
        name = name.replace("o_proj", "output.dense").replace("mlp.fc1", "intermediate.dense")
        name = name.replace("mlp.fc2", "output.dense")
        old[name if name.startswith("vit.") else f"vit.{name}"] = value.contiguous()
    assert "vit.encoder.layer.1.attention.attention.key.bias" in old and "vit.encoder.layer.0.output.dense.bias" in old
    save_file(old, tmp_path / "old.safetensors")
    save_file(theirs.state_dict(), tmp_path / "new.safetensors")
    one, other = (initial_weights(tmp_path / f"{n}.safetensors", config(position="sincos")) for n in ("old", "new"))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


_LONG = {"q": "query", "k": "key", "v": "value"}


def saved_mae(folder, name="mae_vitar_tiny_patch16", **options):
    small = {"decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2}
    model = shaken(anyres.create_model(name, **(SMALL | small | options)))
    save(folder, model, name=name, training_sizes=[(12, 12)])
    return model


@torch.no_grad()
@pytest.mark.parametrize("position", ["fuzzy", "sincos", "none"])
def test_a_run_of_pretraining_gives_its_encoder(tmp_path, position):
    mae = saved_mae(tmp_path, position=position)
    ours = started(tmp_path, "vitar_tiny_patch16", position=position)
    images = torch.randn(2, 3, 27, 41)
    assert torch.equal(ours(images), mae.backbone(images))
    found = read_initial(tmp_path, ours.config)
    assert (found.fresh, found.left_out) == ((), ("decoder",))


@torch.no_grad()
def test_sincos_positions_become_a_table(tmp_path):
    mae = saved_mae(tmp_path, position="sincos")
    images = torch.randn(1, 3, 12, 12)
    ours = started(tmp_path, "vitar_tiny_patch16", position="fuzzy")
    assert torch.equal(ours(images), mae.backbone(images))


@torch.no_grad()
def test_a_run_of_training_gives_all_but_its_head(tmp_path):
    theirs = shaken(ViTAR(config("vitar_tiny_patch16", num_classes=7, stem="conv", prefix_tokens=2)))
    save(tmp_path, theirs, name=None, classes=list("abcdefg"), training_sizes=[(12, 12)])
    ours = started(tmp_path, "vitar_tiny_patch16", stem="conv", prefix_tokens=2)
    images = torch.randn(1, 3, 30, 22)
    assert torch.equal(ours(images), theirs.forward_features(images).pooled)
    plain = read_initial(tmp_path, config("vitar_tiny_patch16", stem="conv", merger="none", position="none"))
    assert (plain.fresh, plain.left_out) == ((), ("head", "merger", "position", "prefix"))
    with pytest.raises(ValueError, match="stem is conv there and patch in the model.*--model-options stem=conv"):
        initial_weights(tmp_path, config("vitar_tiny_patch16"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("deit_tiny_patch16", {"width": 24}, "width is 16 there and 24 in the model.*--model-options width=16"),
        ("deit_tiny_patch16", {"depth": 3}, "depth is 2 there and 3 in the model"),
        ("deit_tiny_patch16", {"patch_size": 8, "width": 32}, "patch_size is 4 there and 8 .*width is 16 there and 32"),
        ("deit_tiny_patch16", {"mlp_ratio": 2.0}, r"blocks.0.mlp.fc1.bias .* is \(64,\), .* \(32,\)"),
        ("deit_tiny_patch16", {"prefix_tokens": 2}, r"prefix of .* is \(1, 16\), that of the model \(2, 16\)"),
        ("deit_tiny_patch16", {"grid": (2, 5)}, "grid of 3x3 and the model one of 2x5: .*grid=3x3, or --init-resize"),
        ("deit_tiny_patch16", {"position": "sincos"}, 'model\'s are "sincos".*position=learned'),
        ("vitar_tiny_patch16", {"position": "sincos", "grid": (2, 2)}, '"sincos" cannot be resized'),
    ],
)
def test_other_shapes_are_refused_with_both_named(tmp_path, name, options, message):
    vit(tmp_path / "vit.safetensors")
    with pytest.raises(ValueError, match=message):
        initial_weights(tmp_path / "vit.safetensors", config(name, **options))


def test_heads_are_compared_where_they_are_known(tmp_path):
    saved_mae(tmp_path / "ours")
    transformers_mae().save_pretrained(tmp_path / "theirs")
    for folder in ("ours", "theirs"):
        with pytest.raises(ValueError, match="heads is 2 there and 4 in the model"):
            initial_weights(tmp_path / folder, config("vitar_tiny_patch16", heads=4))


def test_a_run_of_another_grid_is_refused_or_resized(tmp_path):
    saved_mae(tmp_path / "table")
    turned = ViTAR(config("vitar_tiny_patch16", position="rotary", num_classes=2))
    save(tmp_path / "turned", turned, name=None, classes=["a", "b"], training_sizes=[(12, 12)])
    other = config("vitar_tiny_patch16", grid=(2, 4))
    with pytest.raises(ValueError, match="grid of 3x3 and the model one of 2x4"):
        initial_weights(tmp_path / "table", other)
    found = read_initial(tmp_path / "table", other, resize_positions=True)
    assert (found.fresh, found.differing) == ((), {})
    rotary = config("vitar_tiny_patch16", grid=(2, 4), position="rotary")
    found = read_initial(tmp_path / "turned", rotary)  # nothing to resize, but the merger leaves another grid
    assert (found.fresh, found.differing) == ((), {"grid": ((3, 3), (2, 4))})
    for folder, options, reason in (
        ("turned", {"position": "rotary"}, 'the model\'s position is "rotary"'),
        ("table", {"position": "none"}, 'the model\'s position is "none"'),
        ("turned", {}, "turned has no positions"),
    ):
        with pytest.raises(ValueError, match=f"init_resize has no effect, because .*{reason}.*leave it out"):
            wanted = config("vitar_tiny_patch16", grid=(2, 4), **options)
            initial_weights(tmp_path / folder, wanted, resize_positions=True)
    with pytest.raises(ValueError, match="nothing to resize"):
        initial_weights(tmp_path / "table", config("vitar_tiny_patch16"), resize_positions=True)


def test_files_that_cannot_be_used(tmp_path):
    state = vit(tmp_path / "vit.safetensors").state_dict()
    torch.save({"model": state, "args": _Foreign()}, tmp_path / "pickle.pth")
    (tmp_path / "noise.safetensors").write_bytes(b"noise")
    save_file({k: v for k, v in state.items() if k != "blocks.1.norm2.bias"}, tmp_path / "cut.safetensors")
    save_file(state | {"blocks.0.ls1.gamma": torch.ones(16)}, tmp_path / "scaled.safetensors")
    save_file(state | {"reg_token": torch.ones(1, 1, 16)}, tmp_path / "registers.safetensors")
    save_file({"conv1.weight": torch.ones(3)}, tmp_path / "resnet.safetensors")
    torch.save([1, 2], tmp_path / "list.pth")
    saved_mae(tmp_path / "run")
    expected = {
        "pickle.pth": "cannot be read without unpickling",
        "noise.safetensors": "cannot be read",
        "cut.safetensors": "not whole: block 1 lacks norm2.bias",
        "scaled.safetensors": "no plain ViT: a block of ours has no ls1.gamma",
        "registers.safetensors": "no plain ViT .*ours has no reg_token",
        "resnet.safetensors": "holds no ViT.*begins with conv1.weight",
        "list.pth": "no state dict",
        "nowhere": "nowhere does not exist",
        ".": "holds no model.safetensors",
        "run/model.safetensors": "give the folder that holds both",
    }
    for name, message in expected.items():
        with pytest.raises(ValueError, match=message):
            initial_weights(tmp_path / name, config())
    (tmp_path / "run" / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json cannot be read"):
        initial_weights(tmp_path / "run", config())


class _Foreign:
    """What weights_only refuses."""


def test_a_table_that_is_neither_square_nor_the_models(tmp_path):
    vit(tmp_path / "vit.safetensors", img_size=(8, 20))
    with pytest.raises(ValueError, match="10 positions, which is neither a square nor the model's grid of 3x3"):
        initial_weights(tmp_path / "vit.safetensors", config())


def test_the_digest_follows_the_weights(tmp_path):
    mae = saved_mae(tmp_path / "run")
    first = initial_digest(tmp_path / "run")
    shaken(mae)
    save(tmp_path / "run", mae, name=None, training_sizes=[])
    assert initial_digest(tmp_path / "run") != first
    weights = load_file(tmp_path / "run" / "model.safetensors")
    for place in ("one", "other"):
        save_file(weights, tmp_path / f"{place}.safetensors")
    assert initial_digest(tmp_path / "one.safetensors") == initial_digest(tmp_path / "other.safetensors")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["architecture"] == "MaskedAutoencoder"
    with pytest.raises(ValueError, match="does not exist"):
        initial_digest(tmp_path / "gone")


@torch.no_grad()
@pytest.mark.parametrize(("pixels", "grid"), [(12, (3, 3)), ((12, 20), (3, 5))])
def test_a_class_token_without_a_position(tmp_path, pixels, grid):
    theirs = vit(tmp_path / "vit.safetensors", img_size=pixels, no_embed_class=True)
    assert theirs.pos_embed.shape[1] == grid[0] * grid[1]
    ours = started(tmp_path / "vit.safetensors", "deit_tiny_patch16", grid=grid)
    images = torch.randn(2, 3, 4 * grid[0], 4 * grid[1])
    torch.testing.assert_close(flat(ours.forward_features(images)), theirs.forward_features(images))


@pytest.mark.parametrize("no_embed_class", [False, True])
def test_registers_are_named_before_the_table_is_measured(tmp_path, no_embed_class):
    """5x5 patches: a table of 30 or of 25."""
    vit(tmp_path / "vit.safetensors", img_size=20, reg_tokens=4, no_embed_class=no_embed_class)
    with pytest.raises(ValueError, match="no plain ViT .*ours has no reg_token"):
        initial_weights(tmp_path / "vit.safetensors", config(grid=(5, 5)))


@pytest.mark.parametrize(("part", "cause"), [(8, "rows and columns exchanged.*transformers 5"), (0, "all zero.*5")])
def test_sincos_positions_that_are_not_as_in_mae_are_explained(tmp_path, part, cause):
    theirs = transformers_mae()
    table = sincos(3, 3, 16)
    theirs.vit.embeddings.position_embeddings[0, 1:] = table[:, [*range(8, 16), *range(8)]] if part else 0 * table
    theirs.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{cause}.*position=learned"):
        initial_weights(tmp_path, config(position="sincos"))
    learned = initial_weights(tmp_path, config(position="learned"))["position.table"]
    assert torch.equal(learned.flatten(0, 1), theirs.vit.embeddings.position_embeddings[0, 1:])


@pytest.mark.parametrize(
    ("name", "there", "here", "differing"),
    [
        ("mae_vitar_tiny_patch16", {"mean": (0.5,) * 3}, {}, {"mean": ((0.5,) * 3, (0.485, 0.456, 0.406))}),
        ("mae_vitar_tiny_patch16", {}, {"std": (0.5,) * 3}, {"std": ((0.229, 0.224, 0.225), (0.5,) * 3)}),
        ("mae_vitar_tiny_patch16", {"cells": "balanced"}, {}, {"cells": ("balanced", "halving")}),
        ("mae_vitar_tiny_patch16", {"cells": "halving", "jitter": 0.1, "drop_path_rate": 0.1}, {"extra_passes": 1}, {}),
        ("mae_vitar_tiny_patch16", {"last_pass": False}, {}, {"last_pass": (False, True)}),
        ("mae_vitar_tiny_patch16", {"learned_levels": 1}, {}, {"learned_levels": (1, None)}),
        ("mae_vitar_tiny_patch16", {}, {"padding": "zeros"}, {"padding": ("masked", "zeros")}),
        ("mae_vitar_tiny_patch16", {}, {"grid_shape": "aspect"}, {"grid_shape": ("fixed", "aspect")}),
        ("mae_vitar_tiny_patch16", {"grid_shape": "aspect"}, {"cells": "2x2"}, {"cells": ("halving", "2x2")}),
        ("mae_vitar_tiny_patch16", {"merger": "pyramid"}, {}, {"merger": ("pyramid", "grid_attention")}),
        ("mae_vitar_tiny_patch16", {"padding": "masked"}, {"merger": "pyramid", "cells": "2x2"},
         {"merger": ("grid_attention", "pyramid"), "cells": ("halving", "2x2")}),
        ("mae_vitar_tiny_patch16", {"merger": "pyramid"}, {"merger": "pyramid", "full_levels": 1, "deep_weight": 0.5},
         {"full_levels": (None, 1), "deep_weight": (0.25, 0.5)}),
        ("mae_vitar_tiny_patch16", {"merger": "pyramid"}, {"merger": "pyramid"}, {}),
        ("mae_vitar_tiny_patch16", {}, {"interpolation": "timm"}, {"interpolation": ("bilinear", "timm")}),
        ("mae_vitar_tiny_patch16", {"cells": "balanced", "last_pass": False}, {"merger": "none"}, {}),  # is left out
        ("mae_vit_tiny_patch16", {}, {"merger": "none", "tome": 1.0, "position": "learned", "prefix_tokens": 1},
         {"tome": (0.0, 1.0)}),
        ("mae_vit_tiny_patch16", {"position": "none"}, {"merger": "average", "position": "rotary", "prefix_tokens": 1},
         {"position": ("none", "rotary"), "merger": ("none", "average")}),
    ],
)  # fmt: skip
def test_settings_that_no_tensor_tells_of_are_compared(tmp_path, name, there, here, differing):
    saved_mae(tmp_path, name, **there)
    found = read_initial(tmp_path, config("vitar_tiny_patch16", **here))
    assert found.differing == differing


SEGMENT = SMALL | {"taps": (0, 1), "scales": (2, 1), "head_channels": 8, "auxiliary_tap": 1}
DETECT = SMALL | {"channels": 8, "box_features": 8}


def saved_dense(folder, kind, **options):
    """A run folder of segmentation or detection; its backbone."""
    about = {"name": None, "classes": ["a", "b"], "training_sizes": [(12, 12)]}
    if kind == "segmentation":
        settings = SEGMENTER.get_config("upernet_vitar_small_patch16", num_classes=2, **(SEGMENT | options))
        model = shaken(Segmenter(settings))
        save(folder, model, **about)
        return model.backbone
    settings = DETECTOR.get_config("mask_rcnn_vitar_small_patch16", num_classes=2, **(DETECT | options))
    model = shaken(Detector(settings))
    save(folder, model, extra={"category_ids": [1, 2]}, **about)
    return backbone_of(model)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["segmentation", "detection"])
def test_a_run_of_a_dense_task_gives_its_backbone(tmp_path, kind):
    theirs = saved_dense(tmp_path, kind)
    ours = started(tmp_path, "vitar_tiny_patch16", cells="1x1")
    images = torch.randn(2, 3, 27, 41)
    assert torch.equal(ours.forward_features(images).tokens, theirs.forward_features(images).tokens)
    found = read_initial(tmp_path, ours.config)
    assert (found.fresh, found.left_out, found.differing) == ((), ("heads",), {})
    assert found.weights.keys() == set(theirs.state_dict())
    assert read_initial(tmp_path, config("vitar_tiny_patch16")).differing == {"cells": ("1x1", "halving")}
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match="without their config.json; give the folder that holds both"):
        read_initial(tmp_path, ours.config)


@torch.no_grad()
@pytest.mark.parametrize("source", ["classification", "pre-training", "segmentation", "detection"])
@pytest.mark.parametrize("grid", [(3, 3), (2, 5)])
def test_cells_of_one_patch_start_from_any_run_with_its_table_read_at_any_grid(tmp_path, source, grid):
    if source == "classification":
        theirs = shaken(ViTAR(config("vitar_tiny_patch16", num_classes=4)))
        save(tmp_path, theirs, name=None, classes=list("abcd"), training_sizes=[(12, 12)])
    elif source == "pre-training":
        theirs = saved_mae(tmp_path).backbone
    else:
        theirs = saved_dense(tmp_path, source, cells="2x2")
    settings = DETECTOR.get_config("mask_rcnn_vitar_small_patch16", **(DETECT | {"grid": grid})).backbone
    resize = grid != (3, 3)
    found = read_initial(tmp_path, settings, resize_positions=resize)
    above = {"classification": "head", "pre-training": "decoder"}.get(source, "heads")
    cells = "halving" if source in ("classification", "pre-training") else "2x2"
    assert (found.fresh, found.left_out) == ((), (above,))
    assert found.differing == {"cells": (cells, "1x1")}
    assert {name for name in found.weights if name.startswith("merger.")}
    table = theirs.position.table.permute(2, 0, 1)[None]
    wanted = torch.nn.functional.interpolate(table, grid, mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
    torch.testing.assert_close(found.weights["position.table"], wanted)
    for name, value in theirs.state_dict().items():
        if not name.startswith(("head.", "position.")):
            assert torch.equal(found.weights[name], value), name
    if resize:
        with pytest.raises(ValueError, match="grid of 3x3 and the model one of 2x5: .*--init-resize"):
            read_initial(tmp_path, settings)


def test_a_timm_vit_into_cells_of_one_patch_leaves_the_merger_fresh(tmp_path):
    vit(tmp_path / "vit.safetensors")
    for grid in ((3, 3), (4, 2)):
        backbone = SEGMENTER.get_config("upernet_vitar_small_patch16", **(SEGMENT | {"grid": grid})).backbone
        found = read_initial(tmp_path / "vit.safetensors", backbone, resize_positions=grid != (3, 3))
        assert (found.fresh, found.left_out) == (("merger",), ("head", "prefix"))
        assert found.weights["position.table"].shape == (*grid, 16)


def test_windows_are_no_tensors_either(tmp_path):
    saved_dense(tmp_path / "whole", "detection")
    saved_dense(tmp_path / "windows", "detection", window=2, global_blocks=(1,))
    plain = config("vitar_tiny_patch16", cells="1x1")
    ours = config("vitar_tiny_patch16", cells="1x1", window=2, global_blocks=(0,))
    assert read_initial(tmp_path / "whole", ours).differing == {"window": (0, 2)}
    assert read_initial(tmp_path / "windows", plain).differing == {"window": (2, 0)}
    assert read_initial(tmp_path / "windows", ours).differing == {"global_blocks": ((1,), (0,))}
