"""Every kind of TIFF that tifffile writes, held to the array that was written, in both ways of reading it."""

import itertools
import random
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anyres.data import said_once
from anyres.data.decode import convert_image, others_may_read, read_image, stored_size
from anyres.data.tiff.picture import as_picture
from anyres.data.tiff.pixels import upright
from anyres.data.tiff.source import TiffSource
from anyres.data.tiff.tags import read_tags
from anyres.errors import UnreadableImageError
from anyres.streaming.sources import open_source

tifffile = pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")

HEIGHT, WIDTH = 19, 21
KINDS = [
    *((np.uint8, bits) for bits in (1, 2, 3, 4, 5, 6, 7, 8)), *((np.uint16, bits) for bits in (9, 10, 12, 14, 15, 16)),
    *((np.uint32, bits) for bits in (17, 20, 24, 31, 32)), (np.int8, 8), (np.int16, 16), (np.int32, 32),
    (np.float16, 16), (np.float32, 32), (np.float64, 64), (np.uint64, 64), (np.int64, 64),
]  # fmt: skip
COLOURS = ("minisblack", "miniswhite", "rgb", "rgb in planes", "rgb with alpha", "palette")
CODINGS = [
    {}, {"compression": "zlib"}, {"compression": "zlib", "predictor": True}, {"compression": "lzw"},
    {"compression": "lzw", "predictor": True}, {"compression": "packbits"}, {"compression": "zstd"},
    {"compression": "zstd", "predictor": True}, {"compression": "lzma"},
]  # fmt: skip
LAYOUTS = [{}, {"rowsperstrip": 5}, {"tile": (16, 16)}, {"tile": (16, 32), "bigtiff": True}]


@dataclass(frozen=True)
class Kind:
    """A row of the table in docs/formats.md."""

    dtype: type
    bits: int
    colours: str

    @property
    def number(self):
        return np.dtype(self.dtype).kind

    @property
    def samples(self):
        return {"rgb": 3, "rgb in planes": 3, "rgb with alpha": 4}.get(self.colours, 1)

    @property
    def is_written(self):
        """Whether there are such files."""
        if self.colours == "palette":
            return self.number == "u" and self.bits in (8, 16)
        return self.bits % 8 == 0 or self.colours != "rgb with alpha"

    @property
    def is_spread(self):
        """Whether the bits say what the range of a picture is."""
        return self.number == "u" and self.bits < 32

    @property
    def picture(self):
        """What `read_image` does with it: in a word of the table."""
        if self.bits == 64 and self.number in "ui" or (self.colours == "rgb with alpha" and self.number == "i"):
            return "refused"
        if self.colours == "palette":
            return "the palette's colours"
        return "0 to 2^bits - 1" if self.is_spread else "its own range"

    @property
    def streamed(self):
        """What `open_source` gives."""
        if self.picture == "refused" or (self.colours == "miniswhite" and self.number in "if"):
            return "refused"
        if self.colours == "palette":
            return "uint8"
        return "the whole range of its type" if self.number == "u" else "as stored"

    def array(self, seed):
        draw = np.random.default_rng(seed)
        shape = (HEIGHT, WIDTH, self.samples) if self.samples > 1 else (HEIGHT, WIDTH)
        if self.number == "f":
            return (draw.uniform(size=shape) if self.samples == 4 else draw.normal(size=shape)).astype(self.dtype)
        least, greatest = (
            (0, 2**self.bits - 1) if self.number == "u" else (np.iinfo(self.dtype).min, np.iinfo(self.dtype).max)
        )
        array = draw.integers(least, greatest, shape, self.dtype, endpoint=True)
        array.flat[0], array.flat[-1] = least, greatest
        return array

    def layouts(self):
        """All ways to write it that tifffile knows."""
        codings = CODINGS if self.bits % 8 == 0 and self.bits != 24 else [{}]
        # tifffile itself writes samples wrong that it packs and swaps; see the test of 12 bits in big-endian files
        orders = "<>" if self.bits <= 8 or len(codings) > 1 else "<"
        for order, coding, layout in itertools.product(orders, codings, LAYOUTS):
            if "predictor" in coding and (self.colours == "palette" or (self.bits == 64 and self.number != "f")):
                continue
            yield {"byteorder": order, **coding, **layout}

    def write(self, path, array, options):
        more = {"photometric": self.colours.split()[0], "metadata": None, **options}
        if self.colours == "rgb in planes":
            array, more["planarconfig"] = np.moveaxis(array, -1, 0), "separate"
        elif self.samples > 1:
            more["planarconfig"] = "contig"
        if self.colours == "rgb with alpha":
            more["extrasamples"] = ["unassalpha"]
        if self.colours == "palette":
            more["colormap"] = palette(self.bits)
        if self.number == "u" and self.bits not in (8, 16, 32, 64):
            more["bitspersample"] = self.bits
        tifffile.imwrite(path, array, **more)


