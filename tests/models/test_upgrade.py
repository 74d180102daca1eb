"""`anyres.upgrade`: the old model's answers at every size, through lists, pieces, streams and disk."""

import copy
import json
from functools import partial

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import GluMlp, QuickGELU, SwiGLU
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer
from timm.optim import param_groups_layer_decay
from torch import nn

import anyres
from anyres.models.upgraded import UpgradedViT

VITS = {
    "deit": {},
    "deit3": {"no_embed_class": True, "init_values": 1e-6},
    "mean": {"class_token": False, "global_pool": "avg"},
    "mae": {"global_pool": "avg", "fc_norm": False},
    "maximum": {"global_pool": "avgmax"},
    "dinov2": {"init_values": 1e-5, "reg_tokens": 3, "no_embed_class": True, "patch_size": 7, "img_size": 21},
    "giant": {"mlp_layer": partial(GluMlp, gate_last=False), "act_layer": nn.SiLU, "mlp_ratio": 5.33, "init_values": 1},
    "swiglu": {"mlp_layer": SwiGLU, "act_layer": nn.SiLU, "mlp_ratio": 2.6},
    "clip": {"pre_norm": True, "act_layer": QuickGELU, "norm_layer": partial(nn.LayerNorm, eps=1e-5)},
    "siglip": {"class_token": False, "global_pool": "map"},
    "qk_norm": {"qk_norm": True, "scale_mlp_norm": True, "scale_attn_norm": True},
    "registers": {"reg_tokens": 2, "global_pool": "avg", "pool_include_prefix": True},
    "oblong": {"img_size": (16, 40), "in_chans": 1},
    "no positions": {"pos_embed": "none"},
    "no classes": {"num_classes": 0},
    "no biases": {"qkv_bias": False, "proj_bias": False},
    "approximate": {"act_layer": partial(nn.GELU, approximate="tanh")},
}  # fmt: skip
SIZES = [(24, 24), (23, 31), (8, 8), (1, 90), (97, 13), (48, 48), (49, 47), (71, 130), (200, 24), (111, 111)]


def make(name):
    """A small ViT with noise on every parameter: nothing is at its initial value."""
    torch.manual_seed(0)
    small = {"img_size": 24, "patch_size": 8, "num_classes": 5, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return noisy(VisionTransformer(**{**small, **VITS[name]})).eval()


@torch.no_grad()
def noisy(model):
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def noise(*size, channels=3, seed=1):
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(seed))


