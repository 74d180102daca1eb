import contextlib
import threading
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from anyres.data.decode import read_image
from anyres.data.tiff.pixels import full_range, on_white
from anyres.data.tiff.segments import SegmentCache
from anyres.errors import SourceError, UnreadableImageError
from anyres.streaming.sources import open_source

tifffile = pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")


def pixels(height=131, width=97, channels=3, dtype=np.uint8, seed=0):
    draw = np.random.default_rng(seed)
    shape = (height, width, channels) if channels > 1 else (height, width)
    if np.dtype(dtype).kind == "f":
        return draw.normal(size=shape).astype(dtype)
    limits = np.iinfo(dtype)
    return draw.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def regions(height, width, count=25, seed=1):
    """Random ones, and corners, single pixels, a row, a column and the whole."""
    draw = np.random.default_rng(seed)
    yield from [
        (0, 0, height, width),
        (height - 1, width - 1, 1, 1),
        (height - 1, 0, 1, width),
        (0, width - 1, height, 1),
    ]
    for _ in range(count):
        y, x = int(draw.integers(height)), int(draw.integers(width))
        yield y, x, int(draw.integers(1, height - y + 1)), int(draw.integers(1, width - x + 1))


def check(source, expected):
    """Every region equals that of the array, and nothing else is read than what the array has."""
    expected = expected if expected.ndim == 3 else expected[..., None]
    assert source.size == expected.shape[:2]
    for y, x, height, width in regions(*source.size):
        found = source.read_region(y, x, height, width)
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected[y : y + height, x : x + width])


@pytest.mark.parametrize(
    "options",
    [
        {"tile": (16, 16)}, {"tile": (32, 64), "compression": "zlib", "predictor": True}, {"rowsperstrip": 7},
        {"tile": (48, 16), "compression": "lzw"}, {"rowsperstrip": 10, "compression": "deflate"}, {},
        {"tile": (16, 32), "bigtiff": True, "byteorder": ">", "compression": "zstd"}, {"byteorder": ">"},
        {"compression": "lzma", "rowsperstrip": 1}, {"planarconfig": "separate"}, {"bigtiff": True},
        {"planarconfig": "separate", "tile": (16, 16), "compression": "zlib"}, {"tile": (256, 256)},
        {"tile": (16, 16), "compression": "packbits"},
        {"tile": (32, 32), "compression": "jpeg2000", "compressionargs": {"reversible": True}},
    ],
    ids=str,
)  # fmt: skip
def test_layouts(tmp_path, options):
    array = pixels()
    planar = options.get("planarconfig") == "separate"
    stored = np.moveaxis(array, -1, 0) if planar else array
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", **options)
    with open_source(tmp_path / "a.tif") as source:
        check(source, array)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_types_and_channels_are_left_as_they_are(tmp_path, dtype, channels):
    array = pixels(37, 53, channels, dtype)
    options = {"photometric": "minisblack", "tile": (16, 16), "compression": "zlib", "byteorder": ">"}
    if channels > 1:
        options["planarconfig"] = "contig"
    tifffile.imwrite(tmp_path / "a.tif", array, **options)
    with open_source(tmp_path / "a.tif") as source:
        check(source, array)


def test_jpeg_as_pillow_reads_it(tmp_path):
    """YCbCr with subsampling in tiles at the edges; RGB in strips with shared tables."""
    ramp = np.linspace(0, 255, 150 * 100 * 3).reshape(150, 100, 3).astype(np.uint8)
    options = {"photometric": "rgb", "subsampling": (2, 2), "tile": (32, 48), "compression": "jpeg"}
    tifffile.imwrite(tmp_path / "a.tif", ramp, compressionargs={"level": 95}, **options)
    Image.fromarray(ramp).save(tmp_path / "b.tif", compression="jpeg")  # tables of their own tag
    for path in (tmp_path / "a.tif", tmp_path / "b.tif"):
        with open_source(path) as source:
            check(source, np.asarray(Image.open(path)))
            assert np.abs(source.read_region(0, 0, 150, 100).astype(int) - ramp).mean() < 3


