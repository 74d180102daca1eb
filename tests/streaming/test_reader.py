import threading
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from anyres.data import said_once
from anyres.data.transforms import to_tensor
from anyres.errors import SourceError
from anyres.streaming import reader as reader_module
from anyres.streaming.reader import RegionReader
from anyres.streaming.sources import open_source

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NAMED = r"rows 2\.\.7, columns 1\.\.4"


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """The pauses before retries, which are not waited for."""
    pauses = []
    monkeypatch.setattr(reader_module.time, "sleep", pauses.append)
    return pauses


def pixels(height=23, width=31, channels=3, dtype=np.uint8):
    draw = np.random.default_rng(0)
    shape = (height, width, channels) if channels else (height, width)
    if np.dtype(dtype).kind == "f":
        return draw.normal(size=shape).astype(dtype)
    return draw.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def make(source, channels=3, **options):
    options = {"mean": MEAN[:channels], "std": STD[:channels], "channels": channels} | options
    return RegionReader(source if hasattr(source, "read_region") else open_source(source), **options)


class Lying:
    """Says to be as large as its array; `change` is what it gives in place of a region."""

    def __init__(self, array, change, size=None):
        self.array, self.change = array, change
        self.size = size or array.shape[:2]
        self.name = "the lying source"

    def read_region(self, y, x, height, width):
        return self.change(self.array[y : y + height, x : x + width], y)


@pytest.mark.parametrize("stored", [0, 1, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_8_bit_equals_the_transform_of_image_files(stored, channels):
    """Bit for bit, also where grey becomes colour and colour becomes grey."""
    array = pixels(channels=stored)
    whole = to_tensor(Image.fromarray(array if stored == 3 else array.reshape(23, 31)), MEAN[:channels], STD[:channels])
    reader = make(array, channels)
    assert reader.size == (23, 31)
    for y, x, height, width in [(0, 0, 23, 31), (22, 30, 1, 1), (5, 0, 7, 31), (0, 17, 23, 1)]:
        found = reader.read(y, x, height, width)
        assert (found.shape, found.dtype) == ((1, channels, height, width), torch.float32)
        assert found.is_contiguous() and torch.equal(found[0], whole[:, y : y + height, x : x + width])


@pytest.mark.parametrize("dtype", [np.uint16, ">u2", np.int16, np.int8, np.uint32, np.int32])
def test_integers_are_scaled_by_their_types_maximum(dtype):
    array = pixels(channels=3).astype(np.uint8) if dtype == np.int8 else pixels(dtype=np.dtype(dtype).newbyteorder("="))
    array = array.astype(dtype)
    expected = (array / np.float64(np.iinfo(dtype).max) - MEAN) / STD
    found = make(array).read(0, 0, 23, 31)[0].permute(1, 2, 0).numpy()
    assert np.abs(found - expected).max() < 2e-6 * np.abs(expected).max()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ">f4", np.float64])
def test_floats_are_taken_as_they_are(dtype):
    array = pixels(dtype=np.float64).astype(dtype)
    assert np.array_equal(make(array).read(2, 1, 5, 3)[0].permute(1, 2, 0), array[2:7, 1:4].astype(np.float32))
    grey = make(array[..., 0]).read(2, 1, 5, 3)
    assert grey.is_contiguous() and np.array_equal(
        grey[0], np.repeat(array[None, 2:7, 1:4, 0], 3, 0).astype(np.float32)
    )
    luma = make(array.astype(np.float64), 1).read(0, 0, 23, 31)[0, 0].numpy()
    assert np.abs(luma - array.astype(np.float64) @ [0.299, 0.587, 0.114]).max() < 1e-4


def test_16_bit_colour_becomes_grey():
    array = pixels(dtype=np.uint16)
    found = make(array, 1, mean=(0,), std=(1,)).read(0, 0, 23, 31)[0, 0].numpy()
    assert np.abs(found - array @ [0.299, 0.587, 0.114] / 65535).max() < 2e-5