def means(source, target):
    """(target, source): each row the mean of an interval, a pixel counting by how much of it lies there."""
    edges = torch.arange(target + 1, dtype=torch.float64) * source / target
    pixels = torch.arange(source, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    return overlap.clamp(min=0) * target / source


def resized(images, own, patch):
    """The stated resizing, slowly: edges repeated to whole patches or enlarged, then halved down to the own size."""
    for axis, side in ((2, own[0]), (3, own[1])):
        if -(-images.shape[axis] // patch) < side // patch:
            size = [side if each == axis else images.shape[each] for each in (2, 3)]
            images = F.interpolate(images, size, mode="bilinear")
        missing = -images.shape[axis] % patch
        images = F.pad(images, (0, 0, 0, missing) if axis == 2 else (0, missing, 0, 0), mode="replicate")
    rows, cols = images.shape[2] // patch, images.shape[3] // patch
    grid = own[0] // patch, own[1] // patch
    images = images.double()
    while (rows, cols) != grid:
        rows, cols = max(-(-rows // 2), grid[0]), max(-(-cols // 2), grid[1])
        down, across = means(images.shape[2], rows * patch), means(images.shape[3], cols * patch)
        images = down @ images @ across.T
    return images.float()


@pytest.mark.parametrize("name", VITS)
def test_answers_are_the_old_ones_at_every_size(name):
    vit = make(name)
    model = anyres.upgrade(vit)
    assert isinstance(model, UpgradedViT) and not model.training
    own, channels = model.config.own_size, model.config.in_channels
    with torch.inference_mode():
        for size in (own, *SIZES):
            batch = noise(*size, channels=channels)
            expected = vit(resized(batch, own, model.config.patch_size))
            torch.testing.assert_close(model(batch), expected, atol=1e-5, rtol=1e-5)
        tokens, features = vit.forward_features(batch := noise(*own, channels=channels)), model.forward_features(batch)
        ours = torch.cat([features.prefix, features.tokens.flatten(1, 2)], 1)
        torch.testing.assert_close(ours, tokens, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(features.pooled, vit.forward_head(tokens, pre_logits=True), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", VITS)
def test_a_merger_that_starts_as_the_mean(name):
    vit = make(name)
    model = anyres.upgrade(vit, start="merged")
    with torch.inference_mode():
        batch = noise(*model.config.own_size, channels=model.config.in_channels)
        torch.testing.assert_close(model(batch), vit(batch), atol=1e-5, rtol=1e-5)
        enlarged = batch.repeat_interleave(2, 2).repeat_interleave(2, 3)
        assert not torch.allclose(model(enlarged), vit(batch), atol=1e-3) or model.merger is None


@pytest.mark.parametrize("name", ["dinov2", "siglip", "clip", "oblong"])
def test_trained_it_is_the_same_in_lists_and_on_disk(name, tmp_path):
    model = noisy(anyres.upgrade(make(name), full_levels=1))
    channels = model.config.in_channels
    batch = noise(95, 61, channels=channels)
    with torch.inference_mode():
        alone = model(batch)
        assert not torch.allclose(alone, anyres.upgrade(make(name))(batch), atol=1e-2)  # the noise counts
        others = [batch[0], noise(40, 19, channels=channels)[0], batch[1]]
        listed = model(others)
        torch.testing.assert_close(listed[[0, 2]], alone, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(listed[1], model(others[1][None])[0], atol=1e-5, rtol=1e-5)
    anyres.save(tmp_path, model, name=None, classes=(), training_sizes=[(24, 24)])
    loaded, _ = anyres.load(tmp_path)
    assert type(loaded) is UpgradedViT and loaded.config == model.config
    with torch.inference_mode():
        assert torch.equal(loaded(batch), alone)
    record = json.loads((tmp_path / "config.json").read_text())
    for change in ({"norm": "os"}, {"mlp": "nowhere"}, {"more": 1}):
        other = {**record, "config": {**record["config"], "vit": {**record["config"]["vit"], **change}}}
        (tmp_path / "config.json").write_text(json.dumps(other))
        with pytest.raises(ValueError, match="is no layer of timm or torch|needed are act, "):
            anyres.load(tmp_path)


def test_streaming_is_the_whole():
    model = noisy(anyres.upgrade(make("deit")))
    pixels = np.random.default_rng(0).integers(0, 256, (150, 210, 3), np.uint8)
    mean, std = (torch.tensor(each)[:, None, None] for each in (model.config.mean, model.config.std))
    image = ((torch.from_numpy(pixels).permute(2, 0, 1) / 255) - mean) / std
    with torch.inference_mode():
        whole = model.forward_features(image[None])
        streamed = anyres.stream(model, pixels, positions=30, progress=False)
    torch.testing.assert_close(streamed.pooled, whole.pooled, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["deit", "dinov2", "siglip"])
def test_everything_can_be_trained(name):
    model = noisy(anyres.upgrade(make(name))).train()
    model.set_grad_checkpointing()
    model(noise(50, 50)).square().sum().backward()
    assert not [key for key, value in model.named_parameters() if value.grad is None]
    model.reset_classifier(3)
    assert model(noise(30, 50)).shape == (2, 3)
    with pytest.raises(ValueError, match="global_pool is 'max'; allowed: None"):
        model.reset_classifier(3, "max")


def test_sources_of_other_precision_and_mode_are_left_as_they_are():
    vit = make("clip").train()
    vit.blocks[0].eval()
    expected = anyres.upgrade(vit)
    assert vit.training and not vit.blocks[0].training
    for other in (copy.deepcopy(vit).half(), copy.deepcopy(vit).bfloat16(), copy.deepcopy(vit).double()):
        model = anyres.upgrade(other)
        assert model.dtype == torch.float32 and next(other.parameters()).dtype != torch.float32
        torch.testing.assert_close(model.stem.proj.weight, expected.stem.proj.weight, atol=1e-2, rtol=1e-2)
    vit.head = nn.Linear(32, 3)  # as many do, without telling num_classes
    assert anyres.upgrade(vit).num_classes == 3


def test_statistics_of_other_channels():
    grey = timm.create_model("vit_base_patch16_clip_224", depth=1, embed_dim=48, num_heads=3, in_chans=1)
    mean = anyres.upgrade(grey).config.mean
    assert mean == pytest.approx([sum((0.48145466, 0.4578275, 0.40821073)) / 3])
    assert anyres.upgrade(grey, mean=(0.2,), std=(0.1,)).config.std == (0.1,)


def test_layers_of_rates():
    model = anyres.upgrade(make("clip"))
    groups = param_groups_layer_decay(model, 0.05, model.no_weight_decay(), layer_decay=0.5)
    scale = {id(value): group["lr_scale"] for group in groups for value in group["params"]}
    norm, first, last = (scale[id(each.weight)] for each in (model.trunk.norm_pre, model.stem.proj, model.trunk.norm))
    assert norm == first < last


def test_source_and_statistics_are_known():
    vit = timm.create_model("vit_base_patch16_clip_quickgelu_224.openai", depth=1, embed_dim=48, num_heads=3)
    model = anyres.upgrade(vit)
    config = model.config
    assert config.mean == pytest.approx((0.4814, 0.4578, 0.4082), abs=1e-4) and config.source["crop_pct"] == 0.9
    assert config.source["architecture"] == "vit_base_patch16_clip_quickgelu_224"
    own, larger = anyres.cost(model, (224, 224)), anyres.cost(model, (448, 448))
    assert own.parts["trunk"] == larger.parts["trunk"] and own.macs < larger.macs


def test_what_cannot_be_upgraded_is_refused():
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    for model, reason in (
        (timm.create_model("deit_tiny_distilled_patch16_224", depth=1), "its second token has a classifier of its own"),
        (timm.create_model("eva02_tiny_patch14_224", depth=1), "its positions are rotary"),
        (
            timm.create_model("naflexvit_base_patch16_gap", depth=1, embed_dim=48, num_heads=3),
            "it takes any size itself",
        ),
        (timm.create_model("resnet10t"), "ResNet cannot be upgraded: it is no plain ViT; allowed: timm's"),
        (VisionTransformer(**{**small, "patch_size": (8, 16)}), r"its patches are \(8, 16\); allowed: square"),
        (VisionTransformer(**small, block_fn=ParallelScalingBlock), "its blocks are ParallelScalingBlock"),
        (VisionTransformer(**small, embed_norm_layer=nn.LayerNorm), "its patch embedding has a norm"),
        (VisionTransformer(**small, global_pool=""), "it has no pooling"),
    ):
        with pytest.raises(ValueError, match=reason):
            anyres.upgrade(model)
    own = copy.deepcopy(VisionTransformer(**small))
    own.blocks[1].mlp.act = nn.ReLU()
    with pytest.raises(ValueError, match="with answers that differ by"):
        anyres.upgrade(own)
    own.blocks[1].mlp.more = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"with parts of its own: trunk.blocks.1.mlp.more"):
        anyres.upgrade(own)
    for options in ({"cells": "1x1"}, {"num_classes": 5}, {"merger": "average"}, {"foo": 1}):
        with pytest.raises(ValueError, match=f"unknown option of upgrade '{next(iter(options))}'"):
            anyres.upgrade(VisionTransformer(**small), **options)
    with pytest.raises(ValueError, match="its head is a Sequential"):
        other = VisionTransformer(**small)
        other.head = nn.Sequential(nn.Linear(32, 3))
        anyres.upgrade(other)
    with pytest.raises(ValueError, match="unknown start 'now'. Allowed: resized, merged."):
        anyres.upgrade(VisionTransformer(**small), start="now")


THEIRS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 24, "patch_size": 8}
OF_TRANSFORMERS = {
    "ViT": {"intermediate_size": 40, "hidden_act": "gelu"},
    "Dinov2": {"mlp_ratio": 2, "layerscale_value": 0.5},
    "Dinov2 gated": {"use_swiglu_ffn": True},
    "Dinov2WithRegisters": {"num_register_tokens": 3},
    "CLIPVision": {"intermediate_size": 40},
    "SiglipVision": {"intermediate_size": 40},
}


@pytest.mark.parametrize("name", OF_TRANSFORMERS)
def test_models_of_transformers(name):
    transformers = pytest.importorskip("transformers")
    kind, _, _ = name.partition(" ")
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**THEIRS, **OF_TRANSFORMERS[name])
    theirs = noisy(getattr(transformers, f"{kind}Model")(config)).eval()
    model = anyres.upgrade(theirs)
    with torch.inference_mode():
        for size in ((24, 24), (61, 40), (48, 100)):
            batch = noise(*size)
            expected = theirs(resized(batch, (24, 24), 8))
            answer = expected.last_hidden_state[:, 0] if kind == "ViT" else expected.pooler_output
            torch.testing.assert_close(model(batch), answer, atol=1e-5, rtol=1e-5)
    assert model.config.source["architecture"] == f"{kind}Model"


def test_a_classifier_of_transformers_keeps_its_head():
    transformers = pytest.importorskip("transformers")
    theirs = noisy(transformers.ViTForImageClassification(transformers.ViTConfig(**THEIRS, num_labels=3))).eval()
    with torch.inference_mode():
        batch = noise(24, 24)
        torch.testing.assert_close(anyres.upgrade(theirs)(batch), theirs(batch).logits, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="BeitModel cannot be upgraded; allowed of transformers: ViTModel, "):
        anyres.upgrade(transformers.BeitModel(transformers.BeitConfig(**THEIRS, intermediate_size=40)))
    headless = transformers.SiglipVisionConfig(**THEIRS, intermediate_size=40, vision_use_head=False)
    with pytest.raises(ValueError, match="SiglipVisionModel cannot be upgraded: .*attn_pool"):
        anyres.upgrade(transformers.SiglipVisionModel(headless))
    odd = transformers.ViTModel(transformers.ViTConfig(**THEIRS, hidden_act="gelu_new"))
    with pytest.raises(ValueError, match="its activation is gelu_new; allowed: gelu, quick_gelu"):
        anyres.upgrade(odd)


@pytest.mark.parametrize("size", [(24, 24), (20, 23), (9, 9), (95, 61), (130, 24)])
def test_the_filter_of_the_old_preprocessing(size):
    vit = make("clip")
    model = anyres.upgrade(vit, base_filter="bicubic")
    batch = noise(*size)
    with torch.inference_mode():
        own = F.interpolate(batch, (24, 24), mode="bicubic", antialias=True)
        torch.testing.assert_close(model(batch), vit(own), atol=1e-5, rtol=1e-5)
        trained = noisy(model)
        assert torch.equal(trained([batch[0], batch[1]]), trained(batch))
        if size == (95, 61):  # detail comes from the image itself
            assert not torch.allclose(trained(batch), trained(own), atol=1e-3)


def test_a_filter_of_the_whole_image_has_no_pieces():
    model = anyres.upgrade(make("deit"), base_filter="bicubic")
    with pytest.raises(ValueError, match='base_filter is "bicubic", .*; allowed for streams and pieces: "area"'):
        anyres.stream(model, np.zeros((64, 64, 3), np.uint8), progress=False)
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 700, 900)).shape == (1, 5)
    with pytest.raises(ValueError, match="base_filter='bicubic' has no effect because there is no base"):
        anyres.upgrade(make("deit"), start="merged", base_filter="bicubic")
    with pytest.raises(ValueError, match="unknown base_filter 'box'. Allowed: area, bicubic"):
        anyres.upgrade(make("deit"), base_filter="box")
