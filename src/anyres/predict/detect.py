"""Objects in files and folders of images: COCO's JSON of results, and pictures with boxes, masks and scores."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import batched_nms

from anyres.data.coco_masks import mask_tools
from anyres.devices import resolve_device
from anyres.files import write_json
from anyres.models.detector import Detector
from anyres.models.weights.files import ModelInfo, load
from anyres.predict.detect_needs import DetectNeeds
from anyres.predict.file_plan import Item, window_starts
from anyres.predict.files import Entry, Predictor, predict_files
from anyres.predict.files_config import FilesConfig, checked_paths
from anyres.predict.label_file import write_picture
from anyres.predict.merge_windows import is_cut
from anyres.predict.objects import Objects, draw_objects, objects_in, result_of, write_results
from anyres.predict.overview import overview, picture_step
from anyres.predict.placed_masks import PlacedMask
from anyres.streaming.reader import RegionReader
from anyres.streaming.sources import OpenSource

RESULTS, IMAGES = "results.json", "images.json"

_DRAWN = 0.5  # least score of what is drawn


@dataclass(frozen=True, kw_only=True)
class DetectConfig(FilesConfig):
    """Find objects in images with a trained detector.

    Without a size of their own, windows have the size that the model works at, so that nothing is resized.
    """

    out: Path
    """folder to write results.json into, COCO's results, and images.json, which says which file an image_id is: it is
    the place among the inputs, from 0. With COCO's own ids: anyres evaluate --results"""
    threshold: float = 0.05
    """least score of what is written"""
    draw: bool = False
    """write pictures too, of what has a score of 0.5 or more"""
    max_pixels: int = 2**25
    """most pixels of an image that is decoded as a whole and resized to the size that the model works at; larger ones
    are read by region, window by window"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; allowed: 0 to 1")


def find_objects(config: DetectConfig, *, progress: bool = True) -> list[Entry]:
    """Writes what is found in every image to one file, and pictures if they are asked for.

    By windows, each object is that of the window which sees it best (`is_cut`), and of two windows that see all of it
    the better. What is larger than the overlap and cut in every window is found in pieces: larger windows find it.

    Returns:
        One entry per image in the order of the inputs: {"path", "height", "width", "objects"}, the number found;
        "window" too if it was looked at by windows; {"path", "error"} for a file that cannot be read.

    Raises:
        ValueError: bad settings, missing inputs, an unreadable model or too small a memory budget, before any image is
            read.
        ImportError: without faster-coco-eval, if the model has masks.
        UnreadableImageError, SourceError: with `strict`, at the first unreadable file.
    """
    paths = checked_paths(config, lambda index, path: [_picture_name(index, path)] if config.draw else [])
    model, info = load(config.run, Detector)
    model.to(resolve_device(config.device))
    config.out.mkdir(parents=True, exist_ok=True)
    finder = _Finder(config, model, info)
    try:
        entries = predict_files(config, paths, finder, "detect", progress=progress)
    except BaseException:
        if finder.images:
            finder.write()  # what was found until then
        raise
    finder.write()
    return entries


def _picture_name(index: int, path: Path) -> str:
    return f"{index:06d}-{path.stem}.png"


@dataclass
class _Seen:
    """What the windows of an image see, in the image's pixels."""

    boxes: list[Tensor]
    scores: list[Tensor]
    labels: list[Tensor]
    runs: list[Mapping[str, Any] | None]
    """masks as COCO writes them"""
    drawn: list[PlacedMask | None]
    """masks in the picture's pixels, of what is drawn"""