def palette(bits):
    return np.random.default_rng(7).integers(0, 256, (3, 2**bits), np.uint16) * 257


def shares(kind, array):
    """float64, 0 to 1: of the range that the picture has, (H, W, channels)."""
    values = array.astype(np.float64).reshape(HEIGHT, WIDTH, -1)
    if kind.colours == "palette":
        return (palette(kind.bits)[:, array] / 65535).transpose(1, 2, 0)
    top = 1 if kind.number == "f" else float(2**kind.bits - 1)
    if kind.colours == "miniswhite":
        values = -values if kind.number in "if" else top - values
    if kind.colours == "rgb with alpha":
        alpha = values[..., 3:] / top
        values = values[..., :3] * alpha + top * (1 - alpha)
    if kind.is_spread:
        return values / top
    return (values - values.min()) / (values.max() - values.min())


def tolerance(kind):
    """Of 255: none where the bits are a picture's own, a step where others are rounded, more where alpha is as well."""
    if kind.colours == "rgb with alpha":
        return 2.51
    return 0.01 if kind.is_spread and kind.bits in (1, 2, 4, 8) else 1.01


def check_picture(kind, array, path):
    if kind.picture == "refused":
        with pytest.raises(UnreadableImageError, match="not read"):
            read_image(path)
        return
    found = np.asarray(read_image(path, channels=3 if kind.samples > 1 or kind.colours == "palette" else 1))
    error = np.abs(found.reshape(HEIGHT, WIDTH, -1) - 255 * shares(kind, array)).max()
    assert error <= tolerance(kind)
    assert stored_size(path) == (HEIGHT, WIDTH)
    with TiffSource(path, as_picture=True) as source:  # whoever has read it, the other one sees the same
        other = np.asarray(as_picture(source).convert("RGB")).astype(int)
    assert np.abs(other - np.asarray(read_image(path))).max() <= (2 if kind.colours == "rgb with alpha" else 0)


def check_streamed(kind, array, path):
    if kind.streamed == "refused":
        with pytest.raises(UnreadableImageError, match="not read"):
            open_source(path)
        return
    with open_source(path) as source:
        found = source.read_region(0, 0, HEIGHT, WIDTH)
    if kind.number == "u":
        kinds = np.uint8 if kind.colours == "palette" else kind.dtype
        top = float(np.iinfo(kinds).max)
        expected = shares(kind, array)
        if not kind.is_spread and kind.colours != "palette":  # 32 bits: of their type's range, not of their own
            expected = shares(Kind(np.uint32, 31, kind.colours), array / (2.0**32 - 1) * (2.0**31 - 1))
        assert (
            found.dtype == kinds and np.abs(found / top - expected).max() <= (2 if kind.samples == 4 else 1.001) / top
        )
    elif kind.colours == "rgb with alpha":
        colour, alpha = array[..., :3].astype(np.float64), array[..., 3:].astype(np.float64)
        assert np.abs(found - (colour * alpha + 1 - alpha)).max() < 2e-3
    else:
        assert found.dtype == kind.dtype and np.array_equal(found, array.reshape(found.shape))


def check(kind, options, path, seed, monkeypatch):
    array = kind.array(seed)
    kind.write(path, array, options)
    check_picture(kind, array, path)
    check_streamed(kind, array, path)
    without_the_extra(kind, array, path, monkeypatch)


