import io
import resource
import warnings

import numpy as np
import pytest
from PIL import Image

from anyres.data.decode import MAX_PIXELS, check_pixel_count, others_may_read, read_image, stored_size
from anyres.errors import UnreadableImageError

HEIGHT, WIDTH = 23, 37


def picture(mode="RGB"):
    """Smooth, different in every corner."""
    x, y = np.meshgrid(np.linspace(0, 1, WIDTH), np.linspace(0, 1, HEIGHT))
    rgb = np.stack([40 + 180 * x, 30 + 200 * y, 200 - 100 * x * y], axis=-1)
    return Image.fromarray(rgb.astype(np.uint8), "RGB").convert(mode)


def values(image):
    return np.asarray(image, dtype=np.float64)


def grey16():
    return (np.linspace(0, 65535, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)).astype(np.uint16)


@pytest.mark.parametrize(
    ("suffix", "options", "tolerance"),
    [
        ("jpg", {"quality": 98, "subsampling": 0}, 6), ("png", {}, 0), ("webp", {"lossless": True}, 0), ("bmp", {}, 0),
        ("tif", {}, 0), ("tif", {"compression": "tiff_lzw"}, 0), ("gif", {}, 40),
    ],
)  # fmt: skip
def test_formats(tmp_path, suffix, options, tolerance):
    path = tmp_path / f"a.{suffix}"
    picture().save(path, **options)
    image = read_image(path)
    assert (image.mode, image.size) == ("RGB", (WIDTH, HEIGHT))
    assert np.abs(values(image) - values(picture())).max() <= tolerance
    assert read_image(path, channels=1).mode == "L"
    assert stored_size(path) == (HEIGHT, WIDTH)


def test_the_content_counts_and_not_the_suffix(tmp_path):
    picture().save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert np.array_equal(read_image(tmp_path / "a.jpg"), picture())


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA"])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_opaque_modes_keep_their_colours(tmp_path, mode, suffix):
    image = picture(mode)
    image.save(tmp_path / f"a.{suffix}")
    assert np.array_equal(read_image(tmp_path / f"a.{suffix}"), image.convert("RGB"))
    assert np.array_equal(read_image(tmp_path / f"a.{suffix}", channels=1), image.convert("RGB").convert("L"))


def test_transparency_is_laid_on_white(tmp_path):
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = 0, 255, 51  # black at 0, 100 and 20 %
    Image.fromarray(pixels, "RGBA").save(tmp_path / "a.png")
    assert values(read_image(tmp_path / "a.png"))[0, :, 0].tolist() == [255, 0, 204]
    Image.fromarray(pixels[..., 2:], "LA").save(tmp_path / "b.png")
    assert values(read_image(tmp_path / "b.png", channels=1))[0].tolist() == [255, 0, 204]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    for suffix in ("png", "gif"):
        palette.save(tmp_path / f"c.{suffix}", transparency=0)
        assert values(read_image(tmp_path / f"c.{suffix}"))[0].tolist() == [[255] * 3, [40, 50, 60]]
    Image.new("L", (2, 2), 7).save(tmp_path / "d.png", transparency=7)
    assert values(read_image(tmp_path / "d.png")).min() == 255


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk(tmp_path, suffix):
    picture("CMYK").save(tmp_path / f"a.{suffix}", **({"quality": 98} if suffix == "jpg" else {}))
    assert np.abs(values(read_image(tmp_path / f"a.{suffix}")) - values(picture())).max() < 12


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_and_never_clipped(tmp_path, suffix):
    Image.fromarray(grey16()).save(tmp_path / f"a.{suffix}")
    expected = grey16() / 257
    for channels in (1, 3):
        found = values(read_image(tmp_path / f"a.{suffix}", channels=channels)).reshape(HEIGHT, WIDTH, -1)
        assert np.abs(found - expected[..., None]).max() <= 1
        assert (found.min(), found.max()) == (0, 255)


def test_16_bit_colour_is_scaled(tmp_path):
    import struct
    import zlib

    colours = np.array([[[0, 32768, 65535], [65535, 257, 511]]], np.uint16)

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    rows = b"\0" + colours.astype(">u2").tobytes()
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    assert np.abs(values(read_image(tmp_path / "a.png")) - colours / 257).max() <= 1


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_32_bit_grey_is_scaled_by_its_own_range(tmp_path, kind):
    ramp = np.array([[-1000, 0, 3000]], kind)
    Image.fromarray(ramp).save(tmp_path / "a.tif")
    assert values(read_image(tmp_path / "a.tif", channels=1))[0].tolist() == [0, 64, 255]
    Image.fromarray(np.full((2, 2), 5, kind)).save(tmp_path / "b.tif")
    assert values(read_image(tmp_path / "b.tif")).max() == 0


