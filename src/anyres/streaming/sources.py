"""Where the pixels of an image come from that need not fit into memory: one function that opens them all."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from anyres.data.decode import others_may_read, read_image, stored_size
from anyres.data.source_base import OpenSource, Source
from anyres.data.tiff.source import TiffSource
from anyres.data.tiff.tags import TIFF_STARTS
from anyres.errors import UnreadableImageError
from anyres.streaming.source_array import ArraySource, GivenSource, open_npy
from anyres.streaming.source_slide import SLIDE_SUFFIXES, SlideSource
from anyres.streaming.source_vips import VipsSource

__all__ = ["CACHE_BYTES", "OpenSource", "Source", "is_read_in_parts", "open_source"]

CACHE_BYTES = 2**27
"""Decoded tiles that are kept: a row of 256x256 RGB tiles across an image 170,000 pixels wide."""

_NPY = b"\x93NUMPY"


def open_source(
    source: str | Path | np.ndarray | Source,
    *,
    level: int = 0,
    cache_bytes: int | None = None,
    nodata: float | None = None,
) -> OpenSource:
    """Open an image for reading in parts; close it with `with` or `.close()`.

    Args:
        source: one of
            - a numpy array or memmap, (height, width, channels) or (height, width);
            - a path to a .npy file, which is mapped;
            - a path to a slide that OpenSlide reads, by its suffix (extra `slides`): RGB, unscanned parts white;
            - a path to a TIFF file, tiled or striped, of any size (extra `huge-images`): 8, 16 and 32 bits and floats
              as stored, any number of channels; grey, RGB, palette and YCbCr JPEG; other colours are refused
              (docs/formats.md). What has no data is 0: NaN and the value that the file names;
            - a path to a JPEG, PNG, WebP, BMP or GIF file of up to `decode.MAX_PIXELS` pixels: 8-bit RGB as
              `read_image` says, in memory as a whole;
            - a path to any other image that libvips reads (extra `huge-images`);
            - any object with `size`, which is (height, width), and `read_region(y, x, height, width)`, which gives an
              array. It stays open.
            Files are turned upright as they ask for (EXIF, TIFF), and alpha is laid on white. Arrays and objects are
            taken as they are.
        level: of a pyramid, 0 is the finest. TIFF and slides.
        cache_bytes: decoded tiles to keep, `CACHE_BYTES` if unset. TIFF and slides.
        nodata: the stored value that stands for no data; None: as the file says (GDAL_NODATA). TIFF.

    Raises:
        ValueError: something else is given, a shape or type of pixels that is not read, a level that there is not,
            or a setting without effect on this source.
        UnreadableImageError: a file that cannot be read, naming it and the reason.
        SourceError: a TIFF file that is cut short, naming the first part that is missing.
        ImportError: a package is missing, naming the extra that brings it.
    """
    if cache_bytes is not None and cache_bytes < 0:
        raise ValueError(f"cache_bytes is {cache_bytes}; allowed: 0 and more")
    if not isinstance(source, str | os.PathLike):
        check_idle(type(source).__name__, level, cache_bytes, nodata)
        return _open_object(source)
    path = Path(source)
    start = _start(path)
    kept = CACHE_BYTES if cache_bytes is None else cache_bytes
    if path.suffix.lower() in SLIDE_SUFFIXES:
        check_idle(str(path), 0, None, nodata)
        return SlideSource(path, level=level, cache_bytes=kept)
    if start.startswith(TIFF_STARTS):
        return TiffSource(path, level=level, cache_bytes=kept, nodata=nodata)
    check_idle(str(path), level, cache_bytes, nodata)
    if not start:
        raise UnreadableImageError(path, "the file is empty")
    return open_npy(path) if start.startswith(_NPY) else _open_picture(path)


def is_read_in_parts(path: Path) -> bool:
    """Whether a file is a TIFF, a slide or an array, told as `open_source` tells it; UnreadableImageError as there."""
    return path.suffix.lower() in SLIDE_SUFFIXES or _start(path).startswith((*TIFF_STARTS, _NPY))


def _open_object(source: Any) -> OpenSource:
    if isinstance(source, np.ndarray):
        return ArraySource(source)
    if isinstance(source, Source) and callable(source.read_region):
        return source if isinstance(source, OpenSource) else GivenSource(source)
    raise ValueError(
        f"a source is given as {type(source).__name__}; allowed: a path, a numpy array (height, width, channels), "
        "and an object with size and read_region(y, x, height, width)"
    )


def check_idle(name: str, level: int, cache_bytes: int | None, nodata: float | None = None) -> None:
    """Raises ValueError for a setting of `open_source` that has no effect on what `name` is."""
    for setting, is_idle, where in (
        ("level", level == 0, "TIFF files and slides"),
        ("cache_bytes", cache_bytes is None, "TIFF files and slides"),
        ("nodata", nodata is None, "TIFF files"),
    ):
        if not is_idle:
            raise ValueError(f"{name}: {setting} is set, which has an effect on {where} only")


def _start(path: Path) -> bytes:
    """The first bytes, by which formats are told apart."""
    try:
        with open(path, "rb") as file:
            return file.read(8)
    except OSError as error:
        raise UnreadableImageError(path, error.strerror or error) from error


def _open_picture(path: Path) -> OpenSource:
    """With Pillow if it reads the header and the image is small enough, or else with libvips."""
    try:
        stored_size(path)
    except UnreadableImageError as refused:
        try:
            return VipsSource(path)
        except ImportError as error:
            if not others_may_read(path, refused):
                raise refused from None  # damaged: the package that is missing would not help
            raise ImportError(f"{error}; without it: {refused}") from error
    return ArraySource(np.asarray(read_image(path)), str(path))
