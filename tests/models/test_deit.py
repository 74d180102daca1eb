"""Our DeiT against timm's with the same weights."""

import pytest
import timm
import torch

import anyres
from anyres.layers.region import Region
from anyres.models.weights.files import check_weights
from anyres.models.weights.timm import convert_timm_vit


def pair(size, interpolation):
    torch.manual_seed(0)
    theirs = timm.create_model(f"deit_{size}_patch16_224", dynamic_img_size=True, num_classes=11).eval()
    with torch.no_grad():
        theirs.cls_token.normal_()
        theirs.head.weight.normal_(std=0.2)
    ours = anyres.create_model(f"deit_{size}_patch16", num_classes=11, interpolation=interpolation).eval()
    weights = convert_timm_vit(theirs.state_dict(), ours.config)
    check_weights(ours, weights, "timm")
    ours.load_state_dict(weights)
    return ours, theirs


@torch.no_grad()
@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_equal_to_timm_at_224(size):
    ours, theirs = pair(size, "bicubic")
    images = torch.randn(2, 3, 224, 224)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("pixels", [(96, 96), (160, 336), (448, 112)])
def test_equal_to_timm_elsewhere_with_its_interpolation(pixels):
    ours, theirs = pair("tiny", "timm")
    images = torch.randn(1, 3, *pixels)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_default_is_deits_own_interpolation_which_differs_when_shrinking():
    ours, theirs = pair("tiny", "bicubic")
    images = torch.randn(1, 3, 96, 96)
    assert not torch.allclose(ours(images), theirs(images), atol=1e-3)
    table = ours.position.table.permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(table, (6, 6), mode="bicubic", align_corners=False)
    torch.testing.assert_close(ours.position.exact(Region.whole((6, 6))), expected[0].permute(1, 2, 0))


def test_a_table_of_another_grid_is_refused():
    theirs = timm.create_model("deit_tiny_patch16_224", img_size=96)
    config = anyres.create_model("deit_tiny_patch16").config
    with pytest.raises(ValueError, match="14x14"):
        convert_timm_vit(theirs.state_dict(), config)


def test_weights_of_parts_that_we_lack_are_refused():
    theirs = timm.create_model("deit_tiny_distilled_patch16_224")
    config = anyres.create_model("deit_tiny_patch16", prefix_tokens=2).config
    with pytest.raises(ValueError, match="dist_token"):
        convert_timm_vit(theirs.state_dict(), config)
