"""Label maps on disk: PNG of a whole one, and tiled TIFF of one that is made a few rows at a time."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from anyres.data.source_base import import_extra
from anyres.files import write_atomically
from anyres.predict.pictures import palette
from anyres.sizes import Size

_TILE = 256


def write_label_rows(path: Path, rows: Iterable[np.ndarray], size: Size) -> None:
    """Writes a label map of (height, width) as a tiled, compressed TIFF with the same palette, while it is made.

    Args:
        path: is there when all of it is written, and not before.
        rows: labels (any number of rows, width) uint8, from the top down.

    Raises:
        ImportError: without tifffile.
    """
    tifffile = tiff_module()
    options = {"shape": size, "dtype": np.uint8, "tile": (_TILE, _TILE), "compression": "zlib"}
    options |= {"photometric": "palette", "colormap": palette().T.astype(np.uint16) * 257, "metadata": None}
    is_big = size[0] * size[1] > 2**31  # a classic TIFF ends at 4 GB
    write_atomically(path, lambda file: tifffile.imwrite(file, _tiles(rows, size[1]), bigtiff=is_big, **options))


def tiff_module() -> Any:
    """ImportError that says how to get it."""
    return import_extra("tifffile", "huge-images", "a label map of an image larger than memory")


def _tiles(rows: Iterable[np.ndarray], width: int) -> Iterator[np.ndarray]:
    """Square tiles, filled up with 0 at the right and below."""
    for band in bands(rows, _TILE):
        whole = np.zeros((_TILE, -(-width // _TILE) * _TILE), dtype=np.uint8)
        whole[: len(band), :width] = band
        for left in range(0, width, _TILE):
            yield np.ascontiguousarray(whole[:, left : left + _TILE])


def bands(rows: Iterable[np.ndarray], height: int) -> Iterator[np.ndarray]:
    """The same rows, `height` of them at a time; at the end what is left."""
    waiting: list[np.ndarray] = []
    count = 0
    for part in rows:
        waiting.append(part)
        count += len(part)
        if count < height:
            continue
        joined = np.concatenate(waiting)
        for top in range(0, count - height + 1, height):
            yield joined[top : top + height]
        waiting, count = [joined[count - count % height :]], count % height
    if count:
        yield np.concatenate(waiting)
