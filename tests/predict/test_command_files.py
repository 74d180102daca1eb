"""Commands never write over what they read."""

import numpy as np
import pytest
from PIL import Image

from anyres.predict.config import DetectConfig, SegmentConfig
from anyres.predict.detect import find_objects
from anyres.predict.segment import segment


def pixels(height, width, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), np.uint8)
    return coarse.repeat(6, axis=0).repeat(6, axis=1)[:height, :width]


@pytest.mark.parametrize("kind", [SegmentConfig, DetectConfig])
def test_no_input_is_replaced(kind, labeller, finder, tmp_path):
    call, run = (segment, labeller) if kind is SegmentConfig else (find_objects, finder)
    for name in ("a", "000000-a"):
        Image.fromarray(pixels(20, 30)).save(tmp_path / f"{name}.png")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    inputs = (tmp_path / "a.png", tmp_path / "000000-a.png")
    with pytest.raises(ValueError, match="would replace the input .*; give another out"):
        call(kind(run=run, inputs=inputs, out=tmp_path, draw=True, device="cpu"), progress=False)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
