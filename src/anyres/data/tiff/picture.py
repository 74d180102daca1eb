"""A TIFF page as an 8-bit picture, read with tifffile: for what Pillow does not read right."""

import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image

from anyres.data.said_once import say_more_channels
from anyres.data.tiff.source import TiffSource
from anyres.data.tiff.tags import TiffTags
from anyres.data.value_range import own_range
from anyres.errors import UnreadableImageError


def open_picture(path: Path | str, tags: TiffTags) -> TiffSource:
    """The first page, whose size is known then; UnreadableImageError if it is of no kind that is read, or cannot be
    read for want of a package."""
    if importlib.util.find_spec("tifffile") is None:
        raise UnreadableImageError(
            path, f'{tags}: a TIFF that Pillow does not read right needs tifffile: pip install "anyres[huge-images]"'
        )
    try:
        return TiffSource(path, nodata=tags.nodata, as_picture=True)
    except ImportError as error:
        raise UnreadableImageError(path, str(error).removeprefix(f"{path}: ")) from error


def as_picture(source: TiffSource) -> Image.Image:
    """Mode L or RGB. Unsigned integers of up to 31 bits are scaled by their bits, everything else by its own range."""
    pixels, missing = source.read_known(0, 0, *source.size)
    channels = pixels.shape[2]
    if channels > 3 and source.meaning.colours == 3:
        say_more_channels(source.name)
        pixels, missing = pixels[..., :3], missing if missing is None else missing[..., :3]
    elif channels not in (1, 3):
        raise UnreadableImageError(
            source.name, f"{channels} channels; allowed in a picture: 1, and 3 for red, green and blue, and an alpha"
        )
    if source.meaning.known_range:
        shown = (pixels >> (pixels.dtype.itemsize * 8 - 8)).astype(np.uint8)
    else:
        is_named = source.nodata is not None
        shown = own_range(pixels, missing, source.name, warn=not is_named)
    return Image.fromarray(shown[..., 0] if shown.shape[2] == 1 else shown)
