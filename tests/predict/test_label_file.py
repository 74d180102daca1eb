"""Label maps that are written a few rows at a time."""

import numpy as np
import pytest
import tifffile

from anyres.predict.label_file import bands, write_label_rows
from anyres.streaming.sources import open_source


@pytest.mark.parametrize("size", [(1, 1), (256, 256), (257, 300), (700, 3), (511, 512)])
def test_rows_become_tiles(tmp_path, size):
    labels = np.random.default_rng(0).integers(0, 9, size, np.uint8)
    cuts = sorted(np.random.default_rng(1).integers(0, size[0] + 1, 5).tolist())
    write_label_rows(tmp_path / "x.tif", np.split(labels, cuts), size)
    assert (tifffile.imread(tmp_path / "x.tif").reshape(size) == labels).all()
    with open_source(tmp_path / "x.tif") as source:
        assert source.size == size
    assert [len(band) for band in bands(np.split(labels, cuts), 100)][:-1] == [100] * ((size[0] - 1) // 100)
