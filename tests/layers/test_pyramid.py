"""Pyramids: sizes, agreement with the operations written out, and what an image's neighbours cannot change."""

import pytest
import torch
import torch.nn.functional as F

from anyres.layers.pyramid import SimpleFeaturePyramid, TapPyramid


def norm(x, layer):
    """Layer norm over channels of (B, C, h, w), written out."""
    mean, variance = x.mean(1, keepdim=True), x.var(1, correction=0, keepdim=True)
    return (x - mean) / (variance + 1e-6).sqrt() * layer.weight[:, None, None] + layer.bias[:, None, None]


def double(x, layer):
    """A transposed convolution of 2x2 pixels and stride 2: each pixel becomes four, on its own."""
    out = torch.einsum("bchw,cokl->bohkwl", x, layer.weight).flatten(4, 5).flatten(2, 3)
    return out + layer.bias[:, None, None]


def shake(module):
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)


@pytest.mark.parametrize("stride", [16, 32, 8])
@pytest.mark.parametrize("size", [(7, 4), (1, 3), (6, 6)])
def test_every_level_has_its_stride(stride, size):
    pyramid = SimpleFeaturePyramid(12, stride=stride, out_channels=10)
    maps = pyramid(torch.randn(2, 12, *size))
    for found, wanted in zip(maps, (4, 8, 16, 32), strict=True):
        sides = [-(-side * stride // wanted) for side in size]
        assert found.shape == (2, 10, *sides)


def test_a_simple_pyramid_is_the_operations_of_vitdet():
    pyramid, x = SimpleFeaturePyramid(8, out_channels=6), torch.randn(2, 8, 3, 5)
    shake(pyramid)
    up4, up2, same, half = pyramid.levels
    first = F.gelu(norm(double(x, up4[0][0]), up4[0][1]))
    before = [double(first, up4[0][3]), double(x, up2[0][0]), x, F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-99), 2)]
    for found, level, start in zip(pyramid(x), (up4, up2, same, half), before, strict=True):
        one = norm(torch.einsum("oc,bchw->bohw", level[1].weight[:, :, 0, 0], start), level[2])
        expected = norm(F.conv2d(one, level[3].weight, padding=1), level[4])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert [level[1].in_channels for level in pyramid.levels] == [2, 4, 8, 8]


def test_a_pyramid_of_taps_is_the_operations_of_beit():
    pyramid, maps = TapPyramid(6), [torch.randn(1, 6, 4, 3) for _ in range(4)]
    shake(pyramid)
    up4, up2 = pyramid.levels[:2]
    found = pyramid(maps)
    torch.testing.assert_close(found[0], double(F.gelu(norm(double(maps[0], up4[0]), up4[1])), up4[3]))
    torch.testing.assert_close(found[1], double(maps[1], up2[0]))
    assert torch.equal(found[2], maps[2])
    assert torch.equal(found[3], F.max_pool2d(F.pad(maps[3], (0, 1), value=-99), 2))


def test_a_batch_gives_what_each_image_gives_alone():
    x = torch.randn(3, 32, 5, 2)
    for pyramid, given in (
        (SimpleFeaturePyramid(32, stride=32, out_channels=9), x),
        (TapPyramid(32, (8, 4, 2, 1)), [x] * 4),
    ):
        together = pyramid(given)
        alone = [pyramid(x[i : i + 1] if given is x else [x[i : i + 1]] * 4) for i in range(3)]
        for level, found in enumerate(together):
            torch.testing.assert_close(found, torch.cat([each[level] for each in alone]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [3, 0.75, 0, -2, float("inf")])
def test_scales_are_powers_of_two(scale):
    with pytest.raises(ValueError, match="powers of two"):
        TapPyramid(8, (scale, 1))


def test_strides_are_reached_by_doubling():
    with pytest.raises(ValueError, match=r"scale is 1.33333; .*nearest: 1"):
        SimpleFeaturePyramid(8, stride=16, strides=(4, 12))
    with pytest.raises(ValueError):
        TapPyramid(8)([torch.randn(1, 8, 2, 2)])
