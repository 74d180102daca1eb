"""Pictures of images too large to be shown."""

import numpy as np

from anyres.predict.overview import overview
from anyres.streaming.source_array import ArraySource


def test_pictures_of_huge_images_are_every_so_many_pixels():
    array = np.arange(5000 * 7, dtype=np.uint16).reshape(5000, 7)
    picture = np.asarray(overview(ArraySource(array)))
    assert (picture == (array >> 8).astype(np.uint8)[::3, ::3, None]).all() and picture.shape == (1667, 3, 3)
