"""The loop over images of any mix of sizes: whole ones several at a time and read ahead, large ones in parts."""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

from PIL import Image
from torch import Tensor
from tqdm import tqdm

from anyres.data.ahead import read_ahead
from anyres.data.decode import MAX_PIXELS
from anyres.errors import Unreadable, UnreadableImageError
from anyres.free_memory import give_back_free_memory
from anyres.predict.inputs import Failure, Input
from anyres.predict.memory_budget import Needs
from anyres.predict.overview import overview
from anyres.predict.plan import Item, Rules, item_source, plan, planned_groups, window_starts
from anyres.predict.results import Result
from anyres.sizes import Size, size_text
from anyres.streaming.sources import OpenSource

_AHEAD = 2  # groups that are read while one is looked at


@dataclass(frozen=True)
class Loaded:
    """An image as a model takes it."""

    size: Size
    """(height, width) in pixels of the upright image."""
    pixels: Tensor
    """(C, H, W) as the model sees it."""


class Looker(ABC):
    """A model at work on images: what differs between classes, label maps and objects."""

    what: str
    """That it does, for the progress bar."""
    rules: Rules
    channels: int
    needs: Needs | None = None
    """Memory; None for a model that knows no windows."""

    def check(self, items: Sequence[Item]) -> None:  # noqa: B027  (most need nothing)
        """ImportError for a missing package that these need, before any image is read."""

    def seen_size(self, size: Size) -> Size:
        """(height, width) that the model sees of an image of this size, about."""
        return size

    @abstractmethod
    def prepare(self, image: Image.Image) -> Tensor:
        """The pixels (C, H, W) that `whole` is given of an image; called by the thread that reads."""

    @abstractmethod
    def whole(self, items: Sequence[Item], loaded: Sequence[Loaded]) -> list[Result | UnreadableImageError]:
        """Images in one call of the model."""

    @abstractmethod
    def in_parts(self, item: Item, source: OpenSource, seen: Callable[[int], object]) -> Result:
        """An image that is read region by region; `seen` is told the number of windows that are done."""

    def picture_of(self, item: Item) -> Callable[[], Image.Image]:
        """What reads an image again for drawing."""
        return partial(_picture, item, self.rules, self.channels)


def _picture(item: Item, rules: Rules, channels: int) -> Image.Image:
    if not item.in_parts:
        return item.input.read(max_pixels=rules.max_pixels, channels=channels)
    with item_source(item, rules, channels) as source:
        return overview(source)


class Loop:
    """Inputs on their way through a model.

    Raises:
        ValueError: a memory budget too small for one of the images, before any is decoded.
        ImportError: for a missing package that one of them needs.
    """

    def __init__(self, looker: Looker, inputs: Sequence[Input], *, strict: bool, progress: bool) -> None:
        self.looker, self.strict, self.progress = looker, strict, progress
        self.items = plan(inputs, looker.rules, looker.needs)
        looker.check(self.items)

    def results(self) -> Iterator[tuple[int, Result | Unreadable]]:
        """The place of every input with what is said of it, as soon as it is: in another order than theirs.

        Raises:
            UnreadableImageError, SourceError: if `strict`, at the first that cannot be read.
        """
        readable = [item for item in self.items if item.error is None]
        bar = tqdm(
            total=len(self.items), desc=self.looker.what, unit="image", file=sys.stderr, disable=not self.progress
        )
        with bar:
            for item in self.items:
                if item.error is not None:
                    yield self._failed(item, item.error)
                    bar.update()
            for found in self._whole([item for item in readable if not item.in_parts]):
                yield from found
                bar.update(len(found))
            for item in readable:
                if item.in_parts:
                    yield self._in_parts(item)
                    bar.update()

    def _failed(self, item: Item, error: Exception) -> tuple[int, Unreadable]:
        if self.strict:
            raise error
        return item.input.index, Unreadable.of(item.input.name, error)

    def _whole(self, items: Sequence[Item]) -> Iterator[list[tuple[int, Result | Unreadable]]]:
        """Group by group."""
        looker = self.looker
        seen = [looker.seen_size(item.size) for item in items]
        groups = planned_groups(items, looker.rules, looker.needs, seen)
        depth = _AHEAD if looker.rules.budget is None else 0  # what is read ahead is memory too
        with closing(read_ahead(self._load, groups, depth=depth)) as ahead:
            for group, loaded in ahead:
                found = self._looked_at(group, loaded)
                del loaded
                give_back_free_memory()
                yield [self._result(item, each) for item, each in zip(group, found, strict=True)]

    def _looked_at(
        self, group: Sequence[Item], loaded: Sequence[Loaded | UnreadableImageError]
    ) -> list[Result | UnreadableImageError]:
        found: list[Any] = list(loaded)
        read = [place for place, each in enumerate(loaded) if isinstance(each, Loaded)]
        said = self.looker.whole([group[place] for place in read], [found[place] for place in read]) if read else []
        for place, each in zip(read, said, strict=True):
            found[place] = each
        return found

    def _result(self, item: Item, found: Result | UnreadableImageError) -> tuple[int, Result | Unreadable]:
        return self._failed(item, found) if isinstance(found, UnreadableImageError) else (item.input.index, found)

    def _load(self, group: Sequence[Item]) -> list[Loaded | UnreadableImageError]:
        """Reads images, or says why they cannot be read."""
        return [self._load_one(item) for item in group]

    def _load_one(self, item: Item) -> Loaded | UnreadableImageError:
        seen, most = self.looker.seen_size(item.size), max(self.looker.rules.max_pixels, MAX_PIXELS)
        if math.prod(seen) > most:  # a strip of a few rows, brought to more
            text = f"{size_text(item.size)} pixels would be enlarged to {size_text(seen)}; allowed: {most} pixels"
            return UnreadableImageError(item.input.name, text)
        try:
            image = item.input.read(max_pixels=self.looker.rules.max_pixels, channels=self.looker.channels)
        except UnreadableImageError as error:
            return error
        return Loaded((image.height, image.width), self.looker.prepare(image))

    def _in_parts(self, item: Item) -> tuple[int, Result | Unreadable]:
        try:
            with (
                item_source(item, self.looker.rules, self.looker.channels) as source,
                self._windows(item, source) as bar,
            ):

                def seen(windows: int) -> None:
                    bar.update(windows)
                    give_back_free_memory()

                return item.input.index, self.looker.in_parts(item, source, seen)
        except Failure as error:
            return self._failed(item, error)

    def _windows(self, item: Item, source: OpenSource) -> tqdm:
        """A bar of the windows of an image, if it has any."""
        name, disable = str(item.input.name), not self.progress or item.window is None
        begins = () if item.window is None else window_starts(source.size, item.window)
        total = math.prod(len(each) for each in begins)
        return tqdm(total=total, desc=name[-40:], unit="window", file=sys.stderr, leave=False, disable=disable)
