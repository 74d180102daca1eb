"""What `anyres encode` is given: files with their labels, and which of them are too large to be held whole."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from anyres.data.decode import IMAGE_SUFFIXES, stored_size
from anyres.data.folder import find_images
from anyres.data.schedule import Size
from anyres.errors import SourceError, UnreadableImageError
from anyres.streaming.sources import open_source


@dataclass(frozen=True)
class Input:
    """One image file."""

    path: Path
    label: str | None
    """The first folder below the input folder, as in training; None for a file without one or named outright."""


@dataclass(frozen=True)
class Seen(Input):
    """An input whose header was looked at."""

    size: Size
    """(height, width) in pixels as stored; (0, 0) if unknown."""
    is_huge: bool = False
    """Whether it is to be encoded piece by piece."""
    error: str | None = None
    """Why it cannot be read, if that is known already."""


def find_inputs(paths: Iterable[Path], list_file: Path | None) -> list[Input]:
    """Every image once, in the order of the paths and then of the list, sorted within a folder.

    Raises:
        ValueError: a list that cannot be read or is empty, a path that does not exist, a folder without images.
    """
    given = list(paths)
    if list_file is not None:
        try:
            lines = list_file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"the list {list_file} cannot be read ({error}); allowed is one path per line") from error
        given += [Path(line.strip()) for line in lines if line.strip()]
    if not given:
        raise ValueError(f"the list {list_file} is empty; allowed is one path per line")
    found: dict[Path, Input] = {}
    for path in given:
        is_folder = path.is_dir()
        for image in find_images([path]):
            below = image.relative_to(path).parts if is_folder else ()
            found.setdefault(image, Input(image, below[0] if len(below) > 1 else None))
    return list(found.values())


def digest(inputs: Iterable[Input]) -> str:
    """Sixteen hexadecimal digits of the paths, the labels and the lengths of the files, to know other ones."""
    hashed = hashlib.sha256()
    for item in inputs:
        hashed.update(f"{item.path}\t{item.label}\t{item.path.stat().st_size}\n".encode())
    return hashed.hexdigest()[:16]


def first_window(inputs: Sequence[Input], stream_pixels: int | None) -> list[Seen]:
    """The first of the inputs, as many as are encoded and written together: one huge image alone, or none of them.

    Images with more than `stream_pixels` pixels are huge; with None none is.
    """
    seen: list[Seen] = []
    for item in inputs:
        found = _look(item, stream_pixels)
        if found.is_huge:
            return seen or [found]
        seen.append(found)
    return seen


def _look(item: Input, stream_pixels: int | None) -> Seen:
    """Asks the header for the size. What Pillow cannot open, or not whole, may be a source for streaming."""
    path, label = item.path, item.label
    try:
        size = stored_size(path)
        return Seen(path, label, size, stream_pixels is not None and math.prod(size) > stream_pixels)
    except UnreadableImageError as error:
        is_too_large = isinstance(error.__cause__, Image.DecompressionBombError)
        is_pillows = path.suffix.lower() in IMAGE_SUFFIXES - {".tif", ".tiff"}  # no other reader knows better
        if stream_pixels is None or (is_pillows and not is_too_large):
            return Seen(path, label, (0, 0), error=str(error))
    try:
        with open_source(path) as source:
            return Seen(path, label, source.size, is_huge=True)
    except (UnreadableImageError, SourceError, OSError) as error:
        return Seen(path, label, (0, 0), error=str(error))
