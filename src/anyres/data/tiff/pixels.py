"""What the stored samples of a TIFF page mean: from samples to upright grey or colour pixels, or a refusal by name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from anyres.data.tiff.nodata import BACKGROUND, where_no_data
from anyres.data.tiff.tags import BLACK_IS_ZERO, PALETTE, RGB, WHITE_IS_ZERO, YCBCR

Convert = Callable[[np.ndarray], np.ndarray]

JPEG = frozenset({6, 7, 33007, 34892})  # TIFF 6.0 and Technical Note 2, and two that stand for the same
_ASSOCIATED, _UNASSOCIATED = 1, 2  # TIFF 6.0, ExtraSamples


@dataclass(frozen=True)
class Meaning:
    """What the samples of a page stand for."""

    convert: Convert
    """Stored samples (h, w, samples) -> pixels (h, w, channels)."""
    colours: int
    """Of the pixels: 3 if the first three channels are red, green and blue; 1 if nothing is said of the channels."""
    known_range: bool
    """Whether the pixels are unsigned integers that go from 0 to their type's maximum. Signed and 32-bit integers and
    floats need not fill theirs."""

    def pixels(self, samples: np.ndarray, nodata: float | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Stored samples (h, w, samples) -> pixels (h, w, channels), and where they are the background for want of
        data, (h, w, channels) or (h, w, 1), None if nowhere.

        A grey sample without data is one pixel of one channel; a colour is without data where red, green and blue are.
        """
        found = where_no_data(samples, nodata)
        pixels = self.convert(samples)
        if found is None:
            return pixels, None
        if self.colours == 3 and samples.shape[2] >= 3:
            found = np.asarray(found[..., :3].all(axis=2, keepdims=True))
        found = found[..., : pixels.shape[2]]  # an alpha has none
        if pixels.dtype.kind == "f":
            found = found | np.isnan(pixels)
        if not found.any():
            return pixels, None
        return np.where(found, pixels.dtype.type(BACKGROUND), pixels), found


def meaning_of(page: Any, *, own_range: bool = False) -> Meaning:
    """What the stored samples of a page of tifffile mean.

    One bit becomes 0 and 255; samples of 2 to 31 bits are spread over the whole range of their array's type; where
    zero means white they are inverted; palettes become 8-bit RGB; alpha is laid on white. Everything else is left as
    it is stored: 8, 16 and 32 bits, floats, further channels.

    Args:
        own_range: signed integers and floats will be scaled by their own range, so that they can be inverted too.

    Raises:
        ValueError: for colours or types that are not among these; the message does not name the file.
    """
    dtype, bits, alpha = page.dtype, page.bitspersample, _alpha(page)
    colours = page.photometric
    if dtype is None or not isinstance(bits, int) or dtype.kind not in "uifb" or (dtype.kind in "iu" and bits > 32):
        raise ValueError(f"samples of {dtype}, {bits} bits, are not read")
    # the decoder turns it to RGB
    jpeg_colour = colours == YCBCR and page.compression in JPEG and page.planarconfig == 1
    if colours not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE) and not jpeg_colour:
        raise ValueError(
            f"its colours are {getattr(colours, 'name', colours)}; allowed: MINISWHITE, MINISBLACK, RGB, PALETTE, "
            "and YCBCR in JPEG tiles"
        )
    steps: list[Convert] = []
    if colours == PALETTE:
        steps.append(_lookup(page.colormap, bits, dtype))
    elif dtype.kind in "bu" and bits < dtype.itemsize * 8:
        steps.append(lambda samples: full_range(samples, bits))
    if colours == WHITE_IS_ZERO:
        if (dtype.kind not in "bu" and not own_range) or alpha is not None:
            raise ValueError(f"MINISWHITE with {dtype} samples or alpha is not read")
        # of an unsigned integer: its type's maximum minus it
        steps.append(np.negative if dtype.kind == "f" else np.invert)
    if alpha is not None:
        if dtype.kind not in "uf" or colours == PALETTE:
            raise ValueError(f"alpha with {dtype} samples, {getattr(colours, 'name', colours)}, is not read")
        steps.append(lambda samples: on_white(samples, premultiplied=alpha == _ASSOCIATED))

    def convert(samples: np.ndarray) -> np.ndarray:
        for step in steps:
            samples = step(samples)
        return samples

    is_grey = colours in (WHITE_IS_ZERO, BLACK_IS_ZERO)
    known_range = dtype.kind == "b" or (dtype.kind == "u" and bits < 32)
    return Meaning(convert, 1 if is_grey else 3, known_range or colours == PALETTE)


