"""Masks of every depth, palette and container are read as the numbers that were written, by writers of few lines."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from anyres.data.mask_file import read_mask
from anyres.data.segmentation import SegmentationFolder
from anyres.errors import UnreadableImageError


def packed(values, bits):
    """Rows of whole numbers, the first pixel in the highest bits, each row from a byte of its own: bytes per row."""
    digits = ((values[..., None].astype(np.int64) >> np.arange(bits - 1, -1, -1)) & 1).astype(np.uint8)
    return [np.packbits(row.reshape(-1)).tobytes() for row in digits]


def png(values, bits, palette=None):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = values.shape
    head = struct.pack(">IIBBBBB", width, height, bits, 0 if palette is None else 3, 0, 0, 0)
    rows = b"".join(b"\0" + row for row in packed(values, bits))
    colours = b"" if palette is None else chunk(b"PLTE", bytes(palette))
    parts = chunk(b"IHDR", head), colours, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(values, bits, *, photometric=1, orientation=1, compression=1, palette=None):
    height, width = values.shape
    pixels = b"".join(packed(values, bits))
    if bits == 16:
        pixels = values.astype("<u2").tobytes()
    pixels = zlib.compress(pixels) if compression == 8 else pixels
    colours = b"" if palette is None else np.resize(np.array(palette, "<u2"), 3 * 2**bits).tobytes()
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, bits), (259, 3, 1, compression), (262, 3, 1, photometric),
        (273, 4, 1, 8), (274, 3, 1, orientation), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, len(pixels)),
    ]  # fmt: skip
    if palette is not None:
        tags.append((320, 3, 3 * 2**bits, 8 + len(pixels)))
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return struct.pack("<2sHI", b"II", 42, 8 + len(pixels) + len(colours)) + pixels + colours + directory


def bmp(values, bits, palette, *, downwards=False):
    height, width = values.shape
    rows = [row + bytes(-len(row) % 4) for row in packed(values, bits)]
    pixels = b"".join(rows if downwards else rows[::-1])
    colours = b"".join(bytes((*reversed(palette[at : at + 3]), 0)) for at in range(0, len(palette), 3))
    offset = 54 + len(colours)
    head = struct.pack("<2sIHHI", b"BM", offset + len(pixels), 0, 0, offset)
    sides = (width, -height if downwards else height)
    head += struct.pack("<IiiHHIIiiII", 40, *sides, 1, bits, 0, len(pixels), 0, 0, len(colours) // 4, 0)
    return head + colours + pixels


def numbers(seed, size, bits):
    return np.random.default_rng(seed).integers(0, 2**bits, size)


def grey(count):
    return [value for value in range(count) for _ in range(3)]


BITS = {
    "PNG": ("1, 2, 4, 8, 16", "1, 2, 4, 8"), "TIFF": ("1 to 16", "1, 2, 4, 8"), "BMP": ("", "1, 4, 8"),
}  # fmt: skip
"""Of grey and under a palette, as the documentation has them."""


def bits_of(kind):
    """All of them."""
    texts = {text for text in BITS[kind] if text}
    return sorted({*range(1, 17)} if "1 to 16" in texts else {int(bits) for text in texts for bits in text.split(", ")})


def test_the_documentation_has_these_depths():
    text = Path(__file__).parents[2].joinpath("docs/formats.md").read_text(encoding="utf-8")
    for kind, (grey_bits, palette_bits) in BITS.items():
        assert f"| {kind} | {grey_bits} | {palette_bits} |" in text


SIZES = st.tuples(st.integers(1, 19), st.integers(1, 19))


@settings(max_examples=60, deadline=None)
@given(size=SIZES, seed=st.integers(0, 99), bits=st.sampled_from(bits_of("PNG")), has_palette=st.booleans())
def test_png_of_every_depth_keeps_its_numbers(tmp_path_factory, size, seed, bits, has_palette):
    values, path = numbers(seed, size, bits), tmp_path_factory.mktemp("png") / "mask.png"
    colours = np.random.default_rng(seed).integers(0, 256, 3 * 2 ** min(bits, 8)).tolist()
    path.write_bytes(png(values, bits, colours if has_palette and bits < 16 else None))
    assert np.array_equal(read_mask(path), values)


@settings(max_examples=200, deadline=None)
@given(
    size=SIZES, seed=st.integers(0, 99), bits=st.sampled_from(bits_of("TIFF")), photometric=st.sampled_from([0, 1, 3]),
    orientation=st.integers(1, 8), compression=st.sampled_from([1, 8]),
)  # fmt: skip
def test_tiff_of_every_depth_keeps_its_numbers(
    tmp_path_factory, size, seed, bits, photometric, orientation, compression
):
    if photometric == 3 and bits not in (1, 2, 4, 8):
        return
    values, path = numbers(seed, size, bits), tmp_path_factory.mktemp("tiff") / "mask.tif"
    path.write_bytes(
        tiff(values, bits, photometric=photometric, orientation=orientation, compression=compression,
             palette=range(0, 60000, 777) if photometric == 3 else None)
    )  # fmt: skip
    assert np.array_equal(read_mask(path), values)


@settings(max_examples=60, deadline=None)
@given(
    size=SIZES,
    seed=st.integers(0, 99),
    bits=st.sampled_from(bits_of("BMP")),
    ramp=st.booleans(),
    downwards=st.booleans(),
)
def test_bmp_of_every_depth_keeps_its_numbers_also_under_a_ramp_of_greys(
    tmp_path_factory, size, seed, bits, ramp, downwards
):
    values, path = numbers(seed, size, bits), tmp_path_factory.mktemp("bmp") / "mask.bmp"
    palette = grey(2**bits) if ramp else np.random.default_rng(seed).integers(0, 256, 3 * 2**bits).tolist()
    path.write_bytes(bmp(values, bits, palette, downwards=downwards))
    assert np.array_equal(read_mask(path), values)


def test_a_bmp_of_black_and_white_in_bytes_holds_its_places(tmp_path):
    values = numbers(5, (7, 13), 1)
    (tmp_path / "mask.bmp").write_bytes(bmp(values, 8, [0, 0, 0, 255, 255, 255]))
    assert np.array_equal(read_mask(tmp_path / "mask.bmp"), values)


def test_what_changes_labels_or_has_colours_is_refused(tmp_path):
    Image.new("L", (9, 9), 3).save(tmp_path / "a.jpg")
    Image.new("L", (16, 16), 3).save(tmp_path / "b.tif", compression="jpeg")
    for name in ("a.jpg", "b.tif"):
        with pytest.raises(UnreadableImageError, match=f"{name}: a mask in JPEG, which changes labels; allowed: PNG"):
            read_mask(tmp_path / name)
    Image.new("RGBA", (9, 9)).save(tmp_path / "c.png")
    with pytest.raises(UnreadableImageError, match="a mask of mode RGBA; allowed: one channel"):
        read_mask(tmp_path / "c.png")
    (tmp_path / "d.bmp").write_bytes(bmp(numbers(0, (9, 9), 4), 4, grey(16))[:-20])
    with pytest.raises(UnreadableImageError, match="d.bmp"):
        read_mask(tmp_path / "d.bmp")


@pytest.mark.parametrize(("bits", "name"), [(2, "m.png"), (4, "m.png"), (4, "m.tif"), (2, "m.tiff"), (4, "m.bmp")])
def test_a_folder_of_optimised_masks_has_the_labels_that_were_written(tmp_path, bits, name):
    """As optimisers of images and other programs write masks of few classes, in whatever container."""
    values = numbers(3, (11, 14), bits)
    for kind in ("images", "annotations"):
        (tmp_path / kind / "training").mkdir(parents=True)
    Image.new("RGB", (14, 11)).save(tmp_path / "images/training/m.jpg")
    writer = {"png": png, "tif": tiff, "tiff": tiff}.get(name.split(".")[1])
    content = writer(values, bits) if writer else bmp(values, bits, grey(2**bits))
    (tmp_path / "annotations/training" / name).write_bytes(content)
    folder = SegmentationFolder(tmp_path, "train", num_classes=2**bits)
    assert np.array_equal(np.array(folder.read(0).labels), values)