@pytest.mark.parametrize("nested", [True, False])
def test_levels_of_a_pyramid(tmp_path, nested):
    levels = [pixels(200 // step, 120 // step, seed=step) for step in (1, 2, 4)]
    with tifffile.TiffWriter(tmp_path / "a.tif", bigtiff=True) as file:
        options = {"tile": (32, 32), "photometric": "rgb", "compression": "zlib"}
        file.write(levels[0], subifds=2 if nested else 0, **options)
        for level in levels[1:]:
            file.write(level, subfiletype=1, **options)
    for index, level in enumerate(levels):
        with open_source(tmp_path / "a.tif", level=index) as source:
            check(source, level)
    for bad in (3, -1):
        with pytest.raises(ValueError, match=r"a\.tif: level is .*0 \(200x120\), 1 \(100x60\), 2 \(50x30\)"):
            open_source(tmp_path / "a.tif", level=bad)


def test_the_first_page(tmp_path):
    first, second = pixels(20, 30), pixels(41, 33)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(first, photometric="rgb")
        file.write(second, photometric="rgb")
    with open_source(tmp_path / "a.tif") as source:
        check(source, first)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("tiled", [True, False])
def test_orientation_as_read_image(tmp_path, orientation, tiled):
    options = {"tile": (16, 16), "compression": "zlib"} if tiled else {}
    tags = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", pixels(37, 53), photometric="rgb", extratags=tags, **options)
    with open_source(tmp_path / "a.tif") as source:
        check(source, np.asarray(read_image(tmp_path / "a.tif")))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_colours_as_read_image(tmp_path, mode):
    picture = Image.fromarray(pixels(37, 53, 4), "RGBA")
    picture = picture.convert(mode) if mode != "P" else picture.convert("RGB").quantize(50)
    picture.save(tmp_path / "a.tif", compression="tiff_lzw")
    expected = np.asarray(read_image(tmp_path / "a.tif"))
    with open_source(tmp_path / "a.tif") as source:
        found = source.read_region(0, 0, 37, 53)
    assert found.shape[2] == (1 if mode in ("1", "L", "LA") else 3) and found.dtype == np.uint8
    assert np.abs(found.astype(int) - expected).max() <= (1 if mode == "LA" else 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_where_zero_is_white(tmp_path, dtype):
    array = pixels(23, 37, 1, dtype)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="miniswhite")
    with open_source(tmp_path / "a.tif") as source:
        check(source, np.iinfo(dtype).max - array)


def test_fewer_bits_than_their_type(tmp_path):
    array = pixels(20, 32, 1, np.uint16) >> 4
    array[0, :2] = 0, 4095
    tifffile.imwrite(tmp_path / "a.tif", array, bitspersample=12, photometric="minisblack", rowsperstrip=3)
    with open_source(tmp_path / "a.tif") as source:
        check(source, (array.astype(np.float64) * 65535 / 4095).astype(np.uint16))
    for bits in (1, 2, 4, 7):
        top = 2**bits - 1
        assert full_range(np.array([0, top], np.uint8), bits).tolist() == [0, 255]
    assert full_range(np.array([False, True]), 1).tolist() == [0, 255]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.float64])
def test_alpha_on_white(dtype):
    """Against the formula in floats, with every alpha."""
    top = 1 if dtype is np.float64 else int(np.iinfo(dtype).max)
    draw = np.random.default_rng(0).random((40, 40, 2))
    draw[0, 0, 1], draw[0, 1, 1], draw[0, 2] = 0, 1, 1
    array = draw if dtype is np.float64 else np.rint(draw * top).astype(dtype)
    colour, alpha = (array[..., index : index + 1].astype(np.float64) / top for index in range(2))
    error = np.abs(on_white(array) / top - (colour * alpha + 1 - alpha)).max()
    assert error <= (1e-12 if dtype is np.float64 else 0.501 / top)
    array[..., 0] = np.minimum(array[..., 0], array[..., 1])  # premultiplied: no colour above its alpha
    colour = array[..., :1].astype(np.float64) / top
    assert np.abs(on_white(array, premultiplied=True) / top - (colour + 1 - alpha)).max() <= 1e-9
    array[..., 1] = top
    assert np.array_equal(on_white(array), array[..., :1])


@pytest.mark.parametrize(("kind", "laid"), [("unassalpha", True), ("assocalpha", True), ("unspecified", False)])
def test_a_fourth_sample_is_alpha_where_the_file_says_so(tmp_path, kind, laid):
    array = pixels(20, 30, 4)
    array[..., :3] = np.minimum(array[..., :3], array[..., 3:])
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", extrasamples=[kind])
    with open_source(tmp_path / "a.tif") as source:
        check(source, on_white(array, premultiplied=kind == "assocalpha") if laid else array)


