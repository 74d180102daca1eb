"""Masked auto-encoding: visible cells equal the whole, the rest equals transformers' ViTMAE, nothing leaks."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from transformers import ViTMAEConfig, ViTMAEForPreTraining

import anyres
from anyres.layers.cells import to_patches
from anyres.layers.masking import hidden_cells
from anyres.layers.visible import merge_visible
from anyres.models.bases import fitted, make_bases
from anyres.models.mae import MaskedAutoencoder
from anyres.models.weights.files import load, save

TINY = {"width": 24, "heads": 3, "depth": 2, "patch_size": 4, "decoder_width": 16, "decoder_heads": 2,
        "decoder_depth": 1}  # fmt: skip
SIZES = [(16, 16), (35, 61), (64, 17), (31, 97), (5, 23), (112, 84)]


def tiny(name="mae_vitar_tiny_patch16", **options) -> MaskedAutoencoder:
    torch.manual_seed(1)
    return anyres.create_model(name, **{"grid": 4, **TINY, **options}).double()


def batch(size, count=3):
    torch.manual_seed(size[0])
    return torch.randn(count, 3, *size, dtype=torch.float64), torch.arange(count) * 7919 + 5


def restricted(trunk, whole, is_visible, keys):
    """The whole grid (B, R, C, D) in the trunk, where no hidden cell is ever a key: (B, P + n visible ones, D)."""
    x, places = trunk._begin(whole, keys)
    is_seen = F.pad(is_visible.flatten(1), (trunk.num_prefix_tokens, 0), value=True)
    mask = torch.zeros(is_seen.shape, dtype=x.dtype).masked_fill(~is_seen, -math.inf)[:, None, None]
    for block in trunk.blocks:
        x, places = block(x, places._replace(mask=mask))
    return torch.stack([row[seen] for row, seen in zip(trunk.norm(x), is_seen, strict=True)])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"position": "sincos"},
        {"learned_levels": 1},
        {"scale_query": True},
        {"cells": "balanced"},
        {"grid_shape": "aspect"},
        {"merger": "none"},
        {"merger": "pyramid", "full_levels": 1},
        {"merger": "pyramid", "grid_shape": "aspect", "position": "sincos"},
        {"merger": "pyramid", "cells": "2x2", "patch_size": 2},
        {"position": "rotary", "rescale": 2.0, "prefix_tokens": 2},
        {"merger": "pyramid", "grid_shape": "aspect", "position": "rotary", "rescale": 1.5},
        {"merger": "none", "position": "rotary"},
    ],
    ids=str,
)
def test_visible_cells_are_what_the_whole_image_gives_there(size, training, options):
    model = tiny(**options).train(training)
    images, keys = batch(size)
    images = model.seen(images)
    encoder, plan = model.backbone, model.config.plan(*size)
    assert plan == encoder.plan(*images.shape[-2:])
    is_visible = ~hidden_cells(keys, plan.grid, 0.75)
    whole = encoder.grid_tokens(images, keys)  # (B, R, C, D)
    patches = to_patches(is_visible, plan)
    whole_cells, bases = fitted(encoder, images), []
    tokens = encoder.position.add_to_visible(encoder.stem(whole_cells, patches), patches, keys)
    if encoder.config.merger == "pyramid":
        bases = make_bases(encoder, whole_cells, tokens, plan, keys, patches)
    if encoder.merger is not None:
        tokens, is_cell = merge_visible(encoder.merger, tokens, patches, plan, bases)
        assert torch.equal(is_cell, is_visible)
    torch.testing.assert_close(tokens, whole[is_visible], rtol=1e-10, atol=1e-10)
    # and the trunk sees these tokens and no others, at their places
    latent, _ = model.forward_encoder(images, patches, plan, keys)
    expected = restricted(encoder.trunk, whole, is_visible, keys)
    torch.testing.assert_close(latent, expected, rtol=1e-10, atol=1e-10)


def test_tokens_of_partly_visible_cells_are_masked_means_and_keys():
    """Against the merger's own way of skipping patches, which streaming uses."""
    model = tiny(masking="patches")
    images, _ = batch((48, 37), count=1)
    plan = model.backbone.plan(48, 37)
    is_visible = torch.rand(1, *plan.size) < 0.4
    tokens = model.backbone.position(model.backbone.stem(images))
    found, is_cell = merge_visible(model.backbone.merger, tokens[is_visible], is_visible, plan)
    x, counts = tokens, is_visible[0].long()
    for index, level in enumerate(plan.levels):
        x, counts = model.backbone.merger.step(x, plan, index, level, counts)
    assert torch.equal(counts > 0, is_cell[0])
    torch.testing.assert_close(found, x[is_cell], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"masking": "patches"},
        {"masking": "patches", "position": "rotary"},
        {"merger": "pyramid"},
        {"merger": "pyramid", "grid_shape": "aspect"},
        {"merger": "pyramid", "cells": "2x2"},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", SIZES[1:4])
