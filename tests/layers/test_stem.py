"""Both stems: any size from one pixel up, no pixel ignored, and how far a token sees."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from anyres.layers import ConvStem, PatchStem
from anyres.layers.merge_plan import token_grid
from anyres.layers.stem import complete_patches, stage_factors


@given(height=st.integers(1, 50), width=st.integers(1, 50), patch=st.sampled_from([1, 4, 7, 14, 16]))
@settings(max_examples=40)
def test_any_size_is_covered(height, width, patch):
    images = torch.randn(1, 2, height, width)
    rows, cols = token_grid(height, width, patch)
    assert (rows - 1) * patch < height <= rows * patch
    for stem in (PatchStem(2, 32, patch), ConvStem(2, 32, patch)):
        assert stem(images).shape == (1, rows, cols, 32)


def test_the_edge_is_repeated():
    images = torch.arange(6.0).view(1, 1, 2, 3)
    expected = torch.tensor([[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [3, 4, 5, 5]]).float()
    assert torch.equal(complete_patches(images, 4)[0, 0], expected)
    assert complete_patches(images, 1) is images


def test_patch_stem_equals_the_convolution_with_the_same_weights():
    stem = PatchStem(3, 20, 7)
    images = torch.randn(2, 3, 21, 35)
    expected = F.conv2d(images, stem.proj.weight.view(20, 3, 7, 7), stem.proj.bias, stride=7).permute(0, 2, 3, 1)
    torch.testing.assert_close(stem(images), expected)


@pytest.mark.parametrize(("patch", "factors"), [(16, [2, 2, 2, 2]), (14, [2, 7]), (9, [3, 3]), (1, []), (13, [13])])
def test_stage_factors(patch, factors):
    assert stage_factors(patch) == factors


def test_conv_stem_widths_are_the_papers():
    assert ConvStem(3, 768, 16).widths == [48, 96, 192, 384]
    assert ConvStem(3, 96, 8).widths == [12, 24, 48]


@pytest.mark.parametrize("patch", [16, 8, 14, 9])
def test_conv_stem_sees_its_patch_and_its_declared_halo_above_and_left_only(patch):
    stem = ConvStem(1, 32, patch).double().eval()
    images = torch.randn(1, 1, 4 * patch, 4 * patch, dtype=torch.double)
    base = stem(images)
    seen = set()
    for y in range(patch, 2 * patch, max(patch // 4, 1)):
        for x in range(patch, 2 * patch, max(patch // 4, 1)):
            changed = images.clone()
            changed[0, 0, y, x] += 1
            seen |= {tuple(place) for place in (stem(changed) != base).any(-1)[0].nonzero().tolist()}
    changed = images.clone()
    changed[0, 0, 2 * patch - 1, 2 * patch - 1] += 1  # the corner pixel nearest to the next patches
    seen |= {tuple(place) for place in (stem(changed) != base).any(-1)[0].nonzero().tolist()}
    assert seen == {(1, 1), (1, 2), (2, 1), (2, 2)}  # its own patch and the three it is a halo of
    assert stem.halo == 1 and PatchStem.halo == 0


@pytest.mark.parametrize("make", [PatchStem, ConvStem])
def test_every_pixel_counts(make):
    stem = make(3, 32, 8)
    images = torch.randn(1, 3, 19, 21, requires_grad=True)
    stem(images).square().sum().backward()
    assert (images.grad.abs().sum(1) > 0).all()
