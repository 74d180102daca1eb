"""How much memory a detector takes for whole images and by windows."""

import torch

from anyres.models.detector import Detector
from anyres.predict.memory_budget import peak_on_meta, with_reserve
from anyres.sizes import Size, rounded_up

_ANCHOR_BYTES = 3 * 120  # at each place of a map: three anchors, their boxes and scores in several stages
_LEVELS = 4 / 3  # times the finest map: all of them
_POOLED, _MASK = 7 * 7, 28 * 28  # places that a box is cut to, and those of its mask
_DECODED = 48  # bytes of a pixel of an image that is decoded, scaled and drawn
_COPIES = 4  # of what goes through the heads, alive at once


class DetectNeeds:
    """Bytes that a detector is predicted to need, see `Needs`: the backbone's tensors are counted on the meta device,
    the heads' as if they found as much as they may."""

    def __init__(self, model: Detector, *, scales: bool) -> None:
        """`scales`: whether windows are resized, as images are, instead of being seen as they are."""
        with torch.device("meta"):
            self._backbone = Detector(model.config).eval().backbone
        self._config = model.config
        self._padded = model.transform.padded
        self._limits, self._divisor = model.transform.limits, model.transform.size_divisible
        self._scales = scales
        self._known: dict[tuple[int, ...], int] = {}

    def whole(self, size: Size) -> int:
        pixels = size[0] * size[1]
        return with_reserve(self._called(self._padded(size), 1)) + _DECODED * pixels

    def windows(self, size: Size, window: Size, at_once: int) -> int:
        given = min(window[0], size[0]), min(window[1], size[1])
        padded = self._padded(given) if self._scales or given != window else rounded_up(window, self._divisor)
        return with_reserve(self._called(padded, at_once)) + 40 * at_once * given[0] * given[1]

    def usual_window(self) -> Size:
        return self._limits

    def smaller_window(self, part: float) -> Size:
        height, width = (max(2, round(side * part / self._divisor)) * self._divisor for side in self._limits)
        return self._limits if part == 1 else (height, width)

    def _called(self, size: Size, count: int) -> int:
        """In one call of the model."""
        key = (count, *size)
        if key not in self._known:
            config = self._config
            shape = (count, config.backbone.in_channels, *size)
            places = count * size[0] * size[1] / 16 * _LEVELS
            maps = 4 * config.channels * places
            anchors = places * _ANCHOR_BYTES + maps  # and a map more, between the convolutions
            boxes = 4 * _COPIES * count * config.test_proposals * (config.channels * _POOLED + config.box_features)
            masks = 4 * _COPIES * count * config.detections * config.channels * _MASK if config.masks else 0
            heads = int(maps + max(anchors, boxes, masks))
            self._known[key] = max(peak_on_meta(self._backbone, shape), heads)
        return self._known[key]