def test_what_is_hidden_cannot_be_seen(options, size):
    model = tiny(norm_target=False, **options).eval()
    images, keys = batch(size)
    plan, images = model.config.plan(*size), model.seen(images)
    height, width = images.shape[-2:]
    hides_cells = "masking" not in options
    is_visible = ~hidden_cells(keys, plan.grid if hides_cells else plan.size, 0.75)
    patches = to_patches(is_visible, plan) if hides_cells else is_visible
    pixels = patches.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None, :height, :width]
    latent, is_cell = model.forward_encoder(images, patches, plan)
    assert latent.isfinite().all()
    other, _ = model.forward_encoder(torch.where(pixels, images, torch.nan), patches, plan)
    assert torch.equal(latent, other)
    prediction = model.forward_decoder(latent, is_cell, 4)
    assert prediction.shape == (3, *plan.grid, 48)


def cells_of(model, size):
    """(row, col, slice of pixel rows, slice of pixel columns) of every final cell, by the plan's own map."""
    plan, patch = model.backbone.plan(*size), model.config.backbone.patch_size
    for r, (top, bottom) in enumerate(pairwise(plan.cell_rows)):
        for c, (left, right) in enumerate(pairwise(plan.cell_cols)):
            yield (
                r,
                c,
                slice(top * patch, min(bottom * patch, size[0])),
                slice(left * patch, min(right * patch, size[1])),
            )


def true_prediction(model, images, side=4):
    """What the decoder would have to say: torch's resize of each cell, normalised, channels last."""
    plan = model.backbone.plan(*images.shape[-2:])
    found = torch.empty(len(images), *plan.grid, side * side * 3, dtype=torch.float64)
    for r, c, rows, cols in cells_of(model, images.shape[-2:]):
        square = F.interpolate(images[..., rows, cols], (side, side), mode="bilinear", antialias=True)
        values = square.permute(0, 2, 3, 1).flatten(1)
        if model.config.norm_target:
            values = (values - values.mean(1, keepdim=True)) / (values.var(1, keepdim=True) + 1e-6).sqrt()
        found[:, r, c] = values
    return found


@pytest.mark.parametrize("grid_shape", ["fixed", "aspect"])
def test_a_pyramids_images_are_brought_to_powers_of_two_of_their_grid(grid_shape):
    """The nearest in ratio, for each axis or for both, where every level halves and the plan is that of the image."""
    config = tiny(merger="pyramid", grid_shape=grid_shape).config
    for size in [*SIZES, (1, 1), (22, 23), (16, 1000), (1, 7), (90, 640)]:
        seen, plan = config.seen(*size), config.plan(*size)
        assert config.seen(*seen) == seen and seen == tuple(4 * patches for patches in plan.size)
        assert all(level.padded_grid == level.input_grid for level in plan.levels)  # all cells are of one size
        times = [patches / cells for patches, cells in zip(plan.size, plan.grid, strict=True)]
        wanted = [side / (4 * cells) for side, cells in zip(size, plan.grid, strict=True)]
        if grid_shape == "fixed":
            assert plan.grid == (4, 4)
        else:
            assert plan.grid == config.backbone.final_grid(plan.size) and times[0] == times[1]
            wanted = [math.prod(wanted) ** 0.5] * 2
        for power, ratio in zip(times, wanted, strict=True):
            assert power == max(2 ** round(math.log2(ratio)), 1)
    assert tiny().config.seen(35, 61) == (35, 61) == tiny(merger="pyramid", cells="2x2").config.seen(35, 61)


