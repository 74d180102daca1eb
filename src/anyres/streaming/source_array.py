"""Sources that are arrays, in memory or mapped from a file, and sources of the caller's own making."""

from pathlib import Path
from typing import Any

import numpy as np

from anyres.data.mapped_file import MappedFile
from anyres.data.source_base import OpenSource, Source, check_dtype, name_of
from anyres.errors import UnreadableImageError


class ArraySource(OpenSource):
    """A numpy array or memmap, (height, width, channels) or (height, width)."""

    def __init__(self, array: np.ndarray, name: str | None = None) -> None:
        self.name = name or f"array {array.shape} {array.dtype}"
        if array.ndim not in (2, 3) or 0 in array.shape:
            raise ValueError(
                f"{self.name}: the shape is {array.shape}; allowed: (height, width, channels) and (height, width), "
                "each at least 1"
            )
        check_dtype(self.name, array.dtype)
        self.size = (array.shape[0], array.shape[1])
        self._array = array
        self._guard = MappedFile(array)

    def _read(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        self._guard.check()
        return np.array(self._array[y : y + height, x : x + width])  # a copy: the file is read here and now


class GivenSource(OpenSource):
    """An object of the caller with `size` and `read_region`. It is not closed here."""

    def __init__(self, source: Source) -> None:
        self.name = name_of(source)
        size = source.size
        if not (
            isinstance(size, tuple | list)
            and len(size) == 2
            and all(isinstance(side, int | np.integer) and side >= 1 for side in size)
        ):
            raise ValueError(f"{self.name}: size is {size!r}; allowed: (height, width) in pixels, each at least 1")
        self.size = (int(size[0]), int(size[1]))
        self._source = source

    def _read(self, y: int, x: int, height: int, width: int) -> Any:
        return self._source.read_region(y, x, height, width)


def open_npy(path: Path) -> ArraySource:
    """A .npy file, which is mapped and not loaded."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UnreadableImageError(path, error) from error
    return ArraySource(array, str(path))