def test_many_channels():
    array = pixels(channels=5)
    found = make(array, 5, mean=(0,) * 5, std=(1,) * 5).read(0, 0, 23, 31)
    assert torch.equal(found[0], torch.from_numpy(array).permute(2, 0, 1) / 255)


@pytest.mark.parametrize(
    ("array", "channels", "reason"),
    [
        (pixels(channels=4), 3, "4 channels, the model takes 3"),
        (pixels(channels=2), 1, "2 channels, the model takes 1"),
        (pixels(channels=0), 2, "1 channels, the model takes 2"),
        (pixels(channels=3), 5, "3 channels, the model takes 5"),
    ],
)
def test_channels_that_do_not_fit(array, channels, reason):
    with pytest.raises(SourceError, match=rf"{NAMED}: the source has {reason}"):
        make(array, channels, mean=(0,) * channels, std=(1,) * channels).read(2, 1, 5, 3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda region, y: region[:-1], r"gave shape \(4, 3, 3\); allowed: \(5, 3, channels\).*Its size is 23x31"),
        (lambda region, y: region[:, :0], r"gave shape \(5, 0, 3\)"),
        (lambda region, y: region.transpose(2, 0, 1), r"gave shape \(3, 5, 3\)"),
        (lambda region, y: region[None], r"gave shape \(1, 5, 3, 3\)"),
        (lambda region, y: None, r"gave shape \(\)"),
        (lambda region, y: region > 100, "pixels are bool"),
        (lambda region, y: region.astype(np.int64), "pixels are int64"),
        (lambda region, y: np.where(region > 5, np.nan, 1.0), "not finite"),
        (lambda region, y: region * np.float64(1e300), "not finite"),
    ],
)
def test_a_source_that_lies(change, reason):
    with pytest.raises(SourceError, match=rf"the lying source: {NAMED}: .*{reason}"):
        make(Lying(np.maximum(pixels(), 6), change)).read(2, 1, 5, 3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda region, y: region.astype(np.uint16) if y else region,
            "gave 3 channels of uint16; the first.* 3 of uint8",
        ),
        (lambda region, y: region[..., :1] if y else region, "gave 1 channels of uint8; the first.* 3 of uint8"),
        (lambda region, y: region if not y else region / 255, "gave 3 channels of float64"),
    ],
)
def test_a_source_that_changes(change, reason):
    reader = make(Lying(pixels(), change))
    assert torch.equal(reader.read(0, 0, 5, 3), make(pixels()).read(0, 0, 5, 3))
    with pytest.raises(SourceError, match=rf"{NAMED}: the source {reason}"):
        reader.read(2, 1, 5, 3)
    assert torch.equal(reader.read(0, 0, 5, 3), make(pixels()).read(0, 0, 5, 3))


def test_a_source_that_says_to_be_larger_than_it_is():
    reader = make(Lying(pixels(), lambda region, y: region, size=(40, 31)))
    assert reader.read(13, 0, 10, 31).shape == (1, 3, 10, 31)
    with pytest.raises(
        SourceError, match=r"rows 20\.\.30, columns 0\.\.31.*shape \(3, 31, 3\).*does it have that many"
    ):
        reader.read(20, 0, 10, 31)


class Flaky:
    """Fails so many times, then reads."""

    def __init__(self, failures, error=None):
        self.size, self.failures, self.error, self.calls = (
            (23, 31),
            failures,
            error or OSError("the network is away"),
            0,
        )

    def read_region(self, y, x, height, width):
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return pixels()[y : y + height, x : x + width]


def test_reading_is_tried_again_after_growing_pauses(pauses):
    assert torch.equal(make(Flaky(2)).read(2, 1, 5, 3), make(pixels()).read(2, 1, 5, 3))
    assert len(pauses) == 2 and 0 < pauses[0] < pauses[1] < 1
    assert torch.equal(make(Flaky(5), retries=5).read(2, 1, 5, 3), make(pixels()).read(2, 1, 5, 3))


