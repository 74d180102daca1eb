"""A model at work on the inputs of `anyres encode`, a few at a time."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anyres.data.ahead import read_ahead
from anyres.data.decode import read_image
from anyres.errors import OtherWorkError, SourceError, Unreadable, UnreadableImageError
from anyres.models.features import Features
from anyres.models.vitar import ViTAR
from anyres.predict.encode_inputs import LabelledFile, SizedFile
from anyres.predict.loop import Loaded
from anyres.predict.plan import groups
from anyres.predict.preparation import Preparation, as_images
from anyres.sizes import Size
from anyres.streaming.records import Record
from anyres.streaming.sources import OpenSource, open_source
from anyres.streaming.stream import stream


@dataclass(frozen=True)
class Encoder:
    """Makes records of inputs. One that cannot be read has an `Unreadable` instead, anything else is raised."""

    model: ViTAR
    prepare: Preparation
    max_pixels: int
    """Of a file that is decoded as a whole."""
    batch_size: int
    dtype: torch.dtype
    """Of the tokens in the records."""
    progress: bool

    def encode(self, portion: Sequence[SizedFile], unfinished: Path, bar: Any) -> list[Record | Unreadable]:
        """A record for every input, or why there is none; `unfinished` keeps what is done of a huge image."""
        if portion[0].is_huge:
            found: list[Record | Unreadable] = [self._stream(portion[0], unfinished)]
            bar.update()
            return found
        results: list[Any] = [item.error for item in portion]
        readable = [place for place, item in enumerate(portion) if item.error is None]
        bar.update(len(portion) - len(readable))
        with closing(read_ahead(lambda group: self._load(group, portion), self._groups(portion, readable))) as ahead:
            for group, loaded in ahead:
                self._encode_group(loaded, portion, results)
                bar.update(len(group))
        return results

    def _groups(self, portion: Sequence[SizedFile], places: Sequence[int]) -> Iterator[list[int]]:
        """These places in the portion, gathered for one call of the model each."""
        sizes = [portion[place].size for place in places]
        costs = [max(math.prod(size), math.prod(self.prepare.seen_size(size))) for size in sizes]
        return ([places[i] for i in group] for group in groups(sizes, self.batch_size, costs))

    def _load(self, group: Sequence[int], portion: Sequence[SizedFile]) -> dict[int, Loaded | Unreadable]:
        """Images of a group by their place in the portion, or why they cannot be read."""
        found: dict[int, Loaded | Unreadable] = {}
        for place in group:
            try:
                found[place] = self._load_one(portion[place])
            except (ValueError, ImportError, OSError) as error:  # SourceError and UnreadableImageError among them
                found[place] = Unreadable.of(portion[place].path, error)
        return found

    def _load_one(self, item: SizedFile) -> Loaded:
        if item.is_source:
            with open_source(item.path) as source:
                return Loaded(source.size, self.prepare.from_source(source))
        image = read_image(item.path, max_pixels=self.max_pixels, channels=self.prepare.model.in_channels)
        return Loaded((image.height, image.width), self.prepare(image))

    def _stream(self, item: SizedFile, unfinished: Path) -> Record | Unreadable:
        """Where reading fails, `unfinished` stays. An OSError of writing it is none of reading, and is raised."""
        try:
            source = open_source(item.path)
        except (ValueError, ImportError, OSError) as error:
            return Unreadable.of(item.path, error)
        with source:
            try:
                features = self._features(item, source, unfinished)
            except (UnreadableImageError, SourceError) as error:
                return Unreadable.of(item.path, error)
            return self._record(item, features.tokens[0], source.size)

    def _features(self, item: SizedFile, source: OpenSource, unfinished: Path) -> Features:
        given = item.path if item.is_source else source  # the latter is decoded already
        try:
            return stream(self.model, given, resume=unfinished, progress=self.progress)
        except OtherWorkError as error:
            warnings.warn(f"{item.path} is begun anew: {error}", stacklevel=2)
            unfinished.unlink()
            return stream(self.model, given, resume=unfinished, progress=self.progress)

    def _encode_group(
        self,
        loaded: Mapping[int, Loaded | Unreadable],
        portion: Sequence[SizedFile],
        results: list[Record | Unreadable],
    ) -> None:
        """Fill in the results of a group."""
        images: list[Tensor] = []
        readable: list[tuple[int, Size]] = []
        for index, found in loaded.items():
            if isinstance(found, Unreadable):
                results[index] = found
                continue
            images.append(found.pixels.to(next(self.model.parameters()).device))
            readable.append((index, found.size))
        if not readable:
            return
        tokens = self.model.forward_features(as_images(images)).tokens  # of each image (rows, cols, D)
        for (index, size), grid in zip(readable, tokens, strict=True):
            results[index] = self._record(portion[index], grid, size)

    def _record(self, item: LabelledFile, tokens: Tensor, size: Size) -> Record | Unreadable:
        """The record of an image, unless its tokens leave the range of the type on disk."""
        stored = tokens.to(self.dtype).cpu()
        if not stored.isfinite().all():
            largest, name = tokens.abs().max().item(), str(self.dtype).removeprefix("torch.")
            reason = f"its tokens, up to {largest:g}, are not finite in {name}; bfloat16 has the range of float32"
            return Unreadable(item.path, reason)
        return Record(tokens=stored, source=str(item.path), label=item.label, size=size)
