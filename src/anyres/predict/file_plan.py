"""Which files are looked at whole, how many of them at a time, and which by windows and by what windows."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from anyres.amounts import show_bytes
from anyres.data.decode import IMAGE_SUFFIXES, read_image, stored_size
from anyres.errors import SourceError, UnreadableImageError
from anyres.predict.files_config import FilesConfig
from anyres.predict.memory_budget import MOST_AT_ONCE, Needs, decoding_bytes, fitting_windows
from anyres.predict.sliding import starts, usual_step
from anyres.sizes import Size
from anyres.streaming.source_array import ArraySource
from anyres.streaming.sources import CACHE_BYTES, OpenSource, is_read_in_parts, open_source

Failure = (UnreadableImageError, SourceError)
"""What is wrong with a file, and not with the settings."""


@dataclass(frozen=True)
class Item:
    """One input and how it is looked at."""

    index: int
    path: Path
    size: Size
    """(height, width) in pixels as stored"""
    by_region: bool = False
    """too large to be decoded as a whole"""
    window: Size | None = None
    """None: whole"""
    at_once: int = 1
    """windows in one call of the model"""
    error: Exception | None = None

    @property
    def is_huge(self) -> bool:
        """Whether it is never in memory as a whole."""
        return self.by_region and self.error is None and is_read_in_parts(self.path)


def planned(item: Item, config: FilesConfig, needs: Needs) -> Item:
    """With the windows that it is looked at by, if any."""
    if item.error is not None:
        return item
    budget = config.budget
    given, reason = config.window_size, config.needs_whole()
    has_room = budget is None or needs.whole(item.size) <= budget
    if not item.by_region and (reason is not None or given is None) and has_room:
        return item
    if reason is not None or config.window == "none":
        why = f"{reason} needs whole images" if reason else "window is none"
        limit = f"max_pixels={config.max_pixels}"
        if budget is not None and not item.by_region:
            limit = f"{show_bytes(budget)}, where it needs {show_bytes(needs.whole(item.size))}"
        text = f"{item.size[0]}x{item.size[1]} pixels are too large for {limit}, and {why}"
        return replace(item, error=UnreadableImageError(item.path, text))
    if budget is None:
        return replace(item, window=given or needs.usual_window(), at_once=config.batch_size or 1)
    most = config.batch_size or MOST_AT_ONCE
    try:
        window, at_once = fitting_windows(
            needs, item.size, given, most, budget, held=_held(item), decoding=_decoding(item)
        )
    except ValueError as error:
        raise ValueError(f"{item.path}: {error}") from error
    return replace(item, window=window, at_once=at_once)


def _held(item: Item) -> int:
    """Bytes of the image itself that are in memory while it is read by region: decoded tiles, or all of it and of its
    label map."""
    decoded = 6 * math.prod(item.size)
    return min(decoded, CACHE_BYTES) if item.is_huge else decoded


def _decoding(item: Item) -> int:
    """Bytes at the peak of decoding all of it, before the model is called."""
    return 0 if item.is_huge else decoding_bytes(item.path, math.prod(item.size))


def groups(items: Sequence[Item], config: FilesConfig, needs: Needs) -> Iterator[list[Item]]:
    """Images for one call each, equal sizes side by side, as many as are asked for and have room."""
    budget = config.budget
    most = config.batch_size or (1 if budget is None else MOST_AT_ONCE)
    group: list[Item] = []
    need = 0
    for item in sorted(items, key=lambda item: (item.size, item.index)):
        own = 0 if budget is None else needs.whole(item.size)
        if group and (len(group) == most or (budget is not None and need + own > budget)):
            yield group
            group, need = [], 0
        group.append(item)
        need += own
    if group:
        yield group


def item_source(item: Item, config: FilesConfig, channels: int) -> OpenSource:
    """The image of an item that is looked at by windows; raises one of `Failure` if it cannot be read."""
    if not item.by_region:
        image = read_image(item.path, max_pixels=config.max_pixels, channels=channels)
        return ArraySource(np.asarray(image), str(item.path))
    source = _opened(item.path)
    try:
        kind = np.asarray(source.read_region(0, 0, 1, 1)).dtype
    except Exception as error:  # decoders raise nearly anything on damaged data
        source.close()
        raise UnreadableImageError(item.path, error) from error
    if kind not in (np.uint8, np.uint16):
        source.close()
        raise UnreadableImageError(
            item.path, f"pixels are {kind}, whose range no file states; by windows, allowed are uint8 and uint16"
        )
    return source


def _opened(path: Path) -> OpenSource:
    """Whatever hinders it names the file."""
    try:
        return open_source(path)
    except Failure:
        raise
    except (ValueError, ImportError, OSError) as error:
        raise UnreadableImageError(path, str(error).removeprefix(f"{path}: ")) from error


def looked_at(index: int, path: Path, config: FilesConfig) -> Item:
    """Asks the header for the size."""
    try:
        size = _small_size(path, config.max_pixels)
        if size is not None:
            return Item(index, path, size)
        if config.window != "none":
            with _opened(path) as source:
                return Item(index, path, source.size, by_region=True)
        read_image(path, max_pixels=config.max_pixels)  # refuses it
        raise AssertionError("unreachable")
    except Failure as error:
        return Item(index, path, (0, 0), error=error)


def _small_size(path: Path, max_pixels: int) -> Size | None:
    """(height, width) as stored; None for a file that is too large, or of a kind that is read by region alone."""
    try:
        size = stored_size(path)
    except UnreadableImageError as error:
        is_too_large = isinstance(error.__cause__, Image.DecompressionBombError)
        if path.suffix.lower() in IMAGE_SUFFIXES and not is_too_large and not is_read_in_parts(path):
            raise  # no other reader knows better
        return None
    return size if math.prod(size) <= max_pixels else None


def window_starts(size: Size, window: Size) -> tuple[list[int], list[int]]:
    """Rows and columns where the windows of an image begin."""
    step = usual_step(window)
    return starts(size[0], window[0], step[0]), starts(size[1], window[1], step[1])
