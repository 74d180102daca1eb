"""Colours and names that can be told apart and read."""

import numpy as np
import pytest
import torch
from PIL import Image

from anyres.predict.objects import draw_detections
from anyres.predict.pictures import class_colour, drawable, with_legend


@pytest.mark.parametrize("size", [(40, 60), (17, 5), (3000, 2000)])
def test_names_can_be_read_at_every_size(size):
    found = {
        "boxes": torch.tensor([[0.0, 0.0, size[1], size[0]]]),
        "labels": torch.tensor([1]),
        "scores": torch.ones(1),
    }
    picture = np.asarray(draw_detections(Image.new("RGB", size[::-1]), found, ("name",)))
    factor = len(picture) / size[0]
    assert factor == int(factor) and max(picture.shape) >= 480 and (factor == 1) == (max(size) >= 480)
    name = (picture == class_colour(1)).all(2)[: 40 * max(1, int(factor))]
    assert name.all(1).sum() + name.any(1).sum() > 12 and (picture == 0).any() and not (picture == 0).all()


def test_classes_have_colours_of_their_own():
    colours = np.array([class_colour(label) for label in range(256)])
    apart = np.linalg.norm(colours[:, None] - colours[None], axis=2) + 1e9 * np.eye(256)
    assert apart.min() > 0 and apart[:16, :16].min() > 50 and (np.diag(apart, 1) > 100).all()
    assert class_colour(0) == (0, 0, 0) and colours[1:].max(1).min() > 150


def test_names_are_drawn_in_letters_that_the_font_has():
    assert drawable("größe 猫") == "grosse ?" and drawable("A-7") == "A-7"
    narrow = with_legend(Image.new("RGB", (6, 480)), [("a rather long name", (9, 8, 7))])
    assert narrow.width > 100 and narrow.getpixel((10, 480 + 12)) == (9, 8, 7)
