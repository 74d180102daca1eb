"""What `anyres encode` is given: files with their labels, and which of them are too large to be held whole."""

import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from anyres.data.decode import IMAGE_SUFFIXES, MAX_PIXELS, check_pixel_count, others_may_read, stored_size
from anyres.data.folder import find_images
from anyres.errors import Unreadable, UnreadableImageError
from anyres.sizes import Size
from anyres.streaming.source_slide import SLIDE_SUFFIXES
from anyres.streaming.sources import is_read_in_parts, open_source

_OF_MANY_FILES = frozenset({".dcm", ".vms", ".vmu"})  # slides: every part would be found, as a slide or an image
FOLDER_SUFFIXES = (IMAGE_SUFFIXES | SLIDE_SUFFIXES | {".btf", ".tf2", ".tf8", ".npy"}) - _OF_MANY_FILES
"""What is looked for in folders; a file named outright is taken whatever its suffix."""

_PORTION_PIXELS = 2**28
_LEAST_PIXELS = 2**18  # that an image counts for: the trunk costs the same for a small one


@dataclass(frozen=True)
class LabelledFile:
    """One image file."""

    path: Path
    label: str | None
    """The first folder below the input folder, as in training; None for a file without one or named outright."""


@dataclass(frozen=True)
class SizedFile(LabelledFile):
    """An input whose header was looked at."""

    size: Size
    """(height, width) in pixels as stored; (0, 0) if unknown."""
    is_source: bool = False
    """Whether it is read by `open_source`: TIFF, slides, arrays, and formats that Pillow does not know."""
    is_huge: bool = False
    """Whether it is to be encoded piece by piece."""
    error: Unreadable | None = None
    """Why it cannot be read, if that is known already."""


def find_inputs(paths: Iterable[Path], list_file: Path | None) -> list[LabelledFile]:
    """Every image once, in the order of the paths and then of the list, sorted within a folder.

    Raises:
        ValueError: a list that cannot be read or is empty, a path that does not exist, a folder without images.
    """
    given = list(paths)
    if list_file is not None:
        try:
            lines = os.fsdecode(list_file.read_bytes()).splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"the list {list_file} cannot be read ({error}); allowed: one path per line") from error
        given += [Path(line.strip()) for line in lines if line.strip()]
    if not given:
        raise ValueError(f"the list {list_file} is empty; allowed: one path per line")
    found: dict[Path, LabelledFile] = {}
    for path in given:
        is_folder = path.is_dir()
        for image in _images_below(path) if is_folder else find_images([path]):
            below = image.relative_to(path).parts if is_folder else ()
            found.setdefault(image, LabelledFile(image, below[0] if len(below) > 1 else None))
    return list(found.values())


def _images_below(folder: Path) -> list[Path]:
    """Sorted; hidden files are left out, links are followed but for those that lead back up."""

    def walk() -> Iterator[Path]:
        seen = set()
        for parent, folders, files in os.walk(folder, followlinks=True):
            real = os.path.realpath(parent)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield from (Path(parent, name) for name in files if not name.startswith("."))

    found = sorted(path for path in walk() if path.suffix.lower() in FOLDER_SUFFIXES)
    if not found:
        raise ValueError(f"no images below {folder}; allowed: files ending in {', '.join(sorted(FOLDER_SUFFIXES))}")
    return found


def digest(inputs: Iterable[LabelledFile]) -> str:
    """Sixteen hexadecimal digits of the paths, the labels and the lengths of the files, to know other ones."""
    hashed = hashlib.sha256()
    for item in inputs:
        hashed.update(os.fsencode(f"{item.path}\t{item.label}\t{item.path.stat().st_size}\n"))
    return hashed.hexdigest()[:16]


def first_portion(inputs: Sequence[LabelledFile], stream_pixels: int | None) -> list[SizedFile]:
    """The first of the inputs, as many as are encoded and written together: one huge image alone, or none of them.

    Images with more than `stream_pixels` pixels are huge; with None none is. The others are taken up to a number of
    stored pixels, since a kill loses what is under way. What is taken depends on the files alone.
    """
    seen: list[SizedFile] = []
    pixels = 0
    for item in inputs:
        found = _look(item, stream_pixels)
        pixels += max(math.prod(found.size), _LEAST_PIXELS)
        if seen and (found.is_huge or pixels > _PORTION_PIXELS):
            return seen
        seen.append(found)
        if found.is_huge:
            return seen
    return seen


def _look(item: LabelledFile, stream_pixels: int | None) -> SizedFile:
    """Asks the header for the size, and whoever reads the file: the same reader whatever its size."""
    path, label = item.path, item.label
    try:
        size, is_source = _size_and_reader(path)
        if stream_pixels is None:
            check_pixel_count(path, size, MAX_PIXELS, "where all images are given one size")
    except (ValueError, ImportError, OSError) as error:  # the errors of `open_source`
        return SizedFile(path, label, (0, 0), error=Unreadable.of(path, error))
    return SizedFile(path, label, size, is_source, stream_pixels is not None and math.prod(size) > stream_pixels)


def _size_and_reader(path: Path) -> tuple[Size, bool]:
    """(height, width), and whether `open_source` reads the file. Raises what that raises."""
    if not is_read_in_parts(path):
        try:
            return stored_size(path), False
        except UnreadableImageError as error:
            if not others_may_read(path, error):
                raise
    with open_source(path) as source:
        return source.size, True