@pytest.mark.parametrize("nodata", ["7", "0", "nan", None])
def test_tiles_that_are_left_out_are_the_background(tmp_path, nodata):
    tags = [] if nodata is None else [(42113, "s", 0, nodata, True)]  # GDAL_NODATA
    tiles = iter([b"\1" * 256, b"", b"\3" * 256, b"\4" * 256])
    options = {"shape": (32, 32), "dtype": np.uint8, "tile": (16, 16), "photometric": "minisblack"}
    tifffile.imwrite(tmp_path / "a.tif", tiles, extratags=tags, **options)
    expected = np.kron(np.array([[1, 0], [3, 4]], np.uint8), np.ones((16, 16), np.uint8))
    with open_source(tmp_path / "a.tif") as source:
        check(source, expected)


@pytest.mark.parametrize(
    ("array", "options", "reason"),
    [
        (pixels(20, 30, 4), {"photometric": "separated"}, "SEPARATED"),
        (pixels(20, 30, 3), {"photometric": "cielab"}, "CIELAB"),
        (np.zeros((20, 30), np.complex64), {"photometric": "minisblack"}, "complex"),
        (np.zeros((20, 30), np.uint64), {"photometric": "minisblack"}, "uint64"),
        (np.zeros((3, 20, 30), np.uint8), {"metadata": {"axes": "CYX"}, "photometric": "minisblack"}, "several pages"),
        (np.zeros((16, 32, 32), np.uint8), {"tile": (16, 16, 16), "volumetric": True}, "16x32x32"),
    ],
)  # fmt: skip
def test_what_is_refused_by_name(tmp_path, array, options, reason):
    tifffile.imwrite(tmp_path / "a.tif", array, ome=False, **options)
    with pytest.raises(UnreadableImageError, match=rf"a\.tif.*{reason}"):
        open_source(tmp_path / "a.tif")


def rewrite_tag(path, tag, value):
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags[tag].overwrite(value)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ((256, 257, 322, 323), r"a segment of 999999984x999999984 pixels is \d+ bytes.*1073741824$"),
        ((256, 257), "999999984x999999984 pixels need 3906249875000001 segments, the header lists 1$"),
        ((322, 323), r"a segment of 999999984x999999984 pixels is \d+ bytes.*1073741824$"),
    ],
)
def test_absurd_headers_do_not_allocate(tmp_path, tags, reason):
    """The sides of the image (256, 257), of its tiles (322, 323), or both."""
    tifffile.imwrite(tmp_path / "a.tif", pixels(16, 16), photometric="rgb", tile=(16, 16), compression="zlib")
    for tag in tags:
        rewrite_tag(tmp_path / "a.tif", tag, 999_999_984)
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableImageError, match=rf"a\.tif: .*TIFF: {reason}"):
            open_source(tmp_path / "a.tif")
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("tag", "name"), [(259, "COMPRESSION"), (317, "PREDICTOR")])
def test_encodings_that_nobody_knows_are_refused_on_opening(tmp_path, tag, name):
    tifffile.imwrite(tmp_path / "a.tif", pixels(16, 16), photometric="rgb", compression="zlib", predictor=True)
    rewrite_tag(tmp_path / "a.tif", tag, 62_465)
    with pytest.raises(UnreadableImageError, match=rf"a\.tif.*62465 is not a known {name}"):
        open_source(tmp_path / "a.tif")


