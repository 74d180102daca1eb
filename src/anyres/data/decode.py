"""One image file -> one 8-bit Pillow image, or one kind of error that says why not."""

import contextlib
import errno
import math
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, TiffImagePlugin

from anyres.data.file_kinds import kind_of_file
from anyres.data.png import transparent_pixels
from anyres.data.said_once import MORE_PAGES, say_more_channels, say_more_pages, was_said
from anyres.data.tiff.nodata import where_no_data
from anyres.data.tiff.picture import as_picture, open_picture
from anyres.data.tiff.source import TiffSource
from anyres.data.tiff.tags import TiffTags, read_tags, say_if_more_pages, tags_of
from anyres.data.value_range import own_range
from anyres.errors import SourceError, UnreadableImageError
from anyres.sizes import Size, size_text

MAX_PIXELS = 178_956_970
"""Pillow's own hard limit, at which it takes a file for a decompression bomb. Larger images are for streaming."""

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"})

_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
_ANIMATED = ("PNG", "WEBP", "GIF")
_MODES = {1: "L", 3: "RGB"}
_OF_THE_MACHINE = (errno.EMFILE, errno.ENFILE)  # too many files are open
_WARNINGS = threading.Lock()  # changing the filters of warnings is not safe between threads
ORIENTATION = 0x0112
TURNS = {  # EXIF 2.3, tag 0x0112: what brings the stored pixels upright
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


def read_image(
    path: Path | str, *, max_pixels: int = MAX_PIXELS, channels: int = 3, nodata: float | None = None
) -> Image.Image:
    """Read an image file.

    JPEG, PNG, WebP, TIFF, BMP and GIF, of which the first frame or page. EXIF rotation is applied. Transparent pixels
    are laid on white; palettes, greyscale and CMYK become RGB. Unsigned integers are scaled to 8 bits by the range of
    the bits that the file states (nothing is clipped); signed and 32-bit integers and floats, whose range no file
    states, by the image's own least and greatest finite value. NaN and the value for no data, which a TIFF file may
    name, are left out of that range and black. Colour profiles are ignored. `docs/formats.md` is the whole table.

    Args:
        path: a file; its suffix does not matter, its content does.
        max_pixels: files whose header states more pixels are refused before they are decoded.
        channels: 3 for mode RGB, 1 for mode L.
        nodata: the stored value of TIFF files that stands for no data; None: as the file says (GDAL_NODATA).

    Raises:
        UnreadableImageError: naming the path and the reason, for anything that is not such an image, is cut short,
            is too large, or needs a package that is missing, with the extra's name.
        ValueError: for a limit or a number of channels that is not allowed.
    """
    check_max_pixels(max_pixels)
    _check_channels(channels)
    with _as_unreadable(path):
        tags = read_tags(path)
        if tags is not None:
            say_if_more_pages(path, tags)
            tags = tags if nodata is None else replace(tags, nodata=nodata)
        if tags is not None and not tags.is_read_by_pillow:
            with open_picture(path, tags) as source:
                _check_tiff_size(source, max_pixels)
                return as_picture(source).convert(_MODES[channels])
        with open_header(path) as image:
            _say_if_first_of_several(image, path)
            return _converted(image, path, tags, max_pixels, channels)


def convert_image(image: Image.Image, name: Path | str, *, max_pixels: int, channels: int) -> Image.Image:
    """What `read_image` makes of a file that Pillow has opened; errors call it `name`."""
    check_max_pixels(max_pixels)
    _check_channels(channels)
    with _as_unreadable(name):
        tags = None
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            tags = tags_of(image.tag_v2)
            if not tags.is_read_by_pillow or (image.filename and tags.is_scrambled_when_mapped):
                raise UnreadableImageError(name, f"Pillow does not read {tags} right; allowed: the path of the file")
        return _converted(image, name, tags, max_pixels, channels)


def _converted(
    image: Image.Image, name: Path | str, tags: TiffTags | None, max_pixels: int, channels: int
) -> Image.Image:
    """An image that Pillow has opened -> 8-bit L or RGB.

    Args:
        tags: of a TIFF that Pillow reads right.
    """
    check_pixel_count(name, (image.height, image.width), max_pixels)
    if tags is not None and tags.has_more_channels:
        say_more_channels(name)
    is_transparent = transparent_pixels(image)
    image.load()
    picture = _eight_bit(image, name, None if tags is None else tags.nodata)
    if is_transparent is not None:
        picture = _painted(picture, "white", is_transparent)
    return _upright(picture, image).convert(_MODES[channels])


def stored_size(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) in pixels as the header states them, before EXIF rotation; raises as `read_image`."""
    check_max_pixels(max_pixels)
    with _as_unreadable(path):
        tags = read_tags(path)
        if tags is not None and not tags.is_read_by_pillow:
            with open_picture(path, tags) as source:
                _check_tiff_size(source, max_pixels)
                return source.stored_size
        with open_header(path) as image:
            check_pixel_count(path, (image.height, image.width), max_pixels)
            return (image.height, image.width) if tags is None else tags.size  # Pillow's is that of the upright image


@contextlib.contextmanager
def _as_unreadable(name: Path | str) -> Iterator[None]:
    """What goes wrong within becomes the one kind of error; decoders raise nearly anything on damaged data."""
    try:
        yield
    except UnreadableImageError:
        raise
    except SourceError as error:
        raise UnreadableImageError(name, error.reason) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
            raise  # every other file would be called unreadable, too
        raise UnreadableImageError(name, _reason(name, error)) from error


def _check_channels(channels: int) -> None:
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels}; allowed for image files: 1 (greyscale) or 3 (RGB)")


def _check_tiff_size(source: TiffSource, max_pixels: int) -> None:
    """As `check_pixel_count`, and with the cause that Pillow gives beyond its limit (see `others_may_read`)."""
    try:
        check_pixel_count(source.name, source.stored_size, max_pixels)
    except UnreadableImageError as error:
        if math.prod(source.stored_size) > MAX_PIXELS:
            raise error from Image.DecompressionBombError(error.reason)
        raise


def _say_if_first_of_several(image: Image.Image, path: Path | str) -> None:
    if image.format in _ANIMATED and not was_said(MORE_PAGES) and getattr(image, "is_animated", False):
        say_more_pages(path)


@contextlib.contextmanager
def open_header(path: Path | str) -> Iterator[Image.Image]:
    """Reads the header only; nearly any error may be raised."""
    with open(path, "rb") as file:  # Pillow maps what it has a path of; see `TiffTags.is_scrambled_when_mapped`
        with _WARNINGS, warnings.catch_warnings():
            # Pillow warns from half of its limit on; here the limit is `max_pixels`, and a refusal is an error
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file, formats=_FORMATS)
        with image:
            yield image


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


def _reason(name: Path | str, error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"too large; allowed: {MAX_PIXELS} pixels ({error})"
    if isinstance(error, Image.UnidentifiedImageError):
        kind = kind_of_file(name)
        if kind is not None:
            return f"{kind}; allowed: JPEG, PNG, WebP, TIFF, BMP and GIF"
        return "not a JPEG, PNG, WebP, TIFF, BMP or GIF image, or cut off in its header"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _upright(picture: Image.Image, stored: Image.Image) -> Image.Image:
    """The picture that was made of a stored image, turned as that one's EXIF data say."""
    try:
        turn = TURNS.get(stored.getexif().get(ORIENTATION, 1))
    except Exception:  # a photo with damaged EXIF data is still a photo
        turn = None
    return picture if turn is None else picture.transpose(turn)


def _eight_bit(image: Image.Image, path: Path | str, nodata: float | None) -> Image.Image:
    """Any Pillow mode -> RGB or L without loss of range.

    Args:
        nodata: the value for no data, of a TIFF in a mode whose values are those stored.
    """
    if image.mode in ("I", "F"):
        values = np.asarray(image)
        return Image.fromarray(own_range(values, where_no_data(values, nodata), path, warn=nodata is None))
    missing = None if nodata is None else _missing(image, nodata)
    if image.mode.startswith("I;16"):
        # Pillow's own conversion of 16 bits clips at 255
        picture = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.has_transparency_data:
        # of premultiplied grey Pillow knows one conversion only
        layer = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        # the colour under full transparency is arbitrary, often black; paper is white
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, layer).convert("RGB")
    else:
        picture = image.convert("RGB") if image.mode != "L" else image
    return picture if missing is None else _painted(picture, "black", missing)


def _painted(picture: Image.Image, colour: str, where: np.ndarray) -> Image.Image:
    picture = picture.copy()  # it may be the caller's own
    picture.paste(colour, None, Image.fromarray(where))
    return picture


def _missing(image: Image.Image, nodata: float) -> np.ndarray | None:
    """(H, W), true where an image of one of these modes has no data; None for nowhere, and for other modes."""
    if image.mode not in ("L", "RGB") and not image.mode.startswith("I;16"):
        return None
    found = where_no_data(np.asarray(image), nodata)
    return found if found is None or found.ndim == 2 else np.asarray(found.all(axis=2))
