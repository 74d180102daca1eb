"""Transparency of PNG files in every depth, in files that Pillow itself does not write."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from anyres.data.decode import convert_image, read_image

GREY, RGB, GREY_ALPHA, RGBA = 0, 2, 4, 6


PASSES = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]  # Adam7


def write(path, samples, bits, colour, transparent=None, interlaced=False):
    """Stored samples (H, W, channels) as a PNG without filters; `transparent` are the samples that are not there."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = samples.shape[:2]
    parts = [samples[y::down, x::right] for y, x, down, right in PASSES] if interlaced else [samples]
    rows = [row.reshape(-1) for part in parts if part.size for row in part]
    if bits == 16:
        packed = [row.astype(">u2").tobytes() for row in rows]
    else:
        digits = [(row[:, None] >> np.arange(bits - 1, -1, -1)) & 1 for row in rows]
        packed = [np.packbits(row.reshape(-1).astype(np.uint8)).tobytes() for row in digits]
    key = b"" if transparent is None else chunk(b"tRNS", b"".join(struct.pack(">H", each) for each in transparent))
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + key
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in packed))) + chunk(b"IEND", b"")
    )  # fmt: skip


def values(image):
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_transparent_grey_is_white_and_no_other(tmp_path, bits, interlaced):
    top = 2**bits - 1
    samples = np.array([[0, 1, top // 2, top, 1]])[..., None]
    for key in {0, 1, top}:
        write(tmp_path / "a.png", samples, bits, GREY, (key,), interlaced)
        expected = np.where(samples[..., 0] == key, 255, samples[..., 0] * 255 // top)
        assert values(read_image(tmp_path / "a.png", channels=1)).tolist() == expected.tolist()
        assert values(read_image(tmp_path / "a.png"))[..., 1].tolist() == expected.tolist()


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
def test_the_transparent_colour_is_compared_in_all_its_bits(tmp_path, bits, interlaced):
    key = (3, 2, 1) if bits == 8 else (0x0302, 0x0201, 0x0103)
    samples = np.array([[key, (key[0], key[1], key[2] + 1), (key[0] + 1, key[1], key[2]), (0, 0, 0)]])
    write(tmp_path / "a.png", samples, bits, RGB, key, interlaced)
    expected = samples >> (bits - 8)
    expected[0, 0] = 255
    assert np.array_equal(values(read_image(tmp_path / "a.png")), expected)
    with Image.open(tmp_path / "a.png") as opened:
        assert np.array_equal(values(convert_image(opened, "a", max_pixels=99, channels=3)), expected)
    with open(tmp_path / "a.png", "rb") as file, Image.open(file) as opened:
        assert np.array_equal(values(convert_image(opened, "a", max_pixels=99, channels=3)), expected)


@pytest.mark.parametrize("colour", [GREY_ALPHA, RGBA])
@pytest.mark.parametrize("bits", [8, 16])
def test_alpha_is_laid_on_white(tmp_path, colour, bits):
    channels, top = (2 if colour == GREY_ALPHA else 4), 2**bits - 1
    samples = np.random.default_rng(0).integers(0, top, (7, 9, channels), endpoint=True)
    samples[0, 0, -1], samples[1, 1, -1] = 0, top
    write(tmp_path / "a.png", samples, bits, colour)
    alpha = samples[..., -1:] / top
    expected = (samples[..., :-1] / top * alpha + 1 - alpha) * 255
    found = values(read_image(tmp_path / "a.png"))
    assert np.abs(found - expected).max() <= 2 and found[0, 0].tolist() == [255] * 3


def test_a_picture_turned_by_exif_keeps_its_transparent_pixels_in_place(tmp_path):
    write(tmp_path / "a.png", np.array([[1, 2, 3], [3, 3, 0]])[..., None], 2, GREY, (1,))
    exif = Image.Exif()
    exif[0x0112] = 3  # by 180 degrees
    data = (tmp_path / "a.png").read_bytes()
    body = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
    place = data.index(b"tRNS") - 4
    (tmp_path / "b.png").write_bytes(data[:place] + chunk + data[place:])
    assert values(read_image(tmp_path / "b.png", channels=1)).tolist() == [[0, 255, 255], [255, 170, 255]]
