"""The trunk by itself: what enters and leaves it, sets without a grid, and the places that its blocks hand on."""

import pytest
import torch

from anyres.layers.places import Places
from anyres.layers.position import grid_centres
from anyres.layers.region import Region
from anyres.models.config import ViTARConfig
from anyres.models.trunk import Trunk

TINY = {"width": 16, "heads": 2, "depth": 2, "patch_size": 4, "grid": (3, 4)}


def make(**options):
    torch.manual_seed(0)
    trunk = Trunk(ViTARConfig(**(TINY | options))).eval()
    trunk.init_weights()
    return trunk


def test_a_missing_prefix_is_no_parameter():
    assert make().prefix is None and not any("prefix" in name for name, _ in make().named_parameters())
    assert make(prefix_tokens=2).prefix.shape == (2, 16)


@torch.no_grad()
@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_sets_without_a_grid_are_as_they_are_alone(prefix):
    trunk = make(prefix_tokens=prefix)
    sets = [torch.randn(count, 16) for count in (5, 1, 12)]
    together = trunk.forward_sets(sets)
    assert together.shape == (3, prefix + 12, 16)
    for row, each in zip(together, sets, strict=True):
        grid, first = trunk(each[None, :, None])  # a grid of one column: these blocks do not ask for it
        torch.testing.assert_close(row[: prefix + len(each)], torch.cat([first, grid.flatten(1, 2)], dim=1)[0])


@torch.no_grad()
@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_rotary_sets_are_turned_by_the_grid_of_their_own_image(prefix, training):
    """Whole images of several grids: each as it is alone, also the factor of its key."""
    trunk = make(position="rotary", rescale=2.0, prefix_tokens=prefix).train(training)
    grids, keys = [(3, 4), (1, 7), (5, 2)], torch.tensor([5, 6, 7])
    images = [torch.randn(*grid, 16) for grid in grids]
    centres = [grid_centres(Region.whole(grid)).flatten(0, 1) for grid in grids]
    together = trunk.forward_sets([image.flatten(0, 1) for image in images], centres, keys)
    for index, image in enumerate(images):
        grid, first = trunk(image[None], keys[index : index + 1])
        alone = torch.cat([first, grid.flatten(1, 2)], dim=1)[0]
        torch.testing.assert_close(together[index, : len(alone)], alone, rtol=1e-5, atol=1e-5)


def test_rotary_sets_without_places_are_refused():
    with pytest.raises(ValueError, match="grid_centres"):
        make(position="rotary").forward_sets([torch.zeros(5, 16)])


@torch.no_grad()
def test_blocks_that_merge_leave_one_token_for_each_that_entered():
    trunk = make(merger="none", position="learned", prefix_tokens=1, tome=3)
    tokens = torch.randn(2, 3, 5, 16)
    grid, prefix = trunk(tokens)
    assert grid.shape == tokens.shape and prefix.shape == (2, 1, 16)
    assert [len(torch.unique(image.flatten(0, 1), dim=0)) for image in grid] == [15 - 2 * 3] * 2
    (final, _), taken = trunk.forward_intermediates(tokens, [0, 1], 1, norm=True)
    torch.testing.assert_close(final, grid)
    torch.testing.assert_close(taken[1][0], grid)


def test_places_at_the_start_are_those_of_the_tokens_unless_something_merged():
    x = torch.arange(6.0).view(1, 3, 2)
    assert Places().at_start(x) is x
    found = Places(owner=torch.tensor([[2, 0, 0, 1]])).at_start(x)
    assert torch.equal(found, x[:, [2, 0, 0, 1]])


@pytest.mark.parametrize(
    ("options", "needs"),
    [
        ({}, False),
        ({"position": "rotary", "heads": 2}, False),
        ({"position": "relative_bias"}, True),
        ({"position": "conditional"}, False),
        ({"position": "conditional", "placement": "trunk"}, True),
        ({"window": 2, "depth": 3, "global_blocks": (2,)}, True),
        ({"merger": "none", "tome": 2}, True),
    ],
)
def test_which_trunks_need_the_grid(options, needs):
    assert make(**options).needs_grid is needs
