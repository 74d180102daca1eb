"""What every source of pixels has in common: its interface, the check of a region, levels and missing packages."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np


@runtime_checkable
class Source(Protocol):
    """An image that is read in parts, and may be larger than memory."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""

    def read_region(self, y: int, x: int, height: int, width: int) -> Any:
        """The pixels of rows y..y+height and columns x..x+width: an array (height, width, channels) or, for one
        channel, (height, width), always of the same type."""


class OpenSource(ABC):
    """A `Source` that `open_source` has opened: it has a name for messages, and is closed by `with` or `close`.

    Regions may be read by several threads at once.
    """

    name: str
    size: tuple[int, int]

    def read_region(self, y: int, x: int, height: int, width: int) -> Any:
        """Pixels of the region (height, width, channels) or (height, width); ValueError where it leaves the image."""
        check_region(self.name, self.size, (y, x, height, width))
        return self._read(y, x, height, width)

    @abstractmethod
    def _read(self, y: int, x: int, height: int, width: int) -> Any:
        """The same for a region that lies within the image."""

    def close(self) -> None:  # noqa: B027  (most sources hold nothing open)
        """Lets go of the files; afterwards nothing can be read."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def name_of(source: Source) -> str:
    """For messages: its own name if it has one, or that of its class."""
    return str(getattr(source, "name", None) or type(source).__name__)


def describe_region(y: int, x: int, height: int, width: int) -> str:
    return f"rows {y}..{y + height}, columns {x}..{x + width}"


def check_region(name: str, size: tuple[int, int], region: tuple[int, int, int, int]) -> None:
    """Raises ValueError unless the region (y, x, height, width) is at least one pixel and lies within the size."""
    y, x, height, width = region
    if y < 0 or x < 0 or height < 1 or width < 1 or y + height > size[0] or x + width > size[1]:
        raise ValueError(
            f"{name}: {describe_region(*region)} asked for; allowed: at least one row and one column within "
            f"{describe_region(0, 0, *size)}"
        )


def check_dtype(name: str, dtype: np.dtype) -> None:
    """Raises ValueError for types of pixels without a range that is known."""
    if dtype.kind in "iu" and dtype.itemsize == 8:
        raise ValueError(
            f"{name}: pixels are {dtype}, surely not their full range; convert them, to uint8 for instance"
        )
    if dtype.kind not in "iuf":
        raise ValueError(f"{name}: pixels are {dtype}; allowed: integers of 8, 16 and 32 bits, and floats")


def check_level(name: str, level: int, sizes: Sequence[tuple[int, int]]) -> None:
    """Raises ValueError unless `level` counts one of the sizes, of which 0 is the largest."""
    if not 0 <= level < len(sizes):
        listed = ", ".join(f"{index} ({height}x{width})" for index, (height, width) in enumerate(sizes))
        raise ValueError(f"{name}: level is {level}; allowed: {listed}")


def import_extra(package: str, extra: str, purpose: str) -> ModuleType:
    """An optional package, or the one ImportError that says how to get it."""
    try:
        return importlib.import_module(package)
    except (ImportError, OSError) as error:  # OSError: the package is there, the library that it binds is not
        raise ImportError(f'{purpose} needs {package}: pip install "anyres[{extra}]" ({error})') from error
