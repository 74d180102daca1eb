"""Adapters: trained alone, saved alone, and put on the right model alone."""

import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

import anyres


def make(seed=0, **options):
    torch.manual_seed(seed)
    small = {"img_size": 24, "patch_size": 8, "num_classes": 5, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return anyres.upgrade(VisionTransformer(**{**small, **options}), drop_path_rate=0.5)


def trained(model):
    """Three steps of merger and head on noise."""
    torch.manual_seed(1)
    model.freeze_vit()
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-2)
    for _ in range(3):
        model.train()(torch.randn(4, 3, 50, 70)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def test_the_old_vit_stays_as_it_was_and_the_adapter_alone_is_kept(tmp_path):
    before, model = make().state_dict(), trained(make())
    changed = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"merger", "head"}
    image = torch.randn(2, 3, 61, 45)
    anyres.save_adapter(tmp_path / "merger.safetensors", model)
    anyres.save_adapter(tmp_path / "both.safetensors", model, head=True)
    with torch.inference_mode():
        expected = model(image)
        fresh = make()
        assert not torch.allclose(fresh(image), expected)
        again = anyres.load_adapter(fresh, tmp_path / "both.safetensors")
        assert again is fresh and torch.equal(again(image), expected)
        merger = anyres.load_adapter(make(), tmp_path / "merger.safetensors")
        pooled = [each.forward_head(each.forward_features(image), pre_logits=True) for each in (merger, model)]
        assert torch.equal(*pooled) and torch.equal(merger.head.weight, make().head.weight)
        assert anyres.load_adapter(make(), tmp_path / "merger.safetensors").num_classes == 5
    other = make()
    other.reset_classifier(7)
    trained(other)
    anyres.save_adapter(tmp_path / "seven.safetensors", other, head=True)
    assert anyres.load_adapter(make(), tmp_path / "seven.safetensors").num_classes == 7
    assert (tmp_path / "merger.safetensors").stat().st_size < 0.5 * sum(4 * each.numel() for each in model.parameters())


def test_it_brings_the_levels_that_it_was_trained_with(tmp_path):
    def levels(count):
        torch.manual_seed(0)
        small = {"img_size": 24, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
        return anyres.upgrade(VisionTransformer(**small), full_levels=count)

    model = trained(levels(1))
    anyres.save_adapter(tmp_path / "a.safetensors", model)
    other = anyres.load_adapter(levels(None), tmp_path / "a.safetensors")
    image = torch.randn(1, 3, 150, 100)
    with torch.inference_mode():
        assert other.config.full_levels == 1 and torch.equal(other.grid_tokens(image), model.grid_tokens(image))
        assert not torch.equal(levels(None).grid_tokens(image), model.grid_tokens(image))


def test_frozen_it_drops_nothing_and_can_be_thawed():
    model = make()
    model.freeze_vit()
    batch = torch.randn(8, 3, 40, 40)
    assert torch.equal(model.train()(batch), model.eval()(batch))
    model.freeze_vit(False)
    assert all(each.requires_grad for each in model.parameters())
    assert not torch.equal(model.train()(batch), model.eval()(batch))


def test_what_does_not_belong_is_refused(tmp_path):
    path = tmp_path / "adapter.safetensors"
    anyres.save_adapter(path, make())
    own, other = (anyres.models.weights.adapter.base_digest(make(seed)) for seed in (0, 1))
    with pytest.raises(
        ValueError, match=f"belongs to another model .unnamed, digest {own}.; this one .* digest {other}"
    ):
        anyres.load_adapter(make(1), path)
    with pytest.raises(ValueError, match="belongs to another model"):
        anyres.load_adapter(make(depth=3), path)
    for options in ({"start": "merged"}, {"base_filter": "bicubic"}):
        torch.manual_seed(0)
        vit = VisionTransformer(img_size=24, patch_size=8, num_classes=5, embed_dim=32, depth=2, num_heads=2)
        with pytest.raises(ValueError, match="upgraded otherwise: (merger|base_filter) is"):
            anyres.load_adapter(anyres.upgrade(vit, drop_path_rate=0.5, **options), path)
    save_file({"merger.x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="holds no adapter; allowed: a file that anyres.save_adapter wrote"):
        anyres.load_adapter(make(), path)
    path.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        anyres.load_adapter(make(), path)
