"""Which images are looked at whole, how many of them at a time, and which in parts: by windows, or piece by piece."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from anyres.amounts import show_bytes
from anyres.data.decode import others_may_read
from anyres.errors import UnreadableImageError
from anyres.packing import packed
from anyres.predict.inputs import Failure, Input
from anyres.predict.memory_budget import MOST_AT_ONCE, Needs, decoding_bytes, fitting_windows
from anyres.predict.sliding import starts, usual_step
from anyres.sizes import Size, size_text
from anyres.streaming.source_array import ArraySource
from anyres.streaming.sources import CACHE_BYTES, OpenSource

_GROUP_PIXELS = 2**24  # a group is closed early at this many pixels, so that large images do not pile up


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How images are looked at, as `plan` follows it."""

    max_pixels: int
    """Of an image that is decoded as a whole."""
    batch_size: int | None
    """Most images, or windows of one, at once; None: 1, or with a budget as many as fit."""
    in_parts: bool = True
    """Whether larger ones may be read by region."""
    needs_whole: str | None = None
    """The option that cannot be followed in parts, if there is one."""
    window: Size | None = None
    """Of all images; None: as it turns out."""
    budget: int | None = None
    """Bytes."""
    kept: int = 0
    """Bytes per pixel that are left in memory of an image that is never decoded as a whole."""


@dataclass(frozen=True)
class Item:
    """One input and how it is looked at."""

    input: Input
    size: Size
    """(height, width) in pixels as stored."""
    by_region: bool = False
    """Too large to be decoded as a whole."""
    window: Size | None = None
    """None: no windows."""
    at_once: int = 1
    """Windows in one call of the model."""
    error: Exception | None = None

    @property
    def in_parts(self) -> bool:
        """Whether the model never sees it as a whole."""
        return self.by_region or self.window is not None

    @property
    def is_huge(self) -> bool:
        """Whether it is never decoded as a whole."""
        return self.by_region and self.error is None and self.input.is_read_in_parts


def plan(inputs: Sequence[Input], rules: Rules, needs: Needs | None) -> list[Item]:
    """How each input is looked at; without `needs` the model knows no windows.

    Raises:
        ValueError: a budget too small for one of the images.
    """
    items = [_looked_at(each, rules) for each in inputs]
    return items if needs is None else [_planned(item, rules, needs) for item in items]


def _looked_at(given: Input, rules: Rules) -> Item:
    """Asks the header for the size."""
    try:
        size = _small_size(given, rules.max_pixels)
        if size is not None:
            return Item(given, size)
        if rules.in_parts:
            with given.open() as source:
                return Item(given, source.size, by_region=True)
        given.read(max_pixels=rules.max_pixels, channels=3)  # refuses it
        raise AssertionError("unreachable")
    except Failure as error:
        return Item(given, (0, 0), error=error)


def _small_size(given: Input, max_pixels: int) -> Size | None:
    """(height, width) as stored; None for an image that is too large, or of a kind that is read by region alone."""
    try:
        size = given.stored_size()
    except UnreadableImageError as error:
        if given.path is not None and not given.is_read_in_parts and not others_may_read(given.path, error):
            raise
        return None
    return size if math.prod(size) <= max_pixels else None


def _planned(item: Item, rules: Rules, needs: Needs) -> Item:
    """With the windows that it is looked at by, if any."""
    if item.error is not None:
        return item
    budget = rules.budget
    has_room = budget is None or needs.whole(item.size) <= budget
    if not item.by_region and (rules.needs_whole is not None or rules.window is None) and has_room:
        return item
    if rules.needs_whole is not None or not rules.in_parts:
        return replace(item, error=UnreadableImageError(item.input.name, _refusal(item, rules, needs)))
    if budget is None:
        return replace(item, window=rules.window or needs.usual_window(), at_once=rules.batch_size or 1)
    most = rules.batch_size or MOST_AT_ONCE
    held, decoding = _held(item, rules), _decoding(item)
    try:
        window, at_once = fitting_windows(needs, item.size, rules.window, most, budget, held=held, decoding=decoding)
    except ValueError as error:
        raise ValueError(f"{item.input.name}: {error}") from error
    return replace(item, window=window, at_once=at_once)


def _refusal(item: Item, rules: Rules, needs: Needs) -> str:
    why = f"{rules.needs_whole} needs whole images" if rules.needs_whole else "window is none"
    limit = f"max_pixels={rules.max_pixels}"
    if rules.budget is not None and not item.by_region:
        limit = f"{show_bytes(rules.budget)}, where it needs {show_bytes(needs.whole(item.size))}"
    return f"{size_text(item.size)} pixels are too large for {limit}, and {why}"


def _held(item: Item, rules: Rules) -> int:
    """Bytes of the image itself that are in memory while it is read by region: decoded tiles and what is kept of it, or
    all of it and of its label map."""
    pixels = math.prod(item.size)
    return min(6 * pixels, CACHE_BYTES) + rules.kept * pixels if item.is_huge else 6 * pixels


def _decoding(item: Item) -> int:
    """Bytes at the peak of decoding all of it, before the model is called."""
    if item.is_huge or item.input.path is None:
        return 0
    return decoding_bytes(item.input.path, math.prod(item.size))


def groups(sizes: Sequence[Size], most: int, costs: Sequence[int], limit: int | None = None) -> Iterator[list[int]]:
    """Indices of images for one call of a model each: equal sizes side by side, few where large.

    Args:
        sizes: (height, width) of each.
        most: images in a group.
        costs: of each, in pixels or bytes.
        limit: that the sum of a group's costs, unless it is one image alone, stays within; 2**24 pixels if not given.
    """
    rising = [index for _, index in sorted((size, index) for index, size in enumerate(sizes))]
    return packed(costs, _GROUP_PIXELS if limit is None else limit, most=most, order=rising)


def planned_groups(
    items: Sequence[Item], rules: Rules, needs: Needs | None, seen: Sequence[Size]
) -> Iterator[list[Item]]:
    """Items that are looked at whole, for one call each: as many as are asked for and have room.

    Args:
        seen: (height, width) that the model sees of each.
    """
    sizes = [item.size for item in items]
    if rules.budget is None or needs is None:
        costs = [max(math.prod(stored), math.prod(given)) for stored, given in zip(sizes, seen, strict=True)]
        found = groups(sizes, rules.batch_size or 1, costs)
    else:
        costs = [needs.whole(size) for size in sizes]
        found = groups(sizes, rules.batch_size or MOST_AT_ONCE, costs, rules.budget)
    return ([items[index] for index in group] for group in found)


def item_source(item: Item, rules: Rules, channels: int) -> OpenSource:
    """The image of an item that is looked at in parts; raises one of `Failure` if it cannot be read."""
    if not item.by_region:
        image = item.input.read(max_pixels=rules.max_pixels, channels=channels)
        return ArraySource(np.asarray(image), str(item.input.name))
    source = item.input.open()
    try:
        kind = np.asarray(source.read_region(0, 0, 1, 1)).dtype
    except Exception as error:  # decoders raise nearly anything on damaged data
        source.close()
        raise UnreadableImageError(item.input.name, error) from error
    if kind not in (np.uint8, np.uint16):
        source.close()
        raise UnreadableImageError(
            item.input.name, f"pixels are {kind}, whose range no file states; allowed by windows: uint8 and uint16"
        )
    return source


def window_starts(size: Size, window: Size) -> tuple[list[int], list[int]]:
    """Rows and columns where the windows of an image begin."""
    step = usual_step(window)
    return starts(size[0], window[0], step[0]), starts(size[1], window[1], step[1])