def _alpha(page: Any) -> int | None:
    """The kind of alpha if the last sample is one. Further samples without a meaning are channels like the others."""
    kinds = [kind for kind in page.extrasamples if kind in (_ASSOCIATED, _UNASSOCIATED)]
    if not kinds:
        return None
    if len(page.extrasamples) > 1:
        raise ValueError(f"{len(page.extrasamples)} samples besides the colours, one of them alpha, are not read")
    return int(kinds[0])


def _lookup(colormap: np.ndarray | None, bits: int, dtype: np.dtype) -> Convert:
    """(h, w, 1) indices -> (h, w, 3) 8-bit."""
    if colormap is None or colormap.shape != (3, 2**bits) or dtype.kind not in "ub":
        raise ValueError(f"a palette of shape {getattr(colormap, 'shape', None)} for {bits} bits is not read")
    # TIFF palettes have 16 bits per channel; the upper eight are what every viewer shows
    table = (colormap.T >> 8).astype(np.uint8)  # (entries, 3)
    # one bit is bool, which would be taken for a mask
    return lambda samples: table[samples[..., 0].astype(np.uint16, copy=False)]


def full_range(samples: np.ndarray, bits: int) -> np.ndarray:
    """Unsigned samples 0..2^bits - 1 (or bool) spread over the whole range of their type (bool: uint8)."""
    kind = np.dtype(np.uint8) if samples.dtype == bool else samples.dtype
    # multiplied before it is divided, so that the largest sample becomes the type's maximum exactly
    wide = samples.astype(np.uint64) * np.iinfo(kind).max // (2**bits - 1)
    return wide.astype(kind)


def on_white(pixels: np.ndarray, *, premultiplied: bool = False) -> np.ndarray:
    """(h, w, channels + alpha) unsigned integers, or floats whose alpha is 0..1 -> (h, w, channels) on white."""
    colour, alpha = pixels[..., :-1], pixels[..., -1:]
    if pixels.dtype.kind == "f":
        return (colour if premultiplied else colour * alpha) + (1 - alpha)
    top = np.iinfo(pixels.dtype).max
    if (alpha == top).all():
        return colour
    wide = np.uint64 if pixels.dtype.itemsize == 4 else np.uint32  # holds top * top, and half of top for rounding
    colour, alpha = colour.astype(wide), alpha.astype(wide)
    white = (
        np.minimum(colour + (top - alpha), top)
        if premultiplied
        else ((colour * alpha + top * (top - alpha) + top // 2) // top)
    )
    return white.astype(pixels.dtype)


def stored_region(
    orientation: int, size: tuple[int, int], region: tuple[int, int, int, int]
) -> tuple[int, int, int, int]:
    """Where the upright region (y, x, height, width) of an upright image of this size lies among the stored pixels."""
    y, x, height, width = region
    if orientation in (3, 4, 7, 8):
        y = size[0] - y - height
    if orientation in (2, 3, 6, 7):
        x = size[1] - x - width
    # from 5 on stored rows are columns of what is seen
    return (x, y, width, height) if orientation >= 5 else (y, x, height, width)


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels (h, w, channels) -> as they are to be seen; TIFF 6.0, Orientation, 1 to 8."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels
