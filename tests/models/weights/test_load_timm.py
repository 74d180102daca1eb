"""Weights of timm in models of ours, from Python."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

import anyres

SMALL = {"width": 24, "depth": 2, "heads": 2, "patch_size": 8, "grid": (3, 3), "num_classes": 5}


def vit(**options):
    torch.manual_seed(0)
    small = {"img_size": 24, "patch_size": 8, "num_classes": 5, "embed_dim": 24, "depth": 2, "num_heads": 2}
    model = VisionTransformer(**{**small, **options}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def test_a_deit_answers_as_its_source(tmp_path):
    source, batch = vit(), torch.randn(2, 3, 24, 24)
    save_file(source.state_dict(), tmp_path / "vit.safetensors")
    for weights in (source, source.state_dict(), tmp_path / "vit.safetensors"):
        model = anyres.create_model("deit_tiny_patch16", weights=weights, **SMALL).eval()
        with torch.inference_mode():
            torch.testing.assert_close(model(batch), source(batch), atol=1e-5, rtol=1e-5)
    assert anyres.load_timm(anyres.create_model("deit_tiny_patch16", **SMALL), source) == []


def test_a_vitar_takes_what_it_shares():
    model = anyres.create_model("vitar_tiny_patch16", **{**SMALL, "num_classes": 3})
    before = model.head.weight.clone()
    left = anyres.load_timm(model, vit())
    assert {name.split(".")[0] for name in left} == {"merger", "head"} and torch.equal(model.head.weight, before)
    assert torch.equal(model.trunk.blocks[1].attn.qkv.weight, vit().blocks[1].attn.qkv.weight)


def test_what_does_not_fit_is_refused_and_changes_nothing():
    model = anyres.create_model("deit_tiny_patch16", **SMALL)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for source, reason in (
        (vit(embed_dim=48), r"stem.proj.weight is \(48, 192\) in the source and \(24, 192\) in the model"),
        (vit(img_size=32), r"pos_embed has 17 positions; 1 \+ 3x3 are needed"),
        (vit(init_values=1), "the model has no trunk.blocks.0.ls1.gamma, .*; to keep all of a ViT use anyres.upgrade"),
        (vit(num_heads=3), "heads: 3 in the source and 2 in the model"),
        (vit(act_layer=torch.nn.ReLU), "activation: ReLU in the source and GELU in the model"),
        (vit(global_pool="avg", fc_norm=False), "pooling: avg in the source and token in the model"),
        (timm.create_model("resnet10t"), "not the weights of a timm VisionTransformer; they begin with conv1"),
    ):
        with pytest.raises(ValueError, match=reason):
            anyres.load_timm(model, source)
    with pytest.raises(ValueError, match="weights are for classifiers"):
        anyres.create_model("mae_vit_tiny_patch16", weights=vit())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
