"""Conditional and global-local positions outside attention, against timm's layer and the authors' formula."""

import math

import pytest
import torch
import torch.nn.functional as F
from timm.models.twins import PosConv

from anyres.layers.conditional import ConditionalPosition
from anyres.layers.global_local import GlobalLocalPosition
from anyres.layers.region import Region

SIZES = [(1, 1), (1, 9), (5, 3), (13, 7)]


def changed_by(position, size, place):
    """The tokens of a grid that change with the content of the one at `place`."""
    position = position.double()
    tokens = torch.randn(1, *size, 8, dtype=torch.double)
    other = tokens.clone()
    other[0, *place] += 1
    return {tuple(where) for where in (position(tokens) != position(other)).any(-1)[0].nonzero().tolist()}


@pytest.mark.parametrize("size", SIZES)
def test_conditional_equals_timms(size):
    ours, theirs = ConditionalPosition(12), PosConv(12, 12)
    ours.conv.load_state_dict(theirs.proj[0].state_dict())
    tokens = torch.randn(2, *size, 12)
    expected = theirs(tokens.flatten(1, 2), size).unflatten(1, size)
    torch.testing.assert_close(ours(tokens), expected)


@pytest.mark.parametrize("place", [(0, 0), (2, 3), (5, 1)])
def test_the_halo_is_what_a_token_sees(place):
    around = {(r, c) for r in range(6) for c in range(5) if max(abs(r - place[0]), abs(c - place[1])) <= 1}
    conditional, local = ConditionalPosition(8), GlobalLocalPosition(8, local=True)
    torch.nn.init.normal_(local.local.conv.weight)
    assert conditional.halo == local.halo == 1
    assert changed_by(conditional, (6, 5), place) == changed_by(local, (6, 5), place) == around
    plain = GlobalLocalPosition(8)
    assert plain.halo == 0 and changed_by(plain, (6, 5), place) == {place}


def resformers_map(size, width):
    """Counts of rows and columns from 1, divided by the last of them and times 2 pi, DETR's way of writing it."""
    half = width // 2
    found = torch.zeros(*size, width, dtype=torch.double)
    for row in range(size[0]):
        for col in range(size[1]):
            for first, place, last in ((0, row + 1, size[0]), (half, col + 1, size[1])):
                for i in range(half):
                    angle = place / (last + 1e-6) * 2 * math.pi / 10000 ** (2 * (i // 2) / half)
                    found[row, col, first + i] = math.cos(angle) if i % 2 else math.sin(angle)
    return found


@pytest.mark.parametrize("size", SIZES)
def test_global_map_is_resformers_and_its_convolution_replaces_it(size):
    position = GlobalLocalPosition(12)
    waves = resformers_map(size, 12).float()
    torch.testing.assert_close(position.waves(Region.whole(size)), waves, rtol=0, atol=5e-6)
    expected = F.conv2d(waves.permute(2, 0, 1)[None], position.conv.weight, position.conv.bias, padding=1, groups=12)
    tokens = torch.randn(2, *size, 12)
    torch.testing.assert_close(position(tokens), tokens + expected.permute(0, 2, 3, 1), rtol=1e-5, atol=1e-5)


def test_local_part_before_the_merger_starts_as_nothing():
    position = GlobalLocalPosition(12, local=True)
    tokens = torch.randn(2, 5, 3, 12)
    plain = GlobalLocalPosition(12)
    plain.conv.load_state_dict(position.conv.state_dict())
    assert torch.equal(position(tokens), plain(tokens))
    torch.nn.init.normal_(position.local.conv.weight)
    assert not torch.allclose(position(tokens), plain(tokens))
    position.init_weights()
    assert not position.local.conv.weight.any() and position.conv.weight.std() > 0.1


def test_bad_width():
    with pytest.raises(ValueError, match="width is 10.* 12"):
        GlobalLocalPosition(10)
