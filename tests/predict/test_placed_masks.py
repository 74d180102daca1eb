"""Masks of a part of an image against masks of the whole."""

import numpy as np
import pytest
import torch
from torchvision.models.detection.roi_heads import paste_masks_in_image

from anyres.data.coco_masks import decode_mask, encode_mask
from anyres.predict.placed_masks import PlacedMask, place_mask


@pytest.mark.parametrize("size", [(37, 53), (64, 64), (5, 3)])
def test_masks_are_placed_as_torchvision_pastes_them(size):
    random = np.random.default_rng(size[0])
    corners = random.uniform(-0.3, 1.3, (40, 2, 2)) * size[::-1]
    boxes = torch.tensor(np.concatenate([corners.min(1), corners.max(1)], axis=1), dtype=torch.float32)
    boxes = torch.minimum(boxes.clamp(min=0), torch.tensor([size[1], size[0]] * 2))
    small = torch.tensor(random.random((40, 1, 28, 28)), dtype=torch.float32)
    wanted = (paste_masks_in_image(small, boxes, size)[:, 0] > 0.5).numpy()
    around, offset = (size[0] + 11, size[1] + 7), (4, 7)
    assert wanted.any()
    for mask, box, expected in zip(small[:, 0], boxes, wanted, strict=True):
        placed = place_mask(mask, box, size)
        assert (placed.whole(size) == expected).all()
        assert placed.encode(size) == encode_mask(expected)
        wide = np.zeros(around, dtype=bool)
        wide[offset[0] : offset[0] + size[0], offset[1] : offset[1] + size[1]] = expected
        assert placed.encode(around, offset) == encode_mask(wide)
        thin = placed.every(3, offset)
        assert (thin.whole((-(-around[0] // 3), -(-around[1] // 3))) == wide[::3, ::3]).all()


def test_runs_that_meet_at_the_end_of_a_column_are_one():
    part = np.array([[1, 1, 0], [1, 1, 1], [1, 1, 1]], dtype=bool)
    for size, offset in (((3, 3), (0, 0)), ((3, 5), (0, 2)), ((4, 3), (1, 0)), ((9, 9), (3, 3))):
        whole = PlacedMask(part, 0, 0).whole((3, 3))
        wide = np.zeros(size, dtype=bool)
        wide[offset[0] : offset[0] + 3, offset[1] : offset[1] + 3] = whole
        assert PlacedMask(part, 0, 0).encode(size, offset) == encode_mask(wide)
        assert (decode_mask(PlacedMask(part, 0, 0).encode(size, offset), size) == wide).all()
    assert PlacedMask(np.zeros((0, 0), dtype=bool), 0, 0).encode((2, 3)) == encode_mask(np.zeros((2, 3)))