@pytest.mark.parametrize(("retries", "times"), [(0, "once"), (2, "3 times")])
def test_reading_that_goes_on_failing(retries, times):
    source = Flaky(99)
    with pytest.raises(SourceError, match=rf"Flaky: {NAMED}: reading failed {times}: the network is away") as caught:
        make(source, retries=retries).read(2, 1, 5, 3)
    assert source.calls == retries + 1 and caught.value.__cause__ is source.error


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), SourceError("Flaky", "it knows")])
def test_what_no_retry_mends(error, pauses):
    with pytest.raises(type(error)):
        make(Flaky(1, error)).read(2, 1, 5, 3)
    assert not pauses


@pytest.mark.parametrize("region", [(-1, 0, 1, 1), (0, 0, 0, 1), (20, 0, 4, 1), (0, 31, 1, 1)])
def test_regions_outside(region):
    source = Flaky(0)
    with pytest.raises(ValueError, match=r"Flaky: rows .*within rows 0\.\.23, columns 0\.\.31") as caught:
        make(source).read(*region)
    assert not isinstance(caught.value, SourceError) and source.calls == 0


@pytest.mark.parametrize(
    "options",
    [{"channels": 0, "mean": (), "std": ()}, {"mean": (0.5,)}, {"std": STD[:2]}, {"std": (1, 0, 1)}, {"retries": -1}],
)
def test_bad_settings(options):
    with pytest.raises(ValueError, match="; allowed"):
        make(pixels(), **options)


def test_a_truncated_file_names_the_region(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    options = {"photometric": "rgb", "tile": (16, 16), "compression": "deflate"}
    tifffile.imwrite(tmp_path / "a.tif", pixels(64, 64), **options)
    data = (tmp_path / "a.tif").read_bytes()
    with open_source(tmp_path / "a.tif") as source:
        (tmp_path / "a.tif").write_bytes(data[: len(data) // 2])
        reader = make(source)
        assert torch.equal(reader.read(0, 0, 16, 64), make(pixels(64, 64)).read(0, 0, 16, 64))
        with pytest.raises(
            SourceError, match=r"a\.tif: rows 40\.\.64, columns 3\.\.64: reading failed 3 times: .*cut short"
        ):
            reader.read(40, 3, 24, 61)


def test_threads():
    array = pixels(64, 64)
    reader, plain = make(array), make(array)
    found = {}

    def work(seed):
        draw = np.random.default_rng(seed)
        for step in range(60):
            y, x = (int(place) for place in draw.integers(0, 50, 2))
            found[seed, step] = (y, x), reader.read(y, x, 14, 9)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 180
    assert all(torch.equal(values, plain.read(y, x, 14, 9)) for (y, x), values in found.values())


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.full((9, 9, 3), 899.5, np.float32), "values up to 899.5; floats are taken as they are"),
        (np.full((9, 9, 3), -9999, np.float64), "values up to 9999; floats"),
        (np.full((9, 9), 300, np.int16), "values up to 300; int16 is scaled by its type's maximum"),
        (np.full((9, 9), 70000, np.uint32), "values up to 70000; uint32"),
        (np.full((9, 9), 3, np.float32), None), (np.full((9, 9), 20000, np.int16), None),
        (np.zeros((9, 9), np.int16), None),
        (np.full((9, 9), 1, np.uint8), None), (np.full((9, 9), 30, np.uint16), None),
    ],
)  # fmt: skip
def test_values_that_no_model_is_given_are_said_once(monkeypatch, array, text):
    monkeypatch.setattr(said_once, "_said", set())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            reader = make(array)
            reader.read(0, 0, 5, 9)
            reader.read(4, 0, 5, 9)
    assert [text in str(each.message) for each in caught] == [True] * (text is not None)