@pytest.mark.parametrize("merger", ["grid_attention", "pyramid"])
@pytest.mark.parametrize("norm_target", [True, False])
@pytest.mark.parametrize("size", [(35, 61), (16, 16), (64, 17)])
def test_the_target_is_the_cells_true_rectangle(size, norm_target, merger, monkeypatch):
    """The true squares at hidden cells and garbage at visible ones cost nothing; one wrong number does."""
    model = tiny(norm_target=norm_target, merger=merger).eval()
    images, keys = batch(size)
    is_hidden = hidden_cells(keys, model.config.plan(*size).grid, 0.75)
    squares = true_prediction(model, model.seen(images))
    prediction = torch.where(is_hidden[..., None], squares, torch.tensor(99.0).double())
    monkeypatch.setattr(model, "forward_decoder", lambda *_: prediction)
    assert model(images, keys) < 1e-9
    b, r, c = is_hidden.nonzero()[-1].tolist()
    prediction[b, r, c, 5] += 3.0
    assert model(images, keys).item() == pytest.approx(9 / 48 / is_hidden[b].sum().item() / 3, rel=1e-4)


@pytest.mark.parametrize("norm_target", [True, False])
def test_true_squares_restore_the_image(norm_target, monkeypatch):
    """Exactly where a cell is a patch; where it is larger, up to two of its rows of pixels."""
    for size, error in [((16, 16), 1e-4), ((35, 61), 0.6)]:
        model = tiny(norm_target=norm_target).eval()
        ramp = 0.3 * torch.arange(size[0]).double()[:, None].expand(size)  # from the top to the bottom
        images = torch.stack([ramp, 1 - ramp, ramp / 2])[None].repeat(2, 1, 1, 1)
        prediction = true_prediction(model, images)
        monkeypatch.setattr(model, "forward_decoder", lambda *_, found=prediction: found)
        shown = model.reconstruct(images, torch.tensor([3, 4]))
        assert (shown.output - images).abs().max() < error
        assert shown.loss.max() < 1e-9
        for r, c, rows, cols in cells_of(model, size):
            for b in range(2):
                cell = (b, slice(None), rows, cols)
                wanted = torch.zeros_like(images[cell]) if shown.is_hidden[b, r, c] else images[cell]
                assert torch.equal(shown.masked[cell], wanted)


def test_with_patches_hidden_only_hidden_pixels_count(monkeypatch):
    model = tiny(masking="patches", norm_target=False).eval()
    size = (35, 61)
    images, keys = batch(size)
    is_hidden = hidden_cells(keys, model.backbone.plan(*size).size, 0.75)
    prediction = true_prediction(model, images)
    wrong = torch.zeros_like(prediction)
    for r, c, rows, cols in cells_of(model, size):  # wrong by one where nothing that is hidden has a part
        hidden = is_hidden.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None, rows, cols].double()
        share = F.interpolate(hidden, (4, 4), mode="bilinear", antialias=True)[:, 0]  # (B, 4, 4)
        wrong[:, r, c] = (share < 1e-6)[..., None].repeat(1, 1, 1, 3).flatten(1).double()
    assert wrong.any()
    monkeypatch.setattr(model, "forward_decoder", lambda *_: prediction + wrong)
    assert model(images, keys) < 1e-9
    monkeypatch.setattr(model, "forward_decoder", lambda *_: prediction + 1 - wrong)
    assert model(images, keys).item() == pytest.approx(1.0, rel=1e-5)


