"""A segmenter at work on images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from anyres.errors import UnreadableImageError
from anyres.models.segmenter import Segmenter
from anyres.models.weights.record import ModelInfo
from anyres.predict.config import LabelOptions
from anyres.predict.label_file import tiff_module, write_label_rows
from anyres.predict.label_maps import Inference, labels_of, prepared, seen_size
from anyres.predict.loop import Loaded, Looker
from anyres.predict.overview import picture_step
from anyres.predict.plan import Item, Rules
from anyres.predict.results import LabelMap, Result
from anyres.predict.segment_needs import SegmentNeeds
from anyres.predict.sliding import finished_rows, usual_step
from anyres.sizes import Size
from anyres.streaming.reader import RegionReader
from anyres.streaming.sources import OpenSource


class Labeller(Looker):
    """Says a class for every pixel of images.

    Args:
        label_folder: where label maps of images that are never in memory as a whole are written, row by row; None
            holds them in memory.
    """

    what = "segment"

    def __init__(
        self,
        model: Segmenter,
        info: ModelInfo,
        options: LabelOptions,
        *,
        progress: bool,
        label_folder: Path | None = None,
    ) -> None:
        self.model, self.classes, self.options, self.label_folder = model, info.classes, options, label_folder
        self.first = int(bool(info.extra.get("reduce_zero_label")))
        self.channels = model.config.backbone.in_channels
        self.how = Inference(window=options.window_size, ratios=options.ratios, flip=options.flip)
        self.needs = SegmentNeeds(model, self.how, options.short_side, info.training_sizes)
        self.rules = Rules(
            max_pixels=options.max_pixels,
            batch_size=options.batch_size,
            in_parts=options.window != "none",
            needs_whole=options.needs_whole(),
            window=options.window_size,
            budget=options.budget,
            kept=int(label_folder is None),
        )

    def check(self, items: Sequence[Item]) -> None:
        """Also a ValueError where two label maps would have one name."""
        if self.label_folder is None:
            return
        owners: dict[Path, Path | str] = {}
        for item in items:
            if not item.is_huge:
                continue
            tiff_module()
            file, name = self._file(item), item.input.name
            if file in owners:
                raise ValueError(f"{owners[file]} and {name} would both be written to {file}")
            owners[file] = name
        self.label_folder.mkdir(parents=True, exist_ok=True)

    def _file(self, item: Item) -> Path:
        return (self.label_folder or Path()) / f"{Path(item.input.name).stem}.tif"

    def seen_size(self, size: Size) -> Size:
        return seen_size(size, self.options.short_side)

    def prepare(self, image: Image.Image) -> Tensor:
        return prepared(self.model, image, self.options.short_side)

    def whole(self, items: Sequence[Item], loaded: Sequence[Loaded]) -> list[Result | UnreadableImageError]:
        sizes = [each.size for each in loaded]
        found = labels_of(self.model, [each.pixels for each in loaded], sizes, self.how)
        results: list[Result | UnreadableImageError] = []
        for item, size, labels in zip(items, sizes, found, strict=True):
            values = labels.numpy().astype(np.uint8) + np.uint8(self.first)
            results.append(self._result(item, size, self._counts(values), shown=values, values=values))
        return results

    def in_parts(self, item: Item, source: OpenSource, seen: Callable[[int], object]) -> Result:
        """By windows, averaged as `finished_rows` says. The rows of an image that is never in memory as a whole are
        written as soon as they are finished, if there is a folder for them."""
        size, step = source.size, picture_step(source.size)
        counts, shown = np.zeros(len(self.classes), dtype=np.int64), []

        def noted() -> Iterator[np.ndarray]:
            top = 0
            for part in self._rows(item, source, seen):
                counts[:] += self._counts(part)
                shown.append(part[-top % step :: step, ::step].copy())
                top += len(part)
                yield part

        file = self._file(item) if item.is_huge and self.label_folder is not None else None
        values = None
        if file is not None:
            write_label_rows(file, noted(), size)
        else:
            values = np.empty(size, dtype=np.uint8)
            top = 0
            for part in noted():
                values[top : top + len(part)] = part
                top += len(part)
        return self._result(item, size, counts, shown=np.concatenate(shown), values=values, file=file)

    @torch.inference_mode()
    def _rows(self, item: Item, source: OpenSource, seen: Callable[[int], object]) -> Iterator[np.ndarray]:
        """Values (rows, W) uint8 from the top down."""
        config, device, window = self.model.config.backbone, next(self.model.parameters()).device, item.window
        assert window is not None
        reader = RegionReader(source, mean=config.mean, std=config.std, channels=self.channels)
        yield from (
            part.numpy()
            for part in finished_rows(
                self.model,
                lambda *region: reader.read(*region).to(device),
                source.size,
                window,
                usual_step(window),
                lambda logits: logits.argmax(1)[0].add(self.first).to(torch.uint8).cpu(),
                at_once=item.at_once,
                seen=seen,
            )
        )

    def _counts(self, values: np.ndarray) -> np.ndarray:
        """Pixels of each class."""
        return np.bincount(values.reshape(-1), minlength=self.first + len(self.classes))[self.first :]

    def _result(
        self,
        item: Item,
        size: Size,
        counts: np.ndarray,
        shown: np.ndarray,
        *,
        values: np.ndarray | None = None,
        file: Path | None = None,
    ) -> LabelMap:
        shares = zip(self.classes, (counts / counts.sum()).tolist(), strict=True)
        return LabelMap(
            index=item.input.index,
            path=item.input.path,
            size=size,
            window=item.window,
            classes=self.classes,
            first=self.first,
            shares={name: share for name, share in shares if share},
            values=values,
            file=file,
            shown=shown,
            picture=self.picture_of(item),
        )
