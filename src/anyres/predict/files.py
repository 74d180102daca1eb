"""The loop over files of any mix of sizes: whole images several at a time, large ones by windows."""

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from anyres.data.decode import read_image
from anyres.errors import UnreadableImageError
from anyres.free_memory import give_back_free_memory
from anyres.predict.file_plan import Failure, Item, groups, item_source, looked_at, planned, window_starts
from anyres.predict.files_config import FilesConfig
from anyres.predict.memory_budget import Needs
from anyres.streaming.sources import OpenSource

Entry = dict[str, Any]


class Predictor(ABC):
    """A model and what is written of an image. Entries have "path", "height" and "width" besides what they add."""

    needs: Needs
    channels: int

    @abstractmethod
    def check(self, items: Sequence[Item]) -> None:
        """ImportError for a missing package that these need, before any image is read."""

    @abstractmethod
    def whole(self, items: Sequence[Item], images: Sequence[Image.Image]) -> list[Entry]:
        """Images in one call of the model."""

    @abstractmethod
    def by_windows(self, item: Item, source: OpenSource, seen: Callable[[int], object]) -> Entry:
        """An image that is read region by region; `seen` is told the number of windows that are done."""


def predict_files(
    config: FilesConfig, paths: Sequence[Path], predictor: Predictor, what: str, *, progress: bool
) -> list[Entry]:
    """An entry per image in the order of the paths; {"path", "error"} for one that cannot be read.

    Raises:
        ValueError: a memory budget too small for one of the images, before any is decoded.
        UnreadableImageError, SourceError: with `strict`, at the first file that cannot be read.
    """
    items = [planned(looked_at(index, path, config), config, predictor.needs) for index, path in enumerate(paths)]
    predictor.check(items)
    entries: list[Entry] = [{} for _ in items]

    def fail(item: Item, error: Exception) -> None:
        if config.strict:
            raise error
        entries[item.index] = {"path": str(item.path), "error": str(error)}

    bar = tqdm(total=len(items), desc=what, unit="image", file=sys.stderr, disable=not progress)
    with bar:
        for item in items:
            if item.error is not None:
                fail(item, item.error)
                bar.update()
        readable = [item for item in items if item.error is None]
        for group in groups([item for item in readable if item.window is None], config, predictor.needs):
            _whole(group, config, predictor, entries, fail)
            give_back_free_memory()
            bar.update(len(group))
        for item in readable:
            if item.window is not None:
                _by_windows(item, config, predictor, entries, fail, progress)
                bar.update()
    return entries


def _whole(
    group: Sequence[Item],
    config: FilesConfig,
    predictor: Predictor,
    entries: list[Entry],
    fail: Callable[[Item, Exception], None],
) -> None:
    images, read = [], []
    for item in group:
        try:
            images.append(read_image(item.path, max_pixels=config.max_pixels, channels=predictor.channels))
            read.append(item)
        except UnreadableImageError as error:
            fail(item, error)
    for item, entry in zip(read, predictor.whole(read, images) if read else [], strict=True):
        entries[item.index] = entry


def _by_windows(
    item: Item,
    config: FilesConfig,
    predictor: Predictor,
    entries: list[Entry],
    fail: Callable[[Item, Exception], None],
    progress: bool,
) -> None:
    try:
        with item_source(item, config, predictor.channels) as source:
            count = math.prod(len(each) for each in window_starts(source.size, item.window or source.size))
            name = item.path.name
            with tqdm(total=count, desc=name, unit="window", file=sys.stderr, leave=False, disable=not progress) as bar:

                def seen(windows: int) -> None:
                    bar.update(windows)
                    give_back_free_memory()

                entry = predictor.by_windows(item, source, seen)
        entries[item.index] = entry | {"window": list(item.window or source.size)}
    except Failure as error:
        fail(item, error)