def test_targets_are_not_rounded_under_autocast():
    """A nearly flat image: in bfloat16 its targets would be rounding errors."""
    model = anyres.create_model("mae_vitar_tiny_patch16", **TINY, grid=4).eval()
    images = 1.5 + 0.01 * torch.rand(2, 3, 48, 37)
    plan = model.backbone.plan(48, 37)
    wanted = model._squares(images, plan, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model._squares(images, plan, 4), wanted)
        assert model.reconstruct(images, torch.tensor([1, 2])).output.dtype == torch.float32


def test_a_pyramids_pictures_are_of_the_images_as_it_sees_them():
    model = tiny(merger="pyramid", grid_shape="aspect").eval()
    images, keys = batch((35, 61))
    shown = model.reconstruct(images, keys)
    assert shown.images.shape == shown.masked.shape == shown.output.shape == (3, 3, 48, 80)  # 3x5 cells
    torch.testing.assert_close(shown.images, F.interpolate(images, (48, 80), mode="bilinear"))
    hidden = shown.is_hidden.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, None]
    assert torch.equal(shown.masked, shown.images * ~hidden)
    assert torch.equal(torch.where(hidden, shown.images, shown.output), shown.images)
    torch.testing.assert_close(shown.loss.mean(), model(images, keys))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"merger": "pyramid"},
        {"merger": "pyramid", "grid_shape": "aspect", "position": "rotary", "rescale": 2.0},
        {"masking": "patches", "position": "rotary", "rescale": 2.0},
    ],
    ids=str,
)
def test_a_list_of_sizes_gives_the_mean_of_the_images_one_by_one(options):
    model = tiny(**options).train()
    images = [torch.randn(3, *size, dtype=torch.float64) for size in [(16, 16), (35, 61), (16, 16), (64, 17)]]
    keys = torch.tensor([5, 6, 7, 8])
    alone = [model(image[None], key[None]) for image, key in zip(images, keys, strict=True)]
    torch.testing.assert_close(model(images, keys), torch.stack(alone).mean(), rtol=1e-10, atol=1e-10)


def test_a_list_is_run_by_the_shapes_that_a_pyramid_brings_images_to(monkeypatch):
    model, counts = tiny(merger="pyramid").eval(), []
    encode = model.forward_encoder
    monkeypatch.setattr(model, "forward_encoder", lambda x, *rest: (counts.append(len(x)), encode(x, *rest))[1])
    images = [torch.randn(3, *size, dtype=torch.float64) for size in [(16, 16), (17, 13), (31, 35), (1, 20), (32, 16)]]
    keys = torch.arange(5)
    loss = model(images, keys)  # float32, summed in another order
    assert counts == [3, 1, 1]
    alone = [model(image[None], key[None]) for image, key in zip(images, keys, strict=True)]
    torch.testing.assert_close(loss, torch.stack(alone).mean())


def test_loss_and_mask_are_those_of_the_keys():
    model = tiny().eval()
    images, keys = batch((31, 97))
    is_hidden = hidden_cells(keys, model.backbone.plan(31, 97).grid, 0.75)
    assert torch.equal(model(images, keys), model(images, is_hidden=is_hidden))
    assert model(images, keys) != model(images, keys + 1)


def test_the_larger_target_is_used_where_cells_have_four_patches():
    model = tiny(large_target=True)
    for size, side in [((16, 16), 4), ((31, 31), 8), ((28, 32), 4), ((64, 64), 8)]:
        assert model.config.side(model.backbone.plan(*size)) == side
        model.zero_grad()
        images, keys = batch(size)
        model(images, keys).backward()
        used = model.decoder_pred_large if side == 8 else model.decoder_pred
        assert [layer.weight.grad is not None for layer in (model.decoder_pred, model.decoder_pred_large)].count(
            True
        ) == 1
        assert used.weight.grad is not None


@pytest.mark.parametrize("merger", ["grid_attention", "pyramid"])
def test_checkpointing_changes_no_gradient(merger):
    images, keys = batch((35, 61))
    grads = []
    for enable in (False, True):
        model = tiny(merger=merger).train()
        model.set_grad_checkpointing(enable)
        model(images, keys).backward()
        grads.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("training", [False, True])