def test_tiles_without_rows(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", pixels(16, 16), photometric="rgb", tile=(16, 16), compression="zlib")
    rewrite_tag(tmp_path / "a.tif", 323, 0)
    with pytest.raises(UnreadableImageError, match=r"a\.tif"):
        open_source(tmp_path / "a.tif")


def test_a_tile_with_a_size_of_its_own(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", pixels(64, 64), photometric="rgb", tile=(64, 64), compression="jpeg")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    frame = data.index(b"\xff\xc0")  # start of frame: its length, bits, height and width follow
    data[frame + 5 : frame + 9] = b"\xff\xf0\xff\xf0"
    (tmp_path / "a.tif").write_bytes(data)
    with open_source(tmp_path / "a.tif") as source, pytest.raises(OSError, match="larger than stated"):
        source.read_region(0, 0, 64, 64)
    data[frame + 5 : frame + 9] = b"\x10\x00\x10\x00"
    (tmp_path / "a.tif").write_bytes(data)
    with open_source(tmp_path / "a.tif") as source, pytest.raises(OSError, match=r"states 16777216 pixels"):
        source.read_region(0, 0, 64, 64)


@pytest.mark.parametrize(
    "options", [{}, {"tile": (16, 16)}, {"tile": (16, 16), "compression": "zlib"}, {"rowsperstrip": 16}]
)
def test_a_file_cut_short(tmp_path, options):
    """The first missing part is named when the file is opened; if that happens later, reading fails."""
    array = pixels(64, 48)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", **options)
    data = (tmp_path / "a.tif").read_bytes()
    with open_source(tmp_path / "a.tif") as source:
        (tmp_path / "a.tif").write_bytes(data[: len(data) * 2 // 3])  # the same file, not another in its place
        with pytest.raises(OSError, match="cut short"):
            source.read_region(0, 0, 64, 48)
    where = r"rows 0\.\.64, columns 0\.\.48" if not options else r"rows (32|48)\.\.\d+, columns \d+\.\.\d+"
    with pytest.raises(SourceError, match=rf"a\.tif: {where}.*cut short at byte {len(data) * 2 // 3}"):
        open_source(tmp_path / "a.tif")


@pytest.mark.parametrize(
    "options", [{}, {"tile": (16, 16), "compression": "jpeg"}, {"tile": (16, 16), "compression": "lzw"}]
)
def test_damaged_files_give_pixels_or_an_error(tmp_path, options):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels(40, 40), photometric="rgb", **options)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    refused = 0
    for seed in range(80):
        draw = np.random.default_rng(seed)
        damaged = whole.copy()
        damaged[draw.integers(8, 300 if seed % 2 else len(whole), 3)] = draw.integers(0, 256, 3, np.uint8)
        path.write_bytes(damaged.tobytes())
        try:
            source = open_source(path)
        except (UnreadableImageError, SourceError):
            refused += 1
            continue
        with source, contextlib.suppress(Exception):  # the reader's to name
            height, width = source.size
            region = source.read_region(0, 0, min(height, 50), min(width, 50))
            assert region.shape[:2] == (min(height, 50), min(width, 50))
    assert refused


def test_the_cache_keeps_within_its_bytes_and_forgets_the_oldest():
    cache = SegmentCache(1000)
    parts = [np.full(300, index, np.uint8) for index in range(4)]
    for index in range(3):
        cache.put(index, parts[index])
    assert cache.get(0) is parts[0]  # used, so 1 is now the oldest
    cache.put(3, parts[3])
    cache.put(3, parts[3])
    assert (cache.get(1), cache.bytes) == (None, 900)
    assert all(cache.get(index) is parts[index] for index in (0, 2, 3))
    cache.put(4, np.zeros(5000, np.uint8))  # alone larger than the limit: kept until the next
    assert cache.bytes == 5000 and cache.get(0) is None
    cache.put(5, parts[0])
    assert (cache.bytes, cache.get(4)) == (300, None)


def test_neighbours_share_decoded_tiles(tmp_path, monkeypatch):
    array = pixels(64, 64)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", tile=(16, 16), compression="zlib")
    loads = []
    with open_source(tmp_path / "a.tif") as source:
        load = source._load
        monkeypatch.setattr(source, "_load", lambda *place: loads.append(place) or load(*place))
        source.read_region(0, 0, 1, 1)
        assert len(loads) == 1  # only what the region touches
        for y in range(0, 64, 5):
            source.read_region(y, 0, min(5, 64 - y), 64)
        assert len(loads) == 16 and source._cache.bytes == array.nbytes
    with open_source(tmp_path / "a.tif", cache_bytes=3 * 16 * 16 * 3) as source:
        check(source, array)
        assert source._cache.bytes <= 3 * 16 * 16 * 3


@pytest.mark.parametrize("compression", ["zlib", None])
def test_threads(tmp_path, compression):
    array = pixels(128, 128)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", tile=(16, 16), compression=compression)
    failures = []

    def work(seed, source):
        try:
            for y, x, height, width in regions(128, 128, 150, seed):
                assert np.array_equal(source.read_region(y, x, height, width), array[y : y + height, x : x + width])
        except BaseException as error:
            failures.append(error)

    with open_source(tmp_path / "a.tif", cache_bytes=4000) as source:  # so small that tiles are read again and again
        threads = [threading.Thread(target=work, args=(seed, source)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures
