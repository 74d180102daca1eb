"""One image file -> one 8-bit Pillow image, or one kind of error that says why not."""

import math
import threading
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from anyres.errors import UnreadableImageError
from anyres.sizes import Size, size_text

MAX_PIXELS = 178_956_970
"""Pillow's own hard limit, at which it takes a file for a decompression bomb. Larger images are for streaming."""

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"})

_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
_WARNINGS = threading.Lock()  # changing the filters of warnings is not safe between threads
_ORIENTATION = 0x0112
_TURNS = {  # EXIF 2.3, tag 0x0112: what brings the stored pixels upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def check_max_pixels(max_pixels: int) -> None:
    """Raises ValueError unless the limit is between one pixel and Pillow's own."""
    if not 1 <= max_pixels <= MAX_PIXELS:
        raise ValueError(
            f"max_pixels is {max_pixels}; allowed: 1 to {MAX_PIXELS}, beyond which an image is not decoded whole"
        )


def read_image(path: Path | str, *, max_pixels: int = MAX_PIXELS, channels: int = 3) -> Image.Image:
    """Read an image file.

    JPEG, PNG, WebP, TIFF, BMP and GIF, of which the first frame or page. EXIF rotation is applied. Transparent pixels
    are laid on white; palettes, greyscale and CMYK become RGB. 16 bits per channel are scaled to 8 (the whole range of
    16 bits, nothing is clipped); 32-bit integers and floats, whose range no file states, by the image's own least and
    greatest finite value (NaN counts as the least). Colour profiles are ignored.

    Args:
        path: a file; its suffix does not matter, its content does.
        max_pixels: files whose header states more pixels are refused before they are decoded.
        channels: 3 for mode RGB, 1 for mode L.

    Raises:
        UnreadableImageError: naming the path and the reason, for anything that is not such an image, is cut short,
            or is too large.
        ValueError: for a limit or a number of channels that is not allowed.
    """
    check_max_pixels(max_pixels)
    _check_channels(channels)
    try:
        with _open(path) as image:
            return convert_image(image, path, max_pixels=max_pixels, channels=channels)
    except UnreadableImageError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged data
        raise UnreadableImageError(path, _reason(error)) from error


def convert_image(image: Image.Image, name: Path | str, *, max_pixels: int, channels: int) -> Image.Image:
    """What `read_image` makes of a file that Pillow has opened; errors call it `name`."""
    check_max_pixels(max_pixels)
    _check_channels(channels)
    check_pixel_count(name, (image.height, image.width), max_pixels)
    try:
        image.load()
        return _eight_bit(_upright(image), name).convert("L" if channels == 1 else "RGB")
    except UnreadableImageError:
        raise
    except Exception as error:
        raise UnreadableImageError(name, _reason(error)) from error


def stored_size(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) in pixels as the header states them, before EXIF rotation; raises as `read_image`."""
    check_max_pixels(max_pixels)
    try:
        with _open(path) as image:
            check_pixel_count(path, (image.height, image.width), max_pixels)
            return image.height, image.width
    except UnreadableImageError:
        raise
    except Exception as error:
        raise UnreadableImageError(path, _reason(error)) from error


def _check_channels(channels: int) -> None:
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels}; allowed for image files: 1 (greyscale) or 3 (RGB)")


def _open(path: Path | str) -> Image.Image:
    """Reads the header only."""
    with _WARNINGS, warnings.catch_warnings():
        # Pillow warns from half of its limit on; here the limit is `max_pixels`, and a refusal is an error
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(path, formats=_FORMATS)


def check_pixel_count(path: Path | str, size: Size, max_pixels: int, limit: str = "max_pixels") -> None:
    """Raises UnreadableImageError for an image of (height, width) with more pixels than may be decoded at once.

    Args:
        limit: what the limit comes from, for the message.
    """
    pixels = math.prod(size)
    if pixels > max_pixels:
        raise UnreadableImageError(path, f"{size_text(size)} pixels are {pixels}; allowed: {max_pixels} ({limit})")


def others_may_read(path: Path | str, refused: UnreadableImageError) -> bool:
    """Whether another library may read what `stored_size` has refused.

    That is a file that is too large for Pillow, or one whose suffix does not promise a format that Pillow reads:
    where it does, the file is damaged, and no other reader knows better.
    """
    is_too_large = isinstance(refused.__cause__, Image.DecompressionBombError)
    return is_too_large or Path(path).suffix.lower() not in IMAGE_SUFFIXES


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"too large; allowed: {MAX_PIXELS} pixels ({error})"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a JPEG, PNG, WebP, TIFF, BMP or GIF image, or cut off in its header"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a photo with damaged EXIF data is still a photo
        turn = None
    return image if turn is None else image.transpose(turn)


def _eight_bit(image: Image.Image, path: Path | str) -> Image.Image:
    """Any Pillow mode -> one that converts to RGB and L without loss of range."""
    if image.mode.startswith("I;16"):
        # Pillow's own conversion of 16 bits clips at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        return Image.fromarray(_own_range(np.asarray(image).astype(np.float64), path))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        # the colour under full transparency is arbitrary, often black; paper is white
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB") if image.mode != "L" else image


def _own_range(values: np.ndarray, path: Path | str) -> np.ndarray:
    """(H, W) float64 -> uint8 from the least finite value to the greatest; a constant image is black."""
    finite = np.isfinite(values)
    if not finite.any():
        raise UnreadableImageError(path, "no finite pixel value")
    low, high = values[finite].min(), values[finite].max()
    values = np.nan_to_num(np.clip(values, low, high), nan=low)
    return np.rint((values - low) * (255 / (high - low)) if high > low else values * 0).astype(np.uint8)
