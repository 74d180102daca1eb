"""A class for every pixel of files and folders of images: label maps, and pictures with the classes' colours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from anyres.devices import resolve_device
from anyres.models.segmenter import Segmenter
from anyres.models.weights.files import ModelInfo, load
from anyres.predict.file_plan import Item
from anyres.predict.files import Entry, Predictor, predict_files
from anyres.predict.files_config import FilesConfig, checked_paths
from anyres.predict.label_file import coloured, tiff_module, write_label_rows, write_picture
from anyres.predict.label_maps import Inference, label_maps
from anyres.predict.overview import overview, picture_step
from anyres.predict.pictures import class_colour, enlarged, with_legend
from anyres.predict.segment_needs import SegmentNeeds
from anyres.predict.sliding import finished_rows, usual_step
from anyres.sizes import parse_size
from anyres.streaming.reader import RegionReader
from anyres.streaming.sources import OpenSource


@dataclass(frozen=True, kw_only=True)
class SegmentConfig(FilesConfig):
    """Label every pixel of images with a trained segmenter."""

    out: Path
    """folder to write NAME.png into, a label map of each image at its own size (NAME.tif of an image that is never in
    memory as a whole); values are those of the masks that the model was trained on"""
    size: str | None = None
    """unset: every image at its own size; "512": short side of 512 pixels, aspect kept; for whole images"""
    ratios: tuple[float, ...] = (1.0,)
    """sizes of an image, relative to that, whose probabilities are averaged; for whole images"""
    flip: bool = False
    """look at the mirror image too; for whole images"""
    draw: bool = False
    """write NAME.drawn.png too, the image under its classes' colours, with their names"""
    max_pixels: int = 2**22
    """most pixels of an image that is decoded as a whole; larger ones are read by region, window by window"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is not None and len(set(parse_size(self.size))) > 1:
            raise ValueError(f"size={self.size} given: allowed is one number, the short side, since the aspect is kept")
        self.inference()

    def inference(self) -> Inference:
        """How the model looks at a whole image."""
        return Inference(window=self.window_size, ratios=self.ratios, flip=self.flip)

    def needs_whole(self) -> str | None:
        for name in ("size", "ratios", "flip"):
            if getattr(self, name) != getattr(SegmentConfig, name):
                return name
        return None


def segment(config: SegmentConfig, *, progress: bool = True) -> list[Entry]:
    """Writes a label map of every image, each file atomically.

    Images by windows are averaged as `sliding_logits` says, rows of a huge image being written as they are finished.

    Returns:
        One entry per image in the order of the inputs: {"path", "height", "width", "labels", "share"}, the path of its
        label map and the share of its pixels by class name; "window" too if it was looked at by windows; {"path",
        "error"} for a file that cannot be read.

    Raises:
        ValueError: bad settings, missing inputs, inputs of one name, files that would replace an input, an unreadable
            model or too small a memory budget, before any image is read.
        ImportError: without tifffile, if an image needs it, before any image is read.
        UnreadableImageError, SourceError: with `strict`, at the first unreadable file.
    """
    paths = checked_paths(config, lambda _, path: _written(path, config.draw))
    model, info = load(config.run, Segmenter)
    model.to(resolve_device(config.device))
    config.out.mkdir(parents=True, exist_ok=True)
    return predict_files(config, paths, _Labeller(config, model, info), "segment", progress=progress)


def _written(path: Path, draws: bool) -> list[str]:
    """Names of all files that may be written of an image."""
    return [f"{path.stem}{suffix}" for suffix in (".png", ".tif", *((".drawn.png",) if draws else ()))]


class _Labeller(Predictor):
    def __init__(self, config: SegmentConfig, model: Segmenter, info: ModelInfo) -> None:
        self.config, self.model, self.classes = config, model, info.classes
        self.offset = int(bool(info.extra.get("reduce_zero_label")))
        self.channels = model.config.backbone.in_channels
        self.needs = SegmentNeeds(model, config.inference(), config.size, info.training_sizes, draws=config.draw)

    def check(self, items: Sequence[Item]) -> None:
        if any(item.is_huge for item in items):
            tiff_module()

    def whole(self, items: Sequence[Item], images: Sequence[Image.Image]) -> list[Entry]:
        size = None if self.config.size is None else parse_size(self.config.size)
        found = label_maps(self.model, images, self.config.inference(), size)
        entries = []
        for item, image, labels in zip(items, images, found, strict=True):
            values = labels.numpy().astype(np.uint8)
            entries.append(self._write(item, values))
            if self.config.draw:
                self._draw(item, image, values)
        return entries

    def by_windows(self, item: Item, source: OpenSource, seen: Callable[[int], object]) -> Entry:
        settings, window, device = self.model.config.backbone, item.window, next(self.model.parameters()).device
        assert window is not None
        reader = RegionReader(source, mean=settings.mean, std=settings.std, channels=self.channels)
        found = finished_rows(
            self.model,
            lambda *region: reader.read(*region).to(device),
            source.size,
            window,
            usual_step(window),
            lambda logits: logits.argmax(1)[0].to(torch.uint8).cpu(),
            at_once=item.at_once,
            seen=seen,
        )
        with torch.inference_mode():
            rows = (part.numpy() for part in found)
            if item.is_huge:
                return self._write_rows(item, source, rows)
            labels = np.concatenate(list(rows))
        if self.config.draw:
            step = picture_step(source.size)
            self._draw(item, overview(source), labels[::step, ::step])
        return self._write(item, labels)

    def _write(self, item: Item, labels: np.ndarray) -> Entry:
        target = self.config.out / f"{item.path.stem}.png"
        write_picture(target, coloured(labels + np.uint8(self.offset)))
        return self._entry(item, labels.shape, target, self._counts(labels))

    def _write_rows(self, item: Item, source: OpenSource, rows: Iterable[np.ndarray]) -> Entry:
        target = self.config.out / f"{item.path.stem}.tif"
        step, counts, kept = picture_step(source.size), np.zeros(len(self.classes), dtype=np.int64), []

        def passed() -> Iterator[np.ndarray]:
            top = 0
            for part in rows:
                counts[:] += self._counts(part)
                if self.config.draw:
                    kept.append(part[-top % step :: step, ::step].copy())
                top += len(part)
                yield part + np.uint8(self.offset)

        write_label_rows(target, passed(), source.size)
        if self.config.draw:
            self._draw(item, overview(source), np.concatenate(kept))
        return self._entry(item, source.size, target, counts)

    def _draw(self, item: Item, image: Image.Image, labels: np.ndarray) -> None:
        picture = drawn(image, labels, self.classes, self.offset)
        write_picture(self.config.out / f"{item.path.stem}.drawn.png", picture)

    def _counts(self, labels: np.ndarray) -> np.ndarray:
        return np.bincount(labels.reshape(-1), minlength=len(self.classes))

    def _entry(self, item: Item, size: tuple[int, ...], target: Path, counts: np.ndarray) -> Entry:
        shares = zip(self.classes, counts / counts.sum(), strict=True)
        entry = {"path": str(item.path), "height": int(size[0]), "width": int(size[1]), "labels": str(target)}
        return entry | {"share": {name: round(float(value), 6) for name, value in shares if value}}


def drawn(image: Image.Image, labels: np.ndarray, classes: Sequence[str], offset: int = 0) -> Image.Image:
    """An image half covered by the colours that its labels (H, W) have in the label map, above the names of those
    that are in it, the most frequent first. Small images are made larger."""
    picture, factor = enlarged(image)
    colours = coloured(labels + np.uint8(offset)).convert("RGB").resize(picture.size, Image.Resampling.NEAREST)
    counts = np.bincount(labels.reshape(-1), minlength=len(classes))
    shown = [label for label in np.argsort(-counts, kind="stable").tolist() if counts[label]]
    entries = [(classes[label], class_colour(label + offset)) for label in shown]
    return with_legend(Image.blend(picture, colours, 0.5), entries)
