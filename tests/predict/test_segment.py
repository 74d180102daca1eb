"""Label maps of files: by windows equal to the whole, rows of huge images, kinds that are refused, failures."""

import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from anyres.models.segmenter import Segmenter
from anyres.models.weights.files import load
from anyres.predict.config import SegmentConfig
from anyres.predict.label_maps import Inference, label_map
from anyres.predict.pictures import class_colour
from anyres.predict.segment import segment

NAMES = ("ground", "a", "b", "c", "d")


def pixels(height, width, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), np.uint8)
    return coarse.repeat(6, axis=0).repeat(6, axis=1)[:height, :width]


def labels_of(entry):
    return np.array(Image.open(entry["labels"]))


@pytest.mark.parametrize("size", [(61, 97), (23, 149), (24, 24), (17, 5)])
@pytest.mark.parametrize("at_once", [1, 3])
def test_rows_of_a_huge_image_are_those_of_its_windows(labeller, tmp_path, size, at_once):
    image = pixels(*size)
    tifffile.imwrite(tmp_path / "huge.tif", image, photometric="rgb", tile=(16, 16), compression="zlib")
    settings = {"run": labeller, "inputs": (tmp_path / "huge.tif",), "device": "cpu", "window": "24x16"}
    huge = SegmentConfig(**settings, out=tmp_path / "a", max_pixels=60, batch_size=at_once, draw=True)
    (entry,) = segment(huge, progress=False)
    model, _ = load(labeller, Segmenter)
    expected = label_map(model, Image.fromarray(image), Inference(window=(24, 16))).numpy()
    found = labels_of(entry)
    assert entry["labels"].endswith("huge.tif") and found.shape == size and len(np.unique(found)) > 1
    assert (found != expected).mean() < 1e-3  # ties by rounding
    with tifffile.TiffFile(entry["labels"]) as file:
        assert file.pages[0].is_tiled and file.pages[0].compression == 8
        assert file.pages[0].colormap[:, 1].tolist() == [257 * channel for channel in class_colour(1)]
    assert entry["share"] == pytest.approx(
        {name: (found == label).mean() for label, name in enumerate(NAMES) if (found == label).any()}, abs=1e-5
    )
    assert (entry["height"], entry["width"], entry["window"]) == (*size, [24, 16])
    (whole,) = segment(SegmentConfig(**settings, out=tmp_path / "b"), progress=False)  # decoded, by the same windows
    assert whole["labels"].endswith(".png") and (labels_of(whole) != found).mean() < 1e-3
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["huge.drawn.png", "huge.tif"]


def test_auto_looks_at_small_images_whole_and_at_large_ones_by_windows(labeller, tmp_path):
    paths = (tmp_path / "large.tif", tmp_path / "small.png")
    for path, size in zip(paths, ((53, 31), (19, 30)), strict=True):
        Image.fromarray(pixels(*size)).save(path)
    settings = {"run": labeller, "inputs": paths, "out": tmp_path / "out", "device": "cpu", "max_pixels": 1000}
    large, small = segment(SegmentConfig(**settings), progress=False)
    assert large["window"] == [24, 24] and "window" not in small
    large, small = segment(SegmentConfig(**settings, window="none"), progress=False)
    assert "1643; allowed: 1000" in large["reason"] and "labels" in small
    large, small = segment(SegmentConfig(**settings, flip=True), progress=False)
    assert "flip needs whole images" in large["reason"] and "labels" in small
    with pytest.raises(ValueError, match="flip needs whole"):
        segment(SegmentConfig(**settings, flip=True, strict=True), progress=False)


def test_what_has_no_known_range_is_not_read_by_windows(labeller, tmp_path):
    tifffile.imwrite(tmp_path / "floats.tif", np.ones((30, 40, 3), np.float32), photometric="rgb")
    tifffile.imwrite(tmp_path / "wide.tif", pixels(30, 40).astype(np.uint16) * 257, photometric="rgb")
    np.save(tmp_path / "array.npy", pixels(30, 40))
    paths = tuple(tmp_path / name for name in ("floats.tif", "wide.tif", "array.npy"))
    settings = {"run": labeller, "inputs": paths, "out": tmp_path / "out", "device": "cpu", "max_pixels": 100}
    floats, wide, array = segment(SegmentConfig(**settings), progress=False)
    assert "pixels are float32" in floats["reason"]
    assert (labels_of(wide) == labels_of(array)).mean() > 0.99


@pytest.mark.parametrize("tile", [0, -3])
def test_what_fails_on_the_way_leaves_no_file(labeller, tmp_path, tile):
    tifffile.imwrite(tmp_path / "cut.tif", pixels(90, 64), photometric="rgb", tile=(16, 16), compression="zlib")
    with tifffile.TiffFile(tmp_path / "cut.tif") as file:
        offset = file.pages[0].dataoffsets[tile]
    with open(tmp_path / "cut.tif", "r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 40)
    config = SegmentConfig(
        run=labeller, inputs=(tmp_path / "cut.tif",), out=tmp_path / "out", device="cpu", max_pixels=99
    )
    assert segment(config, progress=False)[0].keys() == {"path", "reason"}
    assert list((tmp_path / "out").iterdir()) == []


def test_two_images_never_share_a_file(labeller, tmp_path):
    for name in ("a.png", "a.drawn.png"):
        Image.fromarray(pixels(20, 30)).save(tmp_path / name)
    settings = {"run": labeller, "inputs": (tmp_path / "a.png", tmp_path / "a.drawn.png"), "out": tmp_path / "out"}
    with pytest.raises(ValueError, match="a.png and .*a.drawn.png would both be written to a.drawn.png"):
        segment(SegmentConfig(**settings, draw=True, device="cpu"), progress=False)
    assert len(segment(SegmentConfig(**settings, device="cpu"), progress=False)) == 2


def test_a_decoded_image_has_a_png_by_windows_too(labeller, tmp_path, monkeypatch):
    Image.fromarray(pixels(40, 50)).save(tmp_path / "a.jpg")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    settings = {"run": labeller, "out": tmp_path / "out", "max_pixels": 500, "device": "cpu"}
    (entry,) = segment(SegmentConfig(inputs=(tmp_path / "a.jpg",), **settings), progress=False)
    assert entry["labels"].endswith("a.png") and labels_of(entry).shape == (40, 50) and entry["window"] == [24, 24]
