"""Arrays that are mapped from a file, which may become shorter."""

import mmap
from typing import Any

import numpy as np


class MappedFile:
    """The file that an array is mapped from, if any.

    Touching a mapped page that the file has lost kills the process, so its length is asked for before every read.
    """

    def __init__(self, array: np.ndarray) -> None:
        base: Any = array
        while base is not None and not isinstance(base, mmap.mmap):
            base = getattr(base, "base", None)
        self._mapping: mmap.mmap | None = base
        self._length = 0 if base is None else base.size()

    def check(self) -> None:
        """Raises OSError if the file has become shorter."""
        if self._mapping is not None and self._mapping.size() < self._length:
            raise OSError(f"the file is cut short: {self._mapping.size()} of {self._length} bytes are left")
