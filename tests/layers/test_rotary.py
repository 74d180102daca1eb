"""Rotary positions against timm's DINOv3 encoding."""

import math

import pytest
import torch
from timm.layers import RotaryEmbeddingDinoV3, apply_rot_embed_cat

from anyres.layers.position import grid_centres
from anyres.layers.region import Region
from anyres.layers.rotary import RotaryPosition, rotate

SIZES = [(1, 1), (1, 7), (5, 3), (14, 14), (37, 2)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("head_dim", [4, 20])
def test_equal_to_timms(size, prefix, head_dim):
    theirs = RotaryEmbeddingDinoV3(head_dim, temperature=100.0, rotate_half=True).get_embed(size)
    rotation = RotaryPosition(head_dim)(torch.zeros(3, *size, 2 * head_dim))
    x = torch.randn(3, 2, prefix + size[0] * size[1], head_dim)
    found = rotate(x, rotation)
    assert torch.equal(found[:, :, :prefix], x[:, :, :prefix])
    expected = apply_rot_embed_cat(x[:, :, prefix:], theirs, half=True)
    torch.testing.assert_close(found[:, :, prefix:], expected, rtol=1e-5, atol=1e-5)


def test_rescaling_multiplies_every_coordinate_of_an_image_by_one_factor():
    """A small factor, so that the angles can be read back from the rotation without a full turn between."""
    position = RotaryPosition(8, rescale=1.5)
    tokens, keys = torch.zeros(3, 4, 5, 16), torch.tensor([3, 4, 5])
    exact = position.eval()(tokens, keys)  # (2, 1, 1, N, 4)
    assert torch.equal(exact, RotaryPosition(8)(tokens))
    scaled = position.train()(tokens, keys)
    factors = position.factors(keys)
    assert scaled.shape == (2, 3, 1, 20, 4) and len(set(factors.tolist())) == 3
    for image, factor in enumerate(factors):
        for index in (1, 3):  # the long period of each axis: angles stay within half a turn
            angle = torch.atan2(exact[1], exact[0])[0, 0, :, index]
            found = torch.atan2(scaled[1], scaled[0])[image, 0, :, index]
            torch.testing.assert_close(found, angle * factor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rescale", [1.0, 2.0])
def test_tokens_anywhere_are_turned_as_in_the_grid_of_their_own_image(rescale):
    """Some tokens of images of three grids, in any order, padded with zeros."""
    position, keys = RotaryPosition(8, rescale=rescale).train(), torch.tensor([3, 4, 5])
    grids, chosen = [(4, 5), (1, 7), (6, 2)], [[3, 19, 0], [6], [11, 2]]
    centres = torch.zeros(3, 3, 2)
    for image, (grid, tokens) in enumerate(zip(grids, chosen, strict=True)):
        centres[image, : len(tokens)] = grid_centres(Region.whole(grid)).flatten(0, 1)[tokens]
    found = position.of_centres(centres, torch.zeros(3, 3, 16), keys)
    assert found.shape == (2, 3, 1, 3, 4)
    for image, (grid, tokens) in enumerate(zip(grids, chosen, strict=True)):
        alone = position(torch.zeros(1, *grid, 16), keys[image : image + 1])
        torch.testing.assert_close(found[:, image, :, : len(tokens)], alone[:, 0, :, tokens])


def test_factors_are_log_uniform_and_functions_of_the_key():
    position = RotaryPosition(8, rescale=2.0)
    logs = position.factors(torch.arange(4000)).log() / math.log(2)
    assert logs.abs().max() <= 1 and logs.min() < -0.99 and logs.max() > 0.99
    assert abs(logs.mean()) < 0.03 and abs(logs.var() - 1 / 3) < 0.02
    tokens, keys = torch.zeros(2, 3, 3, 16), torch.tensor([7, 8])
    assert torch.equal(position(tokens, keys)[:, 1:], position(tokens[1:], keys[1:]))
    assert not torch.equal(position(tokens), position(tokens))  # new keys


@pytest.mark.parametrize(
    "options", [{"head_dim": 6}, {"head_dim": 8, "rescale": 0.5}, {"head_dim": 8, "rescale": math.inf}]
)
def test_bad_options(options):
    with pytest.raises(ValueError, match="multiple of 4|at least 1"):
        RotaryPosition(**options)


def test_keys_are_one_integer_for_each_image():
    with pytest.raises(ValueError, match="each of the 2 images"):
        RotaryPosition(8, rescale=2.0)(torch.zeros(2, 3, 3, 8), torch.tensor([1]))
