"""MAE's fixed encoding against MAE's formula."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from anyres.layers.region import Region
from anyres.layers.sincos import SinCosPosition

SIDES = st.one_of(st.integers(1, 30), st.sampled_from([97, 252]))


def mae(row, col, width):
    """The encoding of one place as MAE has it: column, then row; sines, then cosines, of place / 10000^(4i / D)."""
    found = []
    for place in (col, row):
        angle = [place / 10000 ** (i / (width / 4)) for i in range(width // 4)]
        found += [*np.sin(angle), *np.cos(angle)]
    return found


@pytest.mark.parametrize("grid", [(14, 14), (3, 5), (7, 1), (1, 1)])
def test_maes_integer_places_at_the_own_grid(grid):
    expected = [[mae(row, col, 24) for col in range(grid[1])] for row in range(grid[0])]
    found = SinCosPosition(24, grid).exact(Region.whole(grid))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32), rtol=0, atol=3e-6)


@given(rows=SIDES, cols=SIDES)
@settings(max_examples=20)
def test_elsewhere_the_same_extent_of_places(rows, cols):
    grid = (14, 9)
    found = SinCosPosition(8, grid).exact(Region.whole((rows, cols)))
    assert found.shape == (rows, cols, 8)
    for row, col in {(0, 0), (rows - 1, cols // 2), (rows // 2, cols - 1)}:
        expected = mae((row + 0.5) * 14 / rows - 0.5, (col + 0.5) * 9 / cols - 0.5, 8)
        torch.testing.assert_close(found[row, col], torch.tensor(expected, dtype=torch.float32), rtol=0, atol=5e-6)


def test_added_to_the_tokens_and_never_learned():
    position = SinCosPosition(8, (4, 4))
    tokens = torch.randn(2, 3, 5, 8)
    torch.testing.assert_close(position(tokens) - tokens, position.exact(Region.whole((3, 5))).expand(2, -1, -1, -1))
    assert position(tokens.bfloat16()).dtype == torch.bfloat16
    assert not list(position.parameters()) and not list(position.buffers()) and position.halo == 0


def test_widths_without_pairs_on_two_axes_are_refused():
    with pytest.raises(ValueError, match="width is 30.* 32"):
        SinCosPosition(30, (4, 4))
