import numpy as np
import pytest
from PIL import Image

from anyres.data.decode import read_image, stored_size
from anyres.errors import UnreadableImageError

NAMED = [
    (b"\0\0\0\x20ftypheic\0\0\0\0", "a HEIF image"), (b"\0\0\0\x20ftypavif\0\0\0\0", "an AVIF image"),
    (b"\0\0\0\x20ftypisom\0\0\0\0", "a video"), (b"\0" * 128 + b"DICM", "a DICOM image"), (b"", "an empty file"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a pointer of Git LFS.*git lfs pull"),
    (b"%PDF-1.7", "a PDF document"), (b"<!DOCTYPE html><html>", "a web page"), (b"8BPS\0\1", "a Photoshop image"),
    (b"\xff\x0a\0\0", "a JPEG XL image"), (b"\x89HDF\r\n\x1a\n", "an HDF5 file"), (b"PK\x03\x04", "a ZIP archive"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "name"), NAMED, ids=[name for _, name in NAMED])
def test_intact_files_of_other_kinds_are_called_what_they_are(tmp_path, content, name):
    (tmp_path / "a.jpg").write_bytes(content)
    for function in (read_image, stored_size):
        with pytest.raises(UnreadableImageError, match=rf"a\.jpg: {name}.*; allowed: JPEG, PNG") as caught:
            function(tmp_path / "a.jpg")
        assert "cut off" not in str(caught.value)


@pytest.mark.parametrize(("suffix", "name"), [("jp2", "JPEG 2000"), ("ppm", "PNM"), ("dds", "DDS"), ("ico", "an icon")])
def test_images_that_pillow_writes(tmp_path, suffix, name):
    Image.new("RGB", (16, 16)).save(tmp_path / f"a.{suffix}")
    with pytest.raises(UnreadableImageError, match=name):
        read_image(tmp_path / f"a.{suffix}")


def test_arrays(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((3, 4)))
    with pytest.raises(UnreadableImageError, match="a NumPy array"):
        read_image(tmp_path / "a.npy")


def test_what_says_nothing_of_itself(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"hello")
    with pytest.raises(UnreadableImageError, match="not a JPEG, .* or cut off in its header"):
        read_image(tmp_path / "a.jpg")
