"""What has no data is left out of an image's range and becomes the background, in every way of reading it."""

import warnings

import numpy as np
import pytest
from PIL import Image

from anyres.data import said_once
from anyres.data.decode import read_image
from anyres.data.tiff.picture import as_picture
from anyres.data.tiff.source import TiffSource
from anyres.streaming.sources import open_source

tifffile = pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setattr(said_once, "_said", set())


def write(path, array, nodata=None, **options):
    tags = [] if nodata is None else [(42113, "s", 0, nodata, True)]  # GDAL_NODATA
    tifffile.imwrite(path, array, extratags=tags, metadata=None, **{"photometric": "minisblack", **options})


def elevation(kind, nodata):
    """200 to 900 m, and a corner without data."""
    array = np.linspace(200, 900, 30 * 40).reshape(30, 40).astype(kind)
    array[:5, :7] = nodata
    return array


def grey(path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return np.asarray(read_image(path, channels=1, **options)).astype(int)


KINDS = [
    (np.int16, -9999, "-9999"), (np.int16, -32768, "-32768"), (np.int32, -9999, "-9999.0"),
    (np.float32, -9999, "-9999"), (np.float32, -3.4028234663852886e38, "-3.4028234663852886e+38"),
    (np.float64, 1e20, "1e+20"),
    (np.float16, -9999, "-9999"), (np.float32, np.nan, "nan"), (np.float32, np.nan, None), (np.float64, np.nan, None),
    (np.uint32, 4294967295, "4294967295"), (np.float32, -9999, " -9999 "),
]  # fmt: skip


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "value", "tag"), KINDS, ids=str)
def test_the_value_of_the_file(tmp_path, kind, value, tag, order):
    array = elevation(kind, value)
    write(tmp_path / "a.tif", array, tag, byteorder=order)
    known = np.ones(array.shape, bool)
    known[:5, :7] = False
    low, high = float(array[known].min()), float(array[known].max())
    expected = np.where(known, (np.where(known, array, 0).astype(float) - low) / (high - low) * 255, 0)
    found = grey(tmp_path / "a.tif")
    assert np.abs(found - expected).max() <= 1 and (found[~known] == 0).all() and found.max() == 255
    with TiffSource(tmp_path / "a.tif", as_picture=True) as source:  # also where Pillow has read it
        assert np.array_equal(np.asarray(as_picture(source)), found)
    with open_source(tmp_path / "a.tif") as source:
        pixels = source.read_region(0, 0, 30, 40)[..., 0]
    assert pixels.dtype == kind and np.array_equal(pixels, np.where(known, array, kind(0)))


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_kinds_whose_range_is_known(tmp_path, compression):
    """The range stays, the value becomes black."""
    array = np.arange(0, 60000, 100, np.uint16).reshape(20, 30)
    write(tmp_path / "a.tif", array, "59900", compression=compression)
    assert np.array_equal(grey(tmp_path / "a.tif"), np.where(array == 59900, 0, array >> 8))
    small = (array >> 8).astype(np.uint8)
    for photometric, stored in (("minisblack", small), ("miniswhite", 255 - small)):
        value = str(int(stored[10, 10]))
        write(tmp_path / "a.tif", stored, value, compression=compression, photometric=photometric)
        expected = np.where(stored == stored[10, 10], 0, small)
        assert np.array_equal(grey(tmp_path / "a.tif"), expected)
        with open_source(tmp_path / "a.tif") as source:
            assert np.array_equal(source.read_region(0, 0, 20, 30)[..., 0], expected)


def test_a_colour_has_no_data_where_all_three_have_none(tmp_path):
    array = np.random.default_rng(0).integers(0, 255, (9, 11, 3), np.uint8)
    array[0, 0], array[1, 1] = 255, (255, 0, 255)
    for options in ({}, {"extrasamples": [2]}):
        stored = np.concatenate([array, np.full((9, 11, 1), 255, np.uint8)], axis=2) if options else array
        write(tmp_path / "a.tif", stored, "255", photometric="rgb", **options)
        expected = array.copy()
        expected[0, 0] = 0
        assert np.array_equal(np.asarray(read_image(tmp_path / "a.tif")), expected)
        with open_source(tmp_path / "a.tif") as source:
            assert np.array_equal(source.read_region(0, 0, 9, 11), expected)


@pytest.mark.parametrize("tag", ["-9999", "1e20", "3.5", "nan", "inf", "none", ""])
def test_a_value_that_no_sample_can_have(tmp_path, tag):
    array = np.arange(256, dtype=np.uint8).reshape(16, 16)
    write(tmp_path / "a.tif", array, tag)
    assert np.array_equal(grey(tmp_path / "a.tif"), array)
    with open_source(tmp_path / "a.tif") as source:
        assert np.array_equal(source.read_region(0, 0, 16, 16)[..., 0], array)


@pytest.mark.parametrize(
    ("kind", "value"), [(np.int16, -9999), (np.int16, -32768), (np.float32, -9999), (np.float64, 1e20)]
)
def test_an_isolated_extreme_is_said_once_with_the_option(tmp_path, kind, value):
    for name in ("a.tif", "b.tif"):
        write(tmp_path / name, elevation(kind, value))
    with pytest.warns(UserWarning) as caught:
        read_image(tmp_path / "a.tif")
        read_image(tmp_path / "b.tif")
    assert len(caught) == 1
    text = str(caught[0].message)
    assert "a.tif" in text and f"nodata={value:.9g}" in text and f"gdal_edit.py -a_nodata {value:.9g}" in text
    write(tmp_path / "c.tif", elevation(kind, value), str(value))
    assert np.array_equal(grey(tmp_path / "a.tif", nodata=value), grey(tmp_path / "c.tif"))
    with open_source(tmp_path / "a.tif", nodata=value) as named, open_source(tmp_path / "c.tif") as tagged:
        assert np.array_equal(named.read_region(0, 0, 30, 40), tagged.read_region(0, 0, 30, 40))


@pytest.mark.parametrize(
    "array",
    [
        np.array([[0, 1, 1, 0]], np.int32), np.array([[-9999, 5]], np.int16), np.full((3, 3), -9999, np.float32),
        np.random.default_rng(0).normal(size=(200, 200)), np.arange(100, dtype=np.int16).reshape(10, 10) - 50,
    ],
)  # fmt: skip
def test_nothing_is_said_of_ordinary_values(tmp_path, array):
    write(tmp_path / "a.tif", array)
    grey(tmp_path / "a.tif")


def test_the_option_is_for_tiff(tmp_path):
    Image.new("L", (3, 3)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png: nodata is set, which has an effect on TIFF files only"):
        open_source(tmp_path / "a.png", nodata=0)
