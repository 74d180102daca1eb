"""A detector at work on images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

from PIL import Image
from torch import Tensor
from torchvision.ops import batched_nms
from torchvision.transforms.v2 import functional

from anyres.errors import UnreadableImageError
from anyres.models.detector import Detector
from anyres.models.weights.record import ModelInfo
from anyres.predict.config import ObjectOptions
from anyres.predict.detect_needs import DetectNeeds
from anyres.predict.loop import Loaded, Looker
from anyres.predict.merge_windows import is_cut
from anyres.predict.objects import Objects, objects_in
from anyres.predict.plan import Item, Rules, window_starts
from anyres.predict.results import Detections, Result
from anyres.streaming.reader import RegionReader
from anyres.streaming.sources import OpenSource


class Finder(Looker):
    """Finds the objects in images.

    By windows, each object is that of the window which sees it best (`is_cut`), and of two windows that see all of it
    the better. What is larger than the overlap and cut in every window is found in pieces: larger windows find it.
    """

    what = "detect"

    def __init__(self, model: Detector, info: ModelInfo, options: ObjectOptions, *, progress: bool) -> None:
        self.model, self.classes, self.options = model, info.classes, options
        self.category_ids = tuple(info.extra.get("category_ids", range(1, 1 + len(info.classes))))
        self.channels = model.config.backbone.in_channels
        self.device = next(model.parameters()).device
        self.needs = DetectNeeds(model, scales=options.window_size is not None)
        self.rules = Rules(
            max_pixels=options.max_pixels,
            batch_size=options.batch_size,
            in_parts=options.window != "none",
            window=options.window_size,
            budget=options.budget,
        )

    def prepare(self, image: Image.Image) -> Tensor:
        """As it is, uint8: the model resizes."""
        return functional.pil_to_tensor(image)

    def whole(self, items: Sequence[Item], loaded: Sequence[Loaded]) -> list[Result | UnreadableImageError]:
        found = objects_in(self.model, [each.pixels for each in loaded], self.device)
        return [self._result(item, self._good(each)) for item, each in zip(items, found, strict=True)]

    def in_parts(self, item: Item, source: OpenSource, seen: Callable[[int], object]) -> Result:
        limits = self.model.transform.limits
        if self.options.window_size is None and item.window is not None:
            self.model.set_size(min(item.window), max(item.window))  # a window is seen as it is
        try:
            found = Objects.joined(self._through_windows(item, source, seen))
        finally:
            self.model.set_size(*limits)
        kept = batched_nms(found.boxes, found.scores, found.labels, self.model.config.nms_threshold)
        return self._result(item, found.kept(kept))

    def _through_windows(self, item: Item, source: OpenSource, seen: Callable[[int], object]) -> list[Objects]:
        """What each window sees that none of its neighbours sees better, in the image's pixels."""
        assert item.window is not None
        window = min(item.window[0], source.size[0]), min(item.window[1], source.size[1])
        begins = window_starts(source.size, item.window)
        none, one = (0.0,) * self.channels, (1.0,) * self.channels
        reader = RegionReader(source, mean=none, std=one, channels=self.channels)  # the model normalises
        all_places = list(product(range(len(begins[0])), range(len(begins[1]))))
        found = []
        for first in range(0, len(all_places), item.at_once):
            places = all_places[first : first + item.at_once]
            corners = [(begins[0][row], begins[1][col]) for row, col in places]
            images = [reader.read(*corner, *window)[0] for corner in corners]
            for place, corner, each in zip(places, corners, objects_in(self.model, images, self.device), strict=True):
                moved = self._good(each).moved(corner, source.size)
                found.append(moved.kept(~is_cut(moved.boxes, place, begins, window)))
            seen(len(places))
        return found

    def _good(self, found: Objects) -> Objects:
        return found.kept(found.scores >= self.options.threshold)

    def _result(self, item: Item, found: Objects) -> Detections:
        return Detections(
            index=item.input.index,
            path=item.input.path,
            size=found.size,
            window=item.window,
            classes=self.classes,
            category_ids=self.category_ids,
            objects=found,
            picture=self.picture_of(item),
        )
