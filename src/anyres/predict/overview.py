"""Pictures of images too large to be shown: every so many pixels, read by region."""

import numpy as np
from PIL import Image

from anyres.data.source_base import Source
from anyres.sizes import Size

_SIDE = 2048  # pixels at most
_ROWS = 256  # that are read at once, about


def picture_step(size: Size) -> int:
    """How many pixels of an image become one of its picture, on each side."""
    return max(1, -(-max(size) // _SIDE))


def overview(source: Source) -> Image.Image:
    """The picture of a source of 8 or 16 bits, in colour."""
    step, (height, width) = picture_step(source.size), source.size
    rows = []
    for top in range(0, height, max(_ROWS // step, 1) * step):
        count = min(max(_ROWS // step, 1) * step, height - top)
        rows.append(np.asarray(source.read_region(top, 0, count, width))[::step, ::step])
    pixels = np.concatenate(rows)
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels).convert("RGB")