def without_the_extra(kind, array, path, monkeypatch):
    """The same picture, or the extra's name; which one, the tags have decided."""
    with monkeypatch.context() as patch:
        patch.setattr("anyres.data.tiff.picture.importlib.util.find_spec", lambda name: None)
        patch.setitem(sys.modules, "tifffile", None)
        if read_tags(path).is_read_by_pillow:
            read_image(path)
        else:
            with pytest.raises(UnreadableImageError, match=r"tifffile: pip install \"anyres\[huge-images\]\""):
                read_image(path)


ROWS = [kind for number, colours in itertools.product(KINDS, COLOURS) if (kind := Kind(*number, colours)).is_written]
ALL = [(kind, options) for kind in ROWS for options in kind.layouts()]
SOME = random.Random(0).sample(ALL, 300) + [(kind, next(kind.layouts())) for kind in ROWS]


def test_a_sample_of_all_kinds(tmp_path, monkeypatch):
    for seed, (kind, options) in enumerate(SOME):
        try:
            check(kind, options, tmp_path / "a.tif", seed, monkeypatch)
        except BaseException as error:
            raise AssertionError(f"{kind} {options}") from error


@pytest.mark.slow
@pytest.mark.parametrize("number", KINDS, ids=lambda number: f"{np.dtype(number[0]).name} {number[1]}")
def test_all_kinds(tmp_path, monkeypatch, number):
    for seed, (kind, options) in enumerate(ALL):
        if (kind.dtype, kind.bits) == number:
            try:
                check(kind, options, tmp_path / "a.tif", seed, monkeypatch)
            except BaseException as error:
                raise AssertionError(f"{kind} {options}") from error


@pytest.fixture
def nothing_said(monkeypatch):
    monkeypatch.setattr(said_once, "_said", set())


