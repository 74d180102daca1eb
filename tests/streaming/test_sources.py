import importlib

import numpy as np
import pytest
from PIL import Image

from anyres.data.decode import read_image
from anyres.errors import UnreadableImageError
from anyres.streaming import sources
from anyres.streaming.sources import Source, open_source


def pixels(height=53, width=37, channels=3, dtype=np.uint8):
    shape = (height, width, channels) if channels else (height, width)
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def check(source, expected):
    assert source.size == expected.shape[:2]
    height, width = source.size
    whole = source.read_region(0, 0, height, width)
    assert whole.dtype == expected.dtype and np.array_equal(whole, expected)
    for y, x, rows, cols in [(0, 0, 1, 1), (height - 1, width - 1, 1, 1), (3, 5, 11, 2), (height - 4, 1, 4, width - 1)]:
        assert np.array_equal(source.read_region(y, x, rows, cols), expected[y : y + rows, x : x + cols])


class Given:
    """A source of the caller's own making."""

    def __init__(self, array, size=None):
        self.size = size or array.shape[:2]
        self.array = array

    def read_region(self, y, x, height, width):
        return self.array[y : y + height, x : x + width]


@pytest.mark.parametrize("channels", [0, 1, 3, 7])
@pytest.mark.parametrize("dtype", [np.uint8, ">u2", np.float32])
def test_arrays_and_objects(tmp_path, channels, dtype):
    array = pixels(channels=channels).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    np.asfortranarray(array).tofile(tmp_path / "a.raw")
    mapped = np.memmap(tmp_path / "b.raw", dtype, "w+", shape=array.shape)
    mapped[...] = array
    for given in (array, mapped, mapped[::-1, ::2], tmp_path / "a.npy", str(tmp_path / "a.npy"), Given(array)):
        with open_source(given) as source:
            check(source, np.asarray(given) if isinstance(given, np.ndarray) else array)
            assert isinstance(source, Source) and open_source(source) is source


def test_npy_files_are_mapped_and_known_by_their_content(tmp_path):
    np.save(tmp_path / "a.npy", pixels())
    (tmp_path / "a.npy").rename(tmp_path / "a.png")
    with open_source(tmp_path / "a.png") as source:
        check(source, pixels())
        np.load(tmp_path / "a.png", mmap_mode="r+")[0, 0] = 7
        assert source.read_region(0, 0, 1, 1).tolist() == [[[7, 7, 7]]]


def test_a_mapped_file_that_becomes_shorter_is_an_error_and_not_a_crash(tmp_path):
    """Touching a page that the file has lost would kill the process."""
    np.save(tmp_path / "a.npy", pixels(600, 400))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    with open_source(tmp_path / "a.npy") as source, open_source(mapped[3:]) as view:
        with open(tmp_path / "a.npy", "r+b") as file:
            file.truncate(5000)
        for reader in (source, view):
            with pytest.raises(OSError, match="cut short: 5000 of 720128 bytes"):
                reader.read_region(500, 0, 10, 10)
    with pytest.raises(UnreadableImageError, match=r"a\.npy"):
        open_source(tmp_path / "a.npy")


@pytest.mark.parametrize(
    "region", [(-1, 0, 1, 1), (0, -1, 1, 1), (0, 0, 0, 1), (0, 0, 1, 0), (50, 0, 4, 1), (0, 37, 1, 1)]
)
def test_regions_outside(region):
    with pytest.raises(ValueError, match=r"array .*rows .*asked for.*within rows 0\.\.53, columns 0\.\.37"):
        open_source(pixels()).read_region(*region)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (np.zeros(5, np.uint8), "shape is"), (np.zeros((1, 2, 3, 3), np.uint8), "shape is"),
        (np.zeros((0, 5, 3), np.uint8), "shape is"), (np.zeros((4, 4, 0), np.uint8), "shape is"),
        (np.zeros((4, 4), bool), "bool"), (np.zeros((4, 4), np.int64), "int64.*uint8"),
        (np.zeros((4, 4), complex), "complex"), (np.zeros((4, 4), "U3"), "<U3"),
        (Image.new("L", (3, 3)), "given as Image"), (None, "given as NoneType"), (3, "given as int"),
        (Given(pixels(), (5,)), "Given: size is"), (Given(pixels(), (5, 0)), "Given: size is"),
        (Given(pixels(), (5.0, 3)), "Given: size is"), (Given(pixels(), "57"), "Given: size is"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)  # fmt: skip
