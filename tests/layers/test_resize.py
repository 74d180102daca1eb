"""Every cell resized on its own, against torch's resize of each cell and against averages that can be done by hand."""

import pytest
import torch
import torch.nn.functional as F

from anyres.layers.resize import resize_cells


@pytest.mark.parametrize(
    ("size", "rows", "cols", "side"),
    [
        ((48, 48), (0, 16, 48), (0, 32, 48), 16),
        ((37, 101), (0, 5, 6, 37), (0, 101), 7),
        ((3, 2), (0, 1, 3), (0, 1, 2), 4),  # made larger
    ],
)
def test_every_cell_is_torchs_antialiased_resize_of_it_alone(size, rows, cols, side):
    images = torch.rand(2, 3, *size, dtype=torch.float64)
    found = resize_cells(images, rows, cols, side)
    assert found.shape == (2, len(rows) - 1, len(cols) - 1, side, side, 3)
    for r in range(len(rows) - 1):
        for c in range(len(cols) - 1):
            cell = images[:, :, rows[r] : rows[r + 1], cols[c] : cols[c + 1]]
            wanted = F.interpolate(cell, (side, side), mode="bilinear", antialias=True, align_corners=False)
            torch.testing.assert_close(found[:, r, c], wanted.permute(0, 2, 3, 1), rtol=1e-6, atol=1e-6)


def test_a_cell_of_the_squares_own_size_is_left_as_it_is():
    images = torch.rand(1, 2, 8, 12)
    found = resize_cells(images, (0, 4, 8), (0, 4, 8, 12), 4)
    assert torch.equal(found[0, 1, 2], images[0, :, 4:8, 8:12].permute(1, 2, 0))


def test_nothing_outside_a_cell_takes_part():
    images = torch.rand(1, 1, 20, 31)
    rows, cols = (0, 7, 20), (0, 11, 14, 31)
    before = resize_cells(images, rows, cols, 5)
    inside = torch.zeros_like(images, dtype=torch.bool)
    inside[:, :, 7:20, 11:14] = True
    after = resize_cells(torch.where(inside, images, torch.full_like(images, 1e6)), rows, cols, 5)
    assert torch.equal(before[:, 1, 1], after[:, 1, 1])
