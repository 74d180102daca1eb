"""The model: any size, mixed sizes, locality, and what timm users expect of it."""

import pytest
import torch
from hypothesis import example, given, settings, strategies as st

import anyres
from anyres.models.features import Features

TINY = {"width": 24, "heads": 2, "depth": 2, "patch_size": 4, "grid": 3, "num_classes": 5}


def make(seed=0, **overrides):
    torch.manual_seed(seed)
    return anyres.create_model("vitar_tiny_patch16", **(TINY | overrides)).eval()


MODEL = make()
SIDES = st.one_of(st.integers(1, 40), st.sampled_from([1, 2, 3, 53, 97, 127, 211, 400]))


@given(height=SIDES, width=SIDES)
@example(height=1, width=1)
@example(height=4, width=200)
@example(height=400, width=8)
@settings(max_examples=40)
def test_any_size(height, width):
    features = MODEL.forward_features(torch.randn(2, 3, height, width))
    rows, cols = (min(3, -(-side // 4)) for side in (height, width))
    assert features.tokens.shape == (2, rows, cols, 24)
    assert features.pooled.shape == (2, 24)
    assert features.pooled.isfinite().all()
    assert features.plan.size == (-(-height // 4), -(-width // 4))


@pytest.mark.parametrize("size", [(48, 48), (53, 90), (37, 200)])
def test_one_cells_pixels_change_one_grid_token(size):
    model = make().double()
    plan = model.plan(*size)
    image = torch.randn(1, 3, *size, dtype=torch.double)
    base = model.grid_tokens(image)
    for row in range(plan.grid[0]):
        for col in range(plan.grid[1]):
            changed = image.clone()
            top, bottom = plan.cell_rows[row] * 4, plan.cell_rows[row + 1] * 4
            left, right = plan.cell_cols[col] * 4, plan.cell_cols[col + 1] * 4
            changed[:, :, top:bottom, left:right] += torch.randn_like(changed[:, :, top:bottom, left:right])
            assert (model.grid_tokens(changed) != base).any(-1)[0].nonzero().tolist() == [[row, col]]


def test_no_pixel_is_ignored():
    for model in (make(), make(stem="conv")):
        image = torch.randn(1, 3, 23, 41, requires_grad=True)
        model(image).square().sum().backward()
        assert (image.grad.abs().sum(1) > 0).all()


def test_grid_tokens_then_trunk_is_the_whole():
    model = make(prefix_tokens=1)
    image = torch.randn(2, 3, 50, 30)
    tokens, prefix = model.trunk(model.grid_tokens(image))
    found = model.forward_features(image)
    torch.testing.assert_close(tokens, found.tokens)
    torch.testing.assert_close(prefix, found.prefix)
    listed = model.grid_tokens([image[0], image[1, :, :9]])
    assert [tuple(t.shape) for t in listed] == [(3, 3, 24), (3, 3, 24)]


@pytest.mark.parametrize("size", [(20, 20), (61, 33)])
def test_bfloat16_and_autocast_stay_near_float32(size):
    model, image = make(), torch.randn(2, 3, *size)
    expected = model(image)
    with torch.autocast("cpu", torch.bfloat16):
        cast = model(image)
    low = make().bfloat16()(image.bfloat16())
    assert low.dtype == torch.bfloat16
    scale = expected.abs().max()
    assert (cast.float() - expected).abs().max() < 0.05 * scale
    assert (low.float() - expected).abs().max() < 0.05 * scale


def test_jitter_keys_decide_the_training_forward_pass():
    model = make().train()
    images = torch.randn(3, 3, 30, 22)
    keys = torch.tensor([4, 5, 6])
    together = model(images, jitter_keys=keys)
    torch.testing.assert_close(model(images, jitter_keys=keys), together)
    alone = torch.cat([model(images[i : i + 1], jitter_keys=keys[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model(list(images), jitter_keys=keys), together, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(model(images, jitter_keys=keys + 1), together)
    assert not torch.allclose(model(images), model(images))


def test_extra_passes_act_in_training_only_and_are_drawn_anew():
    plain, jittered = make(), make(extra_passes=3)
    image = torch.randn(1, 3, 40, 40)
    torch.testing.assert_close(plain(image), jittered(image))
    torch.manual_seed(0)
    depths = {len(jittered.train().forward_features(image).plan.levels) for _ in range(40)}
    least = len(plain.plan(40, 40).levels)
    assert min(depths) == least and max(depths) > least + 2


def test_checkpointing_gives_the_same_gradients():
    found = []
    for enable in (False, True):
        model = make(drop_path_rate=0.3, extra_passes=1).train()
        model.set_grad_checkpointing(enable)
        torch.manual_seed(3)
        model(torch.randn(2, 3, 30, 40), jitter_keys=torch.tensor([1, 2])).square().sum().backward()
        found.append([p.grad for p in model.parameters()])
    for plain, recomputed in zip(*found, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_meta_device_then_init_equals_ordinary_construction():
    with torch.device("meta"):
        model = anyres.create_model("vitar_tiny_patch16", **TINY, stem="conv", prefix_tokens=1)
    assert all(p.is_meta for p in model.parameters())
    model.to_empty(device="cpu")
    torch.manual_seed(0)
    model.init_weights()
    torch.manual_seed(0)
    again = anyres.create_model("vitar_tiny_patch16", **TINY, stem="conv", prefix_tokens=1)
    again_again = model(torch.randn(1, 3, 9, 9))
    assert again_again.isfinite().all()
    torch.manual_seed(0)
    again.init_weights()
    for (name, one), two in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two), name


def test_intermediates():
    model = make(prefix_tokens=1, depth=4)
    image = torch.randn(2, 3, 50, 7)
    final, maps = model.forward_intermediates(image, indices=[1, 3], norm=True)
    assert isinstance(final, Features)
    assert [tuple(m.shape) for m in maps] == [(2, 24, 3, 2)] * 2
    torch.testing.assert_close(maps[-1].permute(0, 2, 3, 1), final.tokens)
    torch.testing.assert_close(final.tokens, model.forward_features(image).tokens)
    pairs = model.forward_intermediates(
        image, indices=2, return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
    )
    assert [(tuple(a.shape), tuple(b.shape)) for a, b in pairs] == [((2, 6, 24), (2, 1, 24))] * 2
    early = model.forward_intermediates(image, indices=[0], stop_early=True, intermediates_only=True)
    assert len(early) == 1


def test_classifier():
    model = make(prefix_tokens=1)
    image = torch.randn(2, 3, 20, 20)
    model.reset_classifier(7, "token")
    assert model(image).shape == (2, 7) and model.get_classifier().out_features == 7
    features = model.forward_features(image)
    torch.testing.assert_close(features.pooled, features.prefix[:, 0])
    assert model.forward_head(features, pre_logits=True).shape == (2, 24)
    model.reset_classifier(0)
    assert model(image).shape == (2, 24)


def test_weight_decay_and_layer_groups():
    from timm.models import group_parameters
    from timm.optim import create_optimizer_v2

    model = make(prefix_tokens=1)
    assert model.no_weight_decay() == {"position.table", "trunk.prefix"}
    layers = group_parameters(model, model.group_matcher(), reverse=True)
    assert set(layers) == {name for name, _ in model.named_parameters()}
    assert layers["stem.proj.weight"] == layers["position.table"] == layers["trunk.prefix"] == 0
    assert {layers[name] for name in layers if name.startswith("merger")} == {1}
    assert layers["trunk.blocks.0.attn.qkv.weight"] == 2 and layers["trunk.blocks.1.mlp.fc2.bias"] == 3
    assert layers["trunk.norm.weight"] == 3 and layers["head.weight"] == 4
    create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.1, layer_decay=0.7)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 8, 8), r"\(B, C, H, W\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "floating point"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.double), "autocast"),
        (torch.zeros(1, 1, 8, 8), "1 channels; this model takes 3"),
        (torch.zeros(0, 3, 8, 8), "at least 1"),
        (torch.zeros(1, 3, 0, 8), "at least 1"),
        ([], r"images are \[\]"),
        (None, "images are None"),
        ([torch.zeros(1, 3, 8, 8)], r"\(C, H, W\)"),
        ([torch.zeros(3, 8, 8), torch.zeros(3, 0, 8)], "at least 1"),
        ("images", "given as str"),
    ],
)
def test_bad_images_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        MODEL(images)


def test_extra_passes_without_any_level():
    """No last pass and an image within the grid: there is nothing to deepen."""
    model = make(last_pass=False, extra_passes=2).train()
    assert model(torch.randn(2, 3, 4, 4)).shape == (2, 5)


def test_intermediates_refuse_lists_and_blocks_that_are_not_there():
    with pytest.raises(ValueError, match="once for each image size"):
        MODEL.forward_intermediates([torch.randn(3, 9, 9)])
    with pytest.raises(ValueError, match="blocks 0 to 1"):
        MODEL.forward_intermediates(torch.randn(1, 3, 9, 9), indices=[2])


def test_timms_word_for_mean_pooling():
    model = make(prefix_tokens=1, pool="token")
    model.reset_classifier(4, "avg")
    assert model.config.pool == "mean" and model(torch.randn(1, 3, 9, 9)).shape == (1, 4)
