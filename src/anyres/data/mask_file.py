"""Masks on disk: one channel whose stored values are the labels, whatever bit depth, palette or container."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

from anyres.data.decode import MAX_PIXELS, open_header, stored_size
from anyres.data.orientation import laid_down
from anyres.data.source_base import import_extra
from anyres.data.tiff.tags import read_tags
from anyres.errors import UnreadableImageError

MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")

_ONE_CHANNEL = ("L", "P", "1", "I", "I;16", "I;16B", "I;16L")
_GREY = re.compile(r"(?:1|L|L;(?P<bits>[24]))(?P<inverted>;?I)?R?")
_BMP_BITS = (1, 4, 8)
_LOSSY_IN_TIFF = (6, 7, 34892, 50001)  # JPEG twice, a lossy DNG, WebP


def read_mask(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """(H, W) whole numbers as they are in the file, which nothing turns, scales or looks up in a palette.

    UnreadableImageError for a file with colours, for one whose compression changes values, and for no image.
    """
    stored_size(path, max_pixels=max_pixels)
    try:
        tags = read_tags(path)
        if tags is not None and tags.compression in _LOSSY_IN_TIFF:
            mode = "JPEG"
        elif tags is not None and not tags.is_read_by_pillow:
            values = import_extra("tifffile", "huge-images", f"a mask of {tags}").imread(path, key=0)
            if values.ndim == 2 and values.dtype.kind in "biu":
                return np.asarray(values)
            mode = str(tags)
        else:
            with open_header(path) as image:
                mode = "JPEG" if image.format == "JPEG" else image.mode
                if mode in _ONE_CHANNEL:
                    return _stored_values(path, image, 1 if tags is None else tags.orientation)
    except Exception as error:  # decoders raise nearly anything on damaged data
        raise UnreadableImageError(path, error or type(error).__name__) from error
    if mode == "JPEG":
        raise UnreadableImageError(path, "a mask in JPEG, which changes labels; allowed: PNG, TIFF and BMP")
    raise UnreadableImageError(path, f"a mask of mode {mode}; allowed: one channel whose values are the labels")


def _stored_values(path: Path | str, image: Image.Image, orientation: int) -> np.ndarray:
    """What Pillow has opened, as it lies in the file.

    Args:
        orientation: of a TIFF, which alone Pillow turns upright by itself.
    """
    if image.format == "BMP":
        indices = _bmp_indices(Path(path).read_bytes())
        if indices is not None:
            return indices
    (tile, *_) = getattr(image, "tile", None) or (None,)
    how = getattr(tile, "args", "")
    layout = str(how if isinstance(how, str) else how[0])
    image.load()
    return _unscaled(np.asarray(laid_down(image, orientation)), layout)


def _unscaled(values: np.ndarray, layout: str) -> np.ndarray:
    """What the file holds, of values that Pillow has made from it.

    Pillow scales grey of 2 and 4 bits to the range of 8, and inverts where a TIFF says that 0 is white. Both are exact
    to undo, since 255 is a multiple of 3 and of 15.

    Args:
        layout: Pillow's word for how pixels are stored: "L;4" is grey of 4 bits, "L;4I" the same inverted.
    """
    found = _GREY.fullmatch(layout)
    if found is None:
        return values
    if found["inverted"]:
        values = ~values if values.dtype == bool else 255 - values
    return values // (255 // (2 ** int(found["bits"]) - 1)) if found["bits"] else values


def _bmp_indices(content: bytes) -> np.ndarray | None:
    """(H, W) uint8: what an uncompressed BMP of up to 8 bits holds; None for another.

    Pillow takes one whose palette is a ramp of greys for grey of 8 bits, or of 1, whatever it has.
    """
    offset, header = (int.from_bytes(content[at : at + 4], "little") for at in (10, 14))
    is_old = header == 12  # OS/2's, with sides of 16 bits
    sides = np.frombuffer(content, "<u2" if is_old else "<i4", 2, 18)
    at = 24 if is_old else 28
    bits, packing = content[at], 0 if is_old else int.from_bytes(content[30:34], "little")
    if packing or bits not in _BMP_BITS:
        return None
    width, height = int(sides[0]), int(sides[1])
    stride = (width * bits + 31) // 32 * 4  # rows end at four bytes
    rows = np.frombuffer(content, np.uint8, stride * abs(height), offset).reshape(abs(height), stride)
    shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
    values = (rows[:, :, None] >> shifts & (2**bits - 1)).reshape(abs(height), -1)[:, :width]
    return np.ascontiguousarray(values[::-1] if height > 0 else values)  # from the lowest row up, as a rule
