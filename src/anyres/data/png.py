"""What Pillow does not tell of PNG files: the transparent colour as it is stored, and cheaply whether there is EXIF."""

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, PngImagePlugin

_GREY_STEPS = {"L;2": 85, "L;4": 17}  # from stored values to those of Pillow
_COLOUR_16 = "RGB;16B"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_XMP = b"XML:com.adobe.xmp"
_EXIF_TEXTS = (_XMP, b"Raw profile type ")  # as ImageMagick writes EXIF
_LOW_BYTES = "RGB;16L"  # what is stored in the other order gives the bytes that are else left out


def transparent_pixels(image: Image.Image) -> np.ndarray | None:
    """(H, W), true where a PNG has its transparent colour; None if Pillow knows by itself, or there is none.

    To be asked before the image is loaded, since only then is it known how many bits are stored. Loads it.
    """
    key = image.info.get("transparency")
    if not isinstance(image, PngImagePlugin.PngImageFile) or not image.tile:
        return None
    stored = str(image.tile[0][3])
    if isinstance(key, int) and stored in _GREY_STEPS:
        step = _GREY_STEPS[stored]
        return np.equal(np.asarray(image), key % (255 // step + 1) * step)
    if isinstance(key, int) and image.mode.startswith("I;16"):
        return np.equal(np.asarray(image), key)
    if not isinstance(key, tuple) or stored != _COLOUR_16:
        return None
    low = _low_bytes(image)
    values = np.asarray(image).astype(np.uint16) << 8 | low  # (H, W, 3)
    return np.equal(values, np.array(key, np.uint16)).all(axis=2)


def may_have_exif(path: Path | str) -> bool:
    """Whether a PNG has EXIF or XMP data, before its pixels or after them, from the heads of its chunks alone."""
    with open(path, "rb") as file:
        place = 8  # after the signature
        while len(head := _at(file, place, 8 + len(_XMP))) >= 8:
            kind, start = head[4:8], head[8:]
            if kind == b"eXIf" or (kind in _TEXTS and start.startswith(_EXIF_TEXTS)):
                return True
            place += 12 + int.from_bytes(head[:4], "big")
    return False


def _at(file: BinaryIO, place: int, count: int) -> bytes:
    file.seek(place)
    return file.read(count)


def _low_bytes(image: PngImagePlugin.PngImageFile) -> np.ndarray:
    """(H, W, 3): the lower bytes of 16-bit colours, of which Pillow gives the upper ones."""
    file = image.fp
    assert file is not None
    place = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(place)
    with PngImagePlugin.PngImageFile(io.BytesIO(data)) as other:
        first = other.tile[0]
        other.tile = [type(first)(first[0], first[1], first[2], _LOW_BYTES)]
        return np.asarray(other)