def test_what_is_no_source(given, reason):
    with pytest.raises(ValueError, match=reason):
        open_source(given)


def test_tensors_are_refused():
    import torch

    with pytest.raises(ValueError, match="given as Tensor; allowed: a path, a numpy array"):
        open_source(torch.zeros(3, 4, 4))


@pytest.mark.parametrize("setting", [{"level": 1}, {"cache_bytes": 100}])
def test_settings_without_effect(tmp_path, setting):
    np.save(tmp_path / "a.npy", pixels())
    Image.fromarray(pixels()).save(tmp_path / "a.png")
    for given in (pixels(), Given(pixels()), tmp_path / "a.npy", tmp_path / "a.png"):
        with pytest.raises(ValueError, match="effect on TIFF files and slides only"):
            open_source(given, **setting)


def test_files_that_are_no_images(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "b.npy").write_bytes(b"\x93NUMPY\1\0 broken")
    (tmp_path / "c.tif").write_bytes(b"II*\0 broken")
    np.save(tmp_path / "d.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "e.png").write_bytes(b"")
    (tmp_path / "f.svs").write_text("hello")
    for name in ("a.txt", "b.npy", "c.tif", "d.npy", "e.png", "f.svs", "absent.tif", "."):
        with pytest.raises(UnreadableImageError, match=str(tmp_path / name)):
            open_source(tmp_path / name)
    with pytest.raises(ValueError, match="cache_bytes is -1"):
        open_source(pixels(), cache_bytes=-1)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
def test_ordinary_images_as_read_image(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {} if suffix == "bmp" else {"exif": exif}
    Image.fromarray(pixels()).save(tmp_path / f"a.{suffix}", **options)
    with open_source(tmp_path / f"a.{suffix}") as source:
        check(source, np.asarray(read_image(tmp_path / f"a.{suffix}")))
        assert source.size == ((53, 37) if suffix == "bmp" else (37, 53))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16"])
def test_vips_as_pillow(tmp_path, monkeypatch, mode):
    """Images that Pillow's limit keeps from it: the same pixels and turns, but one channel stays one, 16 bits too."""
    pytest.importorskip("pyvips")
    array = pixels(channels=4) if mode != "I;16" else pixels(channels=0, dtype=np.uint16)
    picture = Image.fromarray(array)
    picture = picture if mode == "I;16" else picture.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 8
    picture.save(tmp_path / "a.png", exif=exif)
    expected = np.asarray(read_image(tmp_path / "a.png"))
    monkeypatch.setattr(sources, "stored_size", refuse)
    with open_source(tmp_path / "a.png") as source:
        found = source.read_region(0, 0, *source.size)
        assert source.size == expected.shape[:2]
        assert np.array_equal(source.read_region(5, 7, 3, 2), found[5:8, 7:9])
    assert found.dtype == (np.uint16 if mode == "I;16" else np.uint8)
    assert found.ndim == 2 or found.shape[2] == (3 if mode in ("RGB", "RGBA") else 1)
    found = found.reshape(*expected.shape[:2], -1)
    assert np.abs((found >> 8 if mode == "I;16" else found).astype(int) - expected).max() <= (
        1 if mode == "RGBA" else 0
    )


def refuse(path):
    raise UnreadableImageError(path, "too large")


def test_vips_reads_what_pillow_does_not(tmp_path):
    """Its own format here, which is an array after a header and has no ending of its own."""
    pyvips = pytest.importorskip("pyvips")
    pyvips.Image.new_from_array(pixels()).write_to_file(str(tmp_path / "a.v"))
    with open_source(tmp_path / "a.v") as source:
        check(source, pixels())
    pyvips.Image.new_from_array(pixels()).colourspace("lab").write_to_file(str(tmp_path / "b.v"))
    with pytest.raises(UnreadableImageError, match=r"b\.v: its colours are lab.*allowed: b-w"):
        open_source(tmp_path / "b.v")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_vips_does_not_make_up_what_is_missing(tmp_path, monkeypatch, suffix):
    pyvips = pytest.importorskip("pyvips")
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels(200, 200)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    monkeypatch.setattr(sources, "stored_size", refuse)
    with pytest.raises((UnreadableImageError, pyvips.Error)):  # when it is opened, or when it is read
        open_source(path).read_region(0, 0, 200, 200)


def test_a_slide_that_is_a_pointer_of_git_lfs_is_called_that(tmp_path):
    pytest.importorskip("openslide")
    (tmp_path / "a.svs").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(UnreadableImageError, match=r"a\.svs: is a Git LFS pointer, not the file itself"):
        open_source(tmp_path / "a.svs")


def test_slides_as_openslide_reads_them(tmp_path):
    """A tiled pyramid is a slide to OpenSlide, which goes by the content; here the suffix says slide."""
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("openslide")
    fine, coarse = pixels(200, 120), pixels(100, 60)
    with tifffile.TiffWriter(tmp_path / "a.svs") as file:
        options = {"tile": (32, 32), "photometric": "rgb", "compression": "deflate"}
        file.write(fine, **options)
        file.write(coarse, subfiletype=1, **options)
    with open_source(tmp_path / "a.svs", cache_bytes=10_000) as source:
        check(source, fine)
    with open_source(tmp_path / "a.svs", level=1) as source:
        check(source, coarse)
    with pytest.raises(ValueError, match=r"a\.svs: level is 2; allowed: 0 \(200x120\), 1 \(100x60\)"):
        open_source(tmp_path / "a.svs", level=2)


def test_a_slide_answers_again_after_an_error(tmp_path):
    """OpenSlide itself repeats its first error for ever."""
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("openslide")
    options = {"tile": (32, 32), "photometric": "rgb", "compression": "deflate"}
    tifffile.imwrite(tmp_path / "a.svs", pixels(64, 64), **options)
    with tifffile.TiffFile(tmp_path / "a.svs") as file:
        first = file.pages[0].dataoffsets[0]
    data = (tmp_path / "a.svs").read_bytes()
    with open_source(tmp_path / "a.svs") as source:
        (tmp_path / "a.svs").write_bytes(data[:first] + b"\xff" * 50 + data[first + 50 :])
        with pytest.raises(Exception, match="TIFF"):
            source.read_region(0, 0, 5, 5)
        (tmp_path / "a.svs").write_bytes(data)
        assert np.array_equal(source.read_region(0, 0, 64, 64), pixels(64, 64))


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("a.tif", "tifffile", "huge-images"), ("b.tif", "imagecodecs", "huge-images"),
        ("a.jp2", "pyvips", "huge-images"), ("a.svs", "openslide", "slides"),
    ],
)  # fmt: skip
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, name, package, extra):
    options = {"format": "jpeg2000"} if name == "a.jp2" else {"format": "tiff", "compression": "tiff_lzw"}
    Image.fromarray(pixels()).save(tmp_path / name, **options)
    load = importlib.import_module

    def without(module, *args):
        if module == package:
            raise ModuleNotFoundError(f"No module named {module!r}")
        return load(module, *args)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(ImportError, match=rf'{name}.*needs {package}: pip install "anyres\[{extra}\]"'):
        open_source(tmp_path / name)