def test_float_images_with_nan(tmp_path):
    Image.fromarray(np.array([[np.nan, 1, 2, np.inf]], np.float32)).save(tmp_path / "a.tif")
    assert values(read_image(tmp_path / "a.tif", channels=1))[0].tolist() == [0, 0, 255, 255]
    Image.fromarray(np.full((2, 2), np.nan, np.float32)).save(tmp_path / "b.tif")
    with pytest.raises(UnreadableImageError, match=r"b\.tif.*no finite"):
        read_image(tmp_path / "b.tif")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path, suffix, orientation):
    """The stored pixels are made from the upright picture by the inverse turn, so reading gives the picture back."""
    turn = Image.Transpose
    inverse = {2: turn.FLIP_LEFT_RIGHT, 3: turn.ROTATE_180, 4: turn.FLIP_TOP_BOTTOM, 5: turn.TRANSPOSE,
               6: turn.ROTATE_90, 7: turn.TRANSVERSE, 8: turn.ROTATE_270}  # fmt: skip
    stored = picture()
    if orientation > 1:
        stored = stored.transpose(inverse[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"jpg": {"quality": 98, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
    stored.save(tmp_path / f"a.{suffix}", exif=exif, **options)
    image = read_image(tmp_path / f"a.{suffix}")
    assert image.size == (WIDTH, HEIGHT)
    assert np.abs(values(image) - values(picture())).mean() < 2


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_cost_the_photo(tmp_path):
    picture().save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff broken")
    assert read_image(tmp_path / "a.jpg").size == (WIDTH, HEIGHT)


def test_first_frame(tmp_path):
    red, blue = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    for suffix in ("gif", "tif", "webp", "png"):
        options = {"lossless": True} if suffix == "webp" else {}
        red.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[blue], **options)
        assert values(read_image(tmp_path / f"a.{suffix}"))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp", "gif"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.9])
def test_truncated_files(tmp_path, suffix, kept):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix))
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * kept)])
    with pytest.raises(UnreadableImageError) as caught:
        read_image(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) > len(str(path)) + 5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp", "gif"])
def test_damaged_files_give_an_image_or_the_one_error(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    picture().save(path)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    refused = 0
    for seed in range(60):
        draw = np.random.default_rng(seed)
        damaged = whole.copy()
        places = draw.integers(0, len(whole) if seed % 2 else min(64, len(whole)), 4)
        damaged[places] = draw.integers(0, 256, 4, np.uint8)
        path.write_bytes(damaged.tobytes())
        try:
            assert read_image(path, max_pixels=10**6).mode == "RGB"
        except UnreadableImageError:
            refused += 1
    assert refused


def test_not_an_image(tmp_path):
    (tmp_path / "a.jpg").write_text("hello")
    picture().save(tmp_path / "b.ppm")
    for path in (tmp_path / "a.jpg", tmp_path / "b.ppm", tmp_path / "absent.png", tmp_path):
        with pytest.raises(UnreadableImageError, match=path.name):
            read_image(path)
        with pytest.raises(UnreadableImageError, match=path.name):
            stored_size(path)


def test_too_large_is_refused_before_decoding(tmp_path, monkeypatch):
    picture().save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", max_pixels=HEIGHT * WIDTH).size == (WIDTH, HEIGHT)
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda image: pytest.fail("decoded"))
    with pytest.raises(UnreadableImageError, match=r"a\.png.*23x37 pixels are 851; allowed: 850"):
        read_image(tmp_path / "a.png", max_pixels=HEIGHT * WIDTH - 1)


@pytest.mark.parametrize(("side", "refused"), [(10_000, False), (13_500, True), (60_000, True)])
def test_headers_around_pillows_limits(tmp_path, side, refused):
    """A tiny file that claims to be huge: no warning, no allocation, one kind of error."""
    Image.new("1", (8, 8)).save(tmp_path / "a.bmp")
    data = bytearray((tmp_path / "a.bmp").read_bytes())
    data[18:26] = side.to_bytes(4, "little") * 2
    (tmp_path / "a.bmp").write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if refused:
            with pytest.raises(UnreadableImageError, match=r"a\.bmp.*allowed: "):
                read_image(tmp_path / "a.bmp")
        else:
            assert stored_size(tmp_path / "a.bmp") == (side, side)


@pytest.mark.parametrize("options", [{"max_pixels": 0}, {"max_pixels": MAX_PIXELS + 1}, {"channels": 4}])
def test_bad_settings(tmp_path, options):
    picture().save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=" is .*allowed") as caught:
        read_image(tmp_path / "a.png", **options)
    assert not isinstance(caught.value, UnreadableImageError)


def test_another_reader_is_asked_where_it_may_know_better(tmp_path):
    """For what no suffix of Pillow's formats promises, and for what is too large for Pillow."""
    for name in ("a.png", "a.jp2"):
        (tmp_path / name).write_bytes(b"no image")
    refused = UnreadableImageError("a", "not an image")
    assert not others_may_read(tmp_path / "a.png", refused) and others_may_read(tmp_path / "a.jp2", refused)
    refused.__cause__ = Image.DecompressionBombError("many pixels")
    assert others_may_read(tmp_path / "a.png", refused)


def test_the_limit_is_named_by_what_it_comes_from():
    check_pixel_count("a.png", (7, 9), 63)
    with pytest.raises(UnreadableImageError, match=r"^a\.png: 7x9 pixels are 63; allowed: 62 \(max_pixels\)$"):
        check_pixel_count("a.png", (7, 9), 62)
    with pytest.raises(UnreadableImageError, match=r"allowed: 62 \(of a budget\)$"):
        check_pixel_count("a.png", (7, 9), 62, "of a budget")


def test_too_many_open_files_are_no_fault_of_the_image(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (3, 2)).save(path)
    read_image(path)  # whatever is imported on the way is there
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        for read in (read_image, stored_size):
            with pytest.raises(OSError, match="Too many open files"):
                read(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert read_image(path).size == (3, 2)