def test_without_a_merger_it_is_transformers_vitmae(training):
    """Same weights, mask and images: same loss, prediction and gradient of the first layer."""
    torch.manual_seed(0)
    other = ViTMAEForPreTraining(ViTMAEConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=192, image_size=224,
        decoder_hidden_size=32, decoder_num_hidden_layers=2, decoder_num_attention_heads=4,
        decoder_intermediate_size=128, norm_pix_loss=True, layer_norm_eps=1e-6,
    )).train(training)  # fmt: skip
    for parameter in other.parameters():  # also biases and norms are to matter
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    # Released weights carry MAE's own positions; transformers 5 makes them anew with rows and columns exchanged.
    for positions in (other.vit.embeddings.position_embeddings, other.decoder.decoder_pos_embed):
        positions.data[0, 1:] = _mae_positions(14, positions.shape[-1])
    model = anyres.create_model(
        "mae_vit_tiny_patch16", width=48, heads=4, depth=2, decoder_width=32, decoder_heads=4, decoder_depth=2
    ).train(training)
    model.load_state_dict(_from_transformers(other.state_dict()))
    images, keys = torch.rand(2, 3, 224, 224), torch.tensor([11, 12])
    is_hidden = hidden_cells(keys, (14, 14), 0.75)
    noise = is_hidden.flatten(1).float() + torch.arange(196) * 1e-4  # visible ones first
    wanted = other(images, noise=noise)
    assert torch.equal(wanted.mask.bool(), is_hidden.flatten(1))
    loss, prediction, _ = model._run(images, keys, None)
    torch.testing.assert_close(loss.mean(), wanted.loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(prediction.flatten(1, 2), wanted.logits, rtol=1e-4, atol=1e-5)
    loss.mean().backward()
    wanted.loss.backward()
    names = {name: value for name, value in other.named_parameters() if "patch_embeddings.projection.weight" in name}
    (theirs,) = names.values()
    torch.testing.assert_close(model.backbone.stem.proj.weight.grad, theirs.grad.flatten(1), rtol=1e-3, atol=1e-6)


def _mae_positions(side, width):
    """MAE's util/pos_embed.py for a square grid: the column in the first half of the channels ("w goes first")."""
    omega = 10000 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * omega
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    return torch.cat([axis.repeat(side, 1), axis.repeat_interleave(side, 0)], dim=1).float()


def _from_transformers(weights):
    """The names of our model for the weights of transformers' ViTMAEForPreTraining (version 5)."""
    found = {
        "backbone.stem.proj.weight": weights["vit.embeddings.patch_embeddings.projection.weight"].flatten(1),
        "backbone.stem.proj.bias": weights["vit.embeddings.patch_embeddings.projection.bias"],
        "backbone.trunk.prefix": weights["vit.embeddings.cls_token"][0],
        "mask_token": weights["decoder.mask_token"][0, 0],
    }
    for kind in ("weight", "bias"):
        found[f"backbone.trunk.norm.{kind}"] = weights[f"vit.layernorm.{kind}"]
        for name in ("embed", "norm", "pred"):
            found[f"decoder_{name}.{kind}"] = weights[f"decoder.decoder_{name}.{kind}"]
        for layers, blocks in (("vit.layers", "backbone.trunk.blocks"), ("decoder.decoder_layers", "decoder_blocks")):
            for i in range(2):
                theirs, ours = f"{layers}.{i}", f"{blocks}.{i}"
                qkv = [weights[f"{theirs}.attention.{part}_proj.{kind}"] for part in "qkv"]
                found[f"{ours}.attn.qkv.{kind}"] = torch.cat(qkv)
                found[f"{ours}.attn.proj.{kind}"] = weights[f"{theirs}.attention.o_proj.{kind}"]
                found[f"{ours}.norm1.{kind}"] = weights[f"{theirs}.layernorm_before.{kind}"]
                found[f"{ours}.norm2.{kind}"] = weights[f"{theirs}.layernorm_after.{kind}"]
                for layer in ("fc1", "fc2"):
                    found[f"{ours}.mlp.{layer}.{kind}"] = weights[f"{theirs}.mlp.{layer}.{kind}"]
    return found


def test_saved_and_loaded_it_is_the_same(tmp_path):
    model = anyres.create_model("mae_vitar_tiny_patch16", **TINY, grid=4, mask_ratio=0.6, masking="patches").eval()
    save(tmp_path, model, name="mae_vitar_tiny_patch16", training_sizes=[(32, 48)], extra={"steps": 3})
    found, info = load(tmp_path, MaskedAutoencoder)
    assert found.config == model.config and not found.training
    assert info.training_sizes == ((32, 48),) and info.extra == {"steps": 3}
    images, keys = torch.rand(2, 3, 33, 47), torch.tensor([1, 2])
    assert torch.equal(found(images, keys), model(images, keys))
    with pytest.raises(ValueError, match="--init"):
        anyres.load(tmp_path, anyres.ViTAR)


def test_on_the_meta_device_nothing_is_allocated():
    with torch.device("meta"):
        model = anyres.create_model("mae_vitar_large_patch16")
    assert all(parameter.is_meta for parameter in model.parameters())


def test_names_without_weight_decay_exist():
    model = tiny(prefix_tokens=1)
    names = dict(model.named_parameters())
    assert {"mask_token", "backbone.trunk.prefix", "backbone.position.table"} == model.no_weight_decay() <= names.keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stem": "conv"}, 'stem="patch"'),
        ({"position": "conditional"}, "leak.*fuzzy, learned, sincos, rotary"),
        ({"position": "global_local"}, "leak.*fuzzy, learned, sincos"),
        ({"position": "relative_bias"}, "whole grid.*sincos, rotary, none"),
        ({"merger": "average"}, "grid_attention, pyramid, none"),
        ({"merger": "pyramid", "masking": "patches"}, 'hidden ones would be seen.*masking="cells"'),
        ({"merger": "pyramid", "stem": "conv"}, 'stem="patch"'),
        ({"padding": "zeros"}, "masked"),
        ({"mask_ratio": 1.0}, "mask_ratio is 1.0"),
        ({"mask_ratio": 0.0}, "mask_ratio is 0.0"),
        ({"merger": "none", "masking": "patches"}, "no effect"),
        ({"merger": "none", "large_target": True}, "no effect"),
        ({"masking": "cell"}, "'cells'"),
        ({"decoder_heads": 5}, "divisible"),
        ({"decoder_depht": 5}, "decoder_depth"),
        ({"num_classes": 5}, "num_classes"),
        ({"mask_ratio": "75%"}, "mask_ratio is '75%'; it must be a number"),
        ({"mask_ratio": None}, "it must be a number"),
        ({"mask_ratio": float("nan")}, "allowed: above 0"),
        ({"norm_target": "no"}, "True, False"),
        ({"large_target": 1}, "True, False"),
        ({"last_pass": "no"}, "True, False"),
        ({"std": None}, "std is None"),
        ({"mean": "abc"}, "mean is 'abc'"),
        ({"position": None}, "unknown position None"),
        ({"pool": "token", "prefix_tokens": 1}, "no effect in pre-training"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options)


def test_images_that_are_too_small_to_mask_are_refused():
    model = tiny()
    for size, message in [((4, 12), "at 4x12 pixels the grid has 1x3 cells"), ((8, 8), None)]:
        images = torch.rand(1, 3, *size, dtype=torch.float64)
        if message is None:
            assert model(images).isfinite()
            continue
        with pytest.raises(ValueError, match=message):
            model(images)


def test_wrong_masks_and_keys_are_refused():
    model = tiny()
    images, keys = batch((16, 16))
    with pytest.raises(ValueError, match="is_hidden"):
        model(images, keys, torch.zeros(3, 4, 5, dtype=torch.bool))
    for nothing in (torch.zeros(3, 4, 4, dtype=torch.bool), torch.ones(3, 4, 4, dtype=torch.bool)):
        with pytest.raises(ValueError, match="nothing or all"):
            model(images, keys, nothing)
    with pytest.raises(ValueError, match="one int64"):
        model(images, keys[:2])
    with pytest.raises(ValueError, match="list"):
        model([])