class _Finder(Predictor):
    def __init__(self, config: DetectConfig, model: Detector, info: ModelInfo) -> None:
        self.config, self.model, self.info = config, model, info
        self.channels = model.config.backbone.in_channels
        self.device = next(model.parameters()).device
        self.results: dict[int, list[dict[str, Any]]] = {}
        self.images: dict[int, dict[str, Any]] = {}
        self.needs = DetectNeeds(model, draws=config.draw, scales=config.window_size is not None)

    def check(self, items: Sequence[Item]) -> None:
        if self.model.config.masks:
            mask_tools()

    def whole(self, items: Sequence[Item], images: Sequence[Image.Image]) -> list[Entry]:
        entries = []
        for item, image, objects in zip(items, images, objects_in(self.model, images, self.device), strict=True):
            objects = objects.kept(objects.scores >= self.config.threshold)
            masks = None if objects.masks is None else [objects.mask(place) for place in range(len(objects))]
            runs = [None] * len(objects) if masks is None else [mask.encode(objects.size) for mask in masks]
            entries.append(self._entry(item, objects.size, objects.boxes, objects.scores, objects.labels, runs))
            if self.config.draw:
                self._draw(item, image, objects.boxes, objects.scores, objects.labels, masks)
        return entries

    def write(self) -> None:
        """What was found in the images so far, and which they are."""
        done = sorted(self.images)
        write_results(self.config.out / RESULTS, [result for index in done for result in self.results[index]])
        write_json(self.config.out / IMAGES, [self.images[index] for index in done])

    def by_windows(self, item: Item, source: OpenSource, seen: Callable[[int], object]) -> Entry:
        limits = self.model.transform.limits
        if self.config.window_size is None and item.window is not None:
            self.model.set_size(min(item.window), max(item.window))  # a window is seen as it is
        try:
            found = self._through_windows(item, source, seen)
        finally:
            self.model.set_size(*limits)
        boxes, scores, labels = torch.cat(found.boxes), torch.cat(found.scores), torch.cat(found.labels)
        kept = batched_nms(boxes, scores, labels, self.model.config.nms_threshold)
        boxes, scores, labels, places = boxes[kept], scores[kept], labels[kept], kept.tolist()
        if self.config.draw:
            step = picture_step(source.size)
            masks = [found.drawn[place] for place in places] if self.model.config.masks else None
            self._draw(item, overview(source), boxes / step, scores, labels, masks)
        return self._entry(item, source.size, boxes, scores, labels, [found.runs[place] for place in places])

    def _through_windows(self, item: Item, source: OpenSource, seen: Callable[[int], object]) -> _Seen:
        assert item.window is not None
        window = min(item.window[0], source.size[0]), min(item.window[1], source.size[1])
        begins = window_starts(source.size, item.window)
        none, one = (0.0,) * self.channels, (1.0,) * self.channels
        reader = RegionReader(source, mean=none, std=one, channels=self.channels)  # the model normalises
        all_places = list(product(range(len(begins[0])), range(len(begins[1]))))
        found = _Seen([], [], [], [], [])
        for first in range(0, len(all_places), item.at_once):
            places = all_places[first : first + item.at_once]
            corners = [(begins[0][row], begins[1][col]) for row, col in places]
            images = [reader.read(*corner, *window)[0] for corner in corners]
            objects = objects_in(self.model, images, self.device)
            for place, (top, left), each in zip(places, corners, objects, strict=True):
                boxes = each.boxes + torch.tensor([left, top, left, top])
                good = (each.scores >= self.config.threshold) & ~is_cut(boxes, place, begins, window)
                self._add(found, each.kept(good), boxes[good], (top, left), source.size)
            seen(len(places))
        return found

    def _add(self, found: _Seen, each: Objects, boxes: Tensor, corner: tuple[int, int], size: tuple[int, int]) -> None:
        found.boxes.append(boxes)
        found.scores.append(each.scores)
        found.labels.append(each.labels)
        step = picture_step(size)
        for place, score in enumerate(each.scores.tolist()):
            mask = None if each.masks is None else each.mask(place)
            is_drawn = mask is not None and self.config.draw and score >= _DRAWN
            found.runs.append(None if mask is None else mask.encode(size, corner))
            found.drawn.append(mask.every(step, corner) if mask is not None and is_drawn else None)

    def _entry(
        self,
        item: Item,
        size: tuple[int, int],
        boxes: Tensor,
        scores: Tensor,
        labels: Tensor,
        runs: Sequence[Mapping[str, Any] | None],
    ) -> Entry:
        ids = self.info.extra["category_ids"]
        given = zip(boxes.tolist(), scores.tolist(), labels.tolist(), runs, strict=True)
        self.results[item.index] = [
            result_of(item.index, box, score, ids[label - 1], mask) for box, score, label, mask in given
        ]
        entry = {"height": int(size[0]), "width": int(size[1])}
        self.images[item.index] = {"id": item.index, "file_name": str(item.path)} | entry
        return {"path": str(item.path)} | entry | {"objects": len(scores)}

    def _draw(
        self,
        item: Item,
        image: Image.Image,
        boxes: Tensor,
        scores: Tensor,
        labels: Tensor,
        masks: Sequence[PlacedMask | None] | None,
    ) -> None:
        picture = draw_objects(image, boxes, scores, labels, masks, self.info.classes, threshold=_DRAWN)
        write_picture(self.config.out / _picture_name(item.index, item.path), picture)