def said(function, *arguments):
    """The texts of the warnings that a call gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function(*arguments)
    return [str(each.message) for each in caught]


def rewrite_tag(path, tag, value):
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags[tag].overwrite(value)


def opened(path):
    with open_source(path) as source:
        source.read_region(0, 0, 1, 1)


@pytest.mark.parametrize("function", [read_image, opened])
@pytest.mark.parametrize("kind", [np.uint8, np.float64])
def test_further_pages_are_said_once(tmp_path, nothing_said, function, kind):
    stack = np.arange(3 * 20 * 30).reshape(3, 20, 30).astype(kind)
    for name in ("a.tif", "b.tif"):
        tifffile.imwrite(tmp_path / name, stack, photometric="minisblack", metadata=None)
    texts = said(function, tmp_path / "a.tif") + said(function, tmp_path / "b.tif")
    assert len(texts) == 1 and "a.tif: of several pages or frames only the first is taken" in texts[0]


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_further_frames_are_said_once(tmp_path, nothing_said, suffix):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    texts = said(read_image, tmp_path / f"a.{suffix}") + said(read_image, tmp_path / f"a.{suffix}")
    assert len(texts) == 1 and "only the first is taken" in texts[0]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_smaller_copies_and_masks_are_no_further_pages(tmp_path, nothing_said, kind):
    array = np.zeros((64, 64), kind)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(array, tile=(16, 16), subifds=1, photometric="minisblack", metadata=None)
        file.write(array[::2, ::2], subfiletype=1, photometric="minisblack", metadata=None)
    with tifffile.TiffWriter(tmp_path / "b.tif") as file:
        file.write(array, photometric="minisblack", metadata=None)
        file.write(array[::2, ::2], subfiletype=1, photometric="minisblack", metadata=None)
    for name, function in itertools.product(("a.tif", "b.tif"), (read_image, opened)):
        assert said(function, tmp_path / name) == []


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [4, 5])
def test_colours_with_further_channels_are_taken_and_said_once(tmp_path, nothing_said, kind, channels):
    array = np.random.default_rng(0).integers(0, 255, (20, 30, channels)).astype(kind)
    extra = {"extrasamples": [0] * (channels - 3)}
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", planarconfig="contig", metadata=None, **extra)
    tifffile.imwrite(tmp_path / "b.tif", array[..., :3], photometric="rgb", metadata=None)
    texts = said(read_image, tmp_path / "a.tif") + said(read_image, tmp_path / "a.tif")
    assert len(texts) == 1 and "a.tif: of several channels only red, green and blue are taken" in texts[0]
    assert np.array_equal(read_image(tmp_path / "a.tif"), read_image(tmp_path / "b.tif"))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("alpha", ["assocalpha", "unassalpha"])
def test_every_alpha_is_laid_on_white(tmp_path, kind, channels, alpha):
    top = 1 if kind is np.float32 else np.iinfo(kind).max
    shares = np.random.default_rng(0).uniform(size=(20, 30, channels + 1))
    shares[0, 0], shares[0, 1] = 1, [0] * channels + [1]  # white and black, so that the range is the whole one
    stored = shares.copy()
    if alpha == "assocalpha":
        stored[..., :-1] *= stored[..., -1:]
    stored = (stored * top).round().astype(kind) if top > 1 else stored.astype(kind)
    options = {"photometric": "rgb" if channels == 3 else "minisblack", "planarconfig": "contig", "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", stored, extrasamples=[alpha], **options)
    expected = 255 * (shares[..., :-1] * shares[..., -1:] + 1 - shares[..., -1:])
    found = np.asarray(read_image(tmp_path / "a.tif", channels=channels)).reshape(expected.shape)
    assert np.abs(found - expected).max() <= 3  # Pillow's 16 bits: cut to 8, divided by the alpha, and laid on white


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_palettes_of_few_colours(tmp_path, bits):
    """Which tifffile does not write by itself."""
    array = np.random.default_rng(0).integers(0, 2**bits, (HEIGHT, WIDTH), np.uint8)
    table = palette(bits)
    options = {"bitspersample": bits, "extratags": [(320, "H", table.size, table.ravel().tolist(), True)]}  # ColorMap
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack", metadata=None, **options)
    rewrite_tag(tmp_path / "a.tif", 262, 3)  # PhotometricInterpretation
    expected = (table[:, array] >> 8).transpose(1, 2, 0)
    assert np.array_equal(read_image(tmp_path / "a.tif"), expected)
    with open_source(tmp_path / "a.tif") as source:
        assert np.array_equal(source.read_region(0, 0, HEIGHT, WIDTH), expected)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_three_grey_channels_are_colours_and_others_are_refused(tmp_path, kind):
    array = np.random.default_rng(0).integers(0, 255, (20, 30, 5)).astype(kind)
    options = {"photometric": "minisblack", "planarconfig": "contig", "metadata": None}
    for channels in (2, 4, 5):
        tifffile.imwrite(tmp_path / "a.tif", array[..., :channels], **options)
        with pytest.raises(UnreadableImageError, match=rf"a\.tif: {channels} channels; allowed in a picture: 1, and 3"):
            read_image(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "a.tif", array[..., :3], **options)
    tifffile.imwrite(tmp_path / "b.tif", array[..., :3], photometric="rgb", metadata=None)
    assert np.array_equal(read_image(tmp_path / "a.tif"), read_image(tmp_path / "b.tif"))


@pytest.mark.parametrize(
    ("array", "options", "reason"),
    [
        (np.zeros((20, 30, 4), np.uint16), {"photometric": "separated", "planarconfig": "contig"}, None),
        (np.zeros((20, 30, 4), np.float32), {"photometric": "separated", "planarconfig": "contig"}, "SEPARATED"),
        (np.zeros((20, 30, 3), np.uint8), {"photometric": "cielab"}, "CIELAB"),
        (np.zeros((20, 30), np.uint16), {"photometric": "cfa"}, "CFA"),
        (np.zeros((20, 30), np.complex64), {"photometric": "minisblack"}, "complex64"),
        (np.zeros((20, 30), np.int64), {"photometric": "minisblack"}, "int64, 64 bits, are not read"),
        (np.zeros((20, 30, 3), np.uint8), {"photometric": "ycbcr"}, None),
        (np.zeros((20, 30, 3), np.uint8), {"photometric": "ycbcr", "subsampling": (2, 2)}, "YCBCR"),
    ],
)  # fmt: skip
def test_intact_files_of_other_kinds_are_called_what_they_are(tmp_path, array, options, reason):
    subsampling = options.pop("subsampling", None)
    tifffile.imwrite(tmp_path / "a.tif", array, metadata=None, **options)
    if subsampling is not None:  # which tifffile does not write, but other programs do
        rewrite_tag(tmp_path / "a.tif", 530, subsampling)
    if reason is None:
        assert read_image(tmp_path / "a.tif").size == (30, 20)
        return
    for function in (read_image, stored_size):
        with pytest.raises(UnreadableImageError, match=reason) as caught:
            function(tmp_path / "a.tif")
        assert "cut off" not in str(caught.value)


def test_an_image_that_pillow_opened_wrong_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((20, 30), np.uint16), photometric="miniswhite", metadata=None)
    with (
        Image.open(tmp_path / "a.tif") as image,
        pytest.raises(UnreadableImageError, match="does not read 16 bits, unsigned, MINISWHITE.* right; allowed: the"),
    ):
        convert_image(image, "input 0", max_pixels=10**6, channels=3)


@pytest.mark.parametrize("compression", [None, "group3", "group4", "tiff_ccitt", "packbits", "tiff_lzw", "jpeg"])
@pytest.mark.parametrize("mode", ["1", "L", "RGB", "CMYK"])
def test_what_pillow_writes(tmp_path, mode, compression):
    """Fax, JPEG and CMYK, which tifffile writes otherwise or not at all."""
    ramp = np.linspace(0, 255, HEIGHT * WIDTH * 3).reshape(HEIGHT, WIDTH, 3).astype(np.uint8)
    picture = Image.fromarray(ramp).convert(mode)
    is_fax = compression in ("group3", "group4", "tiff_ccitt")
    if is_fax != (mode == "1") and (is_fax or compression == "jpeg"):
        pytest.skip("there is no such file")
    picture.save(tmp_path / "a.tif", compression=compression)
    expected = np.asarray(picture.convert("RGB")).astype(int)
    assert np.abs(np.asarray(read_image(tmp_path / "a.tif")) - expected).max() <= (12 if compression == "jpeg" else 0)
    if mode != "CMYK":
        with TiffSource(tmp_path / "a.tif", as_picture=True) as source:
            found = np.asarray(as_picture(source).convert("RGB"))
        assert np.abs(found - np.asarray(read_image(tmp_path / "a.tif")).astype(int)).max() <= 1


def test_12_bits_in_a_big_endian_file(tmp_path):
    """TIFF 6.0: samples follow each other bit by bit, the highest first, whatever the order of bytes."""
    array = np.random.default_rng(0).integers(0, 4096, (9, 12), np.uint16)
    digits = (array[..., None] >> np.arange(11, -1, -1)) & 1
    packed = np.packbits(digits.reshape(9, -1).astype(np.uint8), axis=1)
    tifffile.imwrite(tmp_path / "a.tif", packed, byteorder=">", photometric="minisblack", metadata=None)
    for tag in (256, 258):  # ImageWidth, BitsPerSample
        rewrite_tag(tmp_path / "a.tif", tag, 12)
    kind = Kind(np.uint16, 12, "minisblack")
    found = np.asarray(read_image(tmp_path / "a.tif", channels=1))
    assert np.abs(found - array / 4095 * 255).max() <= tolerance(kind)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("options", [{}, {"rowsperstrip": 2}, {"compression": "zlib"}], ids=str)
def test_every_way_is_turned_upright(tmp_path, orientation, options):
    """Pillow maps a file that is not compressed as if it were upright already, unless it is kept from it."""
    tags = [(274, "H", 1, orientation, True)]
    kinds = [
        (np.uint8, 8, "minisblack"), (np.uint16, 16, "minisblack"), (np.uint16, 16, "miniswhite"),
        (np.uint8, 8, "palette"), (np.uint8, 8, "rgb with alpha"), (np.float32, 32, "rgb"),
    ]  # fmt: skip
    for kind in itertools.starmap(Kind, kinds):
        array = kind.array(orientation)
        kind.write(tmp_path / "a.tif", array, {})
        kind.write(tmp_path / "b.tif", array, {"extratags": tags, **options})
        assert stored_size(tmp_path / "b.tif") == (HEIGHT, WIDTH)
        expected = upright(np.asarray(read_image(tmp_path / "a.tif")), orientation)
        assert np.array_equal(read_image(tmp_path / "b.tif"), expected)
        with TiffSource(tmp_path / "b.tif", as_picture=True) as source:
            difference = np.asarray(as_picture(source).convert("RGB")).astype(int) - expected
        assert np.abs(difference).max() <= (2 if kind.samples == 4 else 0)


def test_too_large_is_refused_before_decoding(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((20, 30), np.float64), photometric="minisblack", metadata=None)
    for function in (read_image, stored_size):
        with pytest.raises(UnreadableImageError, match=r"a\.tif: 20x30 pixels are 600; allowed: 599"):
            function(tmp_path / "a.tif", max_pixels=599)


@pytest.mark.parametrize("kind", [np.uint8, np.float64])
def test_what_is_too_large_to_be_decoded_is_left_to_streaming(tmp_path, kind):
    """Whoever reads the kind: Pillow or tifffile."""
    side, tile = 13_824, 1536  # more pixels than Pillow's limit, in tiles that are all left out
    tiles = iter([b""] * (side // tile) ** 2)
    options = {"shape": (side, side), "dtype": kind, "tile": (tile, tile), "photometric": "minisblack"}
    tifffile.imwrite(tmp_path / "a.tif", tiles, metadata=None, **options)
    for function in (read_image, stored_size):
        with pytest.raises(UnreadableImageError, match=r"a\.tif.*allowed: 178956970") as caught:
            function(tmp_path / "a.tif")
        assert others_may_read(tmp_path / "a.tif", caught.value)
    with open_source(tmp_path / "a.tif") as source:
        assert source.size == (side, side) and source.read_region(side - 1, side - 1, 1, 1).max() == 0


def test_a_file_cut_short(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((20, 30), np.float64), photometric="minisblack", metadata=None)
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:-100])
    with pytest.raises(UnreadableImageError, match=r"a\.tif: rows .*cut short"):
        read_image(tmp_path / "a.tif")


def needs_the_extra(kind, folder):
    """In a word of the table; other layouts than these change nothing."""
    if kind.picture == "refused":
        return ""
    needed = []
    for order, compression in itertools.product(
        "<>", (None, "zlib") if kind.bits % 8 == 0 and kind.bits != 24 else (None,)
    ):
        kind.write(folder / "a.tif", kind.array(0), {"byteorder": order, "compression": compression})
        needed.append(not read_tags(folder / "a.tif").is_read_by_pillow)
    if needed == [False, False, False, True]:
        return "big-endian and compressed"
    assert len({*needed}) == 1
    return "yes" if needed[0] else "no"


def table(folder):
    """The rows of docs/formats.md: kinds that are treated alike side by side."""
    rows = {}
    for kind in ROWS:
        treated = (kind.colours, kind.picture, kind.streamed, needs_the_extra(kind, folder))
        name = np.dtype(kind.dtype).name
        rows.setdefault(treated, {}).setdefault(name, []).append(kind.bits)
    for (colours, *treated), kinds in sorted(rows.items(), key=lambda row: COLOURS.index(row[0][0])):
        samples = ", ".join(
            name if name.endswith(f"t{bits[0]}") and len(bits) == 1 else f"{name} ({', '.join(map(str, bits))} bits)"
            for name, bits in kinds.items()
        )
        yield f"| {colours} | {samples} | {' | '.join(treated)} |"


def test_the_table_of_the_documentation(tmp_path):
    text = Path(__file__).parents[2].joinpath("docs/formats.md").read_text(encoding="utf-8")
    expected = list(table(tmp_path))
    found = [line for line in text.splitlines() if line.split(" | ")[0].removeprefix("| ") in COLOURS]
    assert found == expected, "\n".join(expected)
