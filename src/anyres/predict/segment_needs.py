"""How much memory a segmenter takes for whole images and by windows."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from anyres.models.segmenter import Segmenter
from anyres.predict.label_maps import Inference, probabilities, seen_size
from anyres.predict.memory_budget import peak_on_meta, with_reserve
from anyres.predict.sliding import usual_step, waiting_rows
from anyres.sizes import Size

_DECODED = 28  # bytes of a pixel of an image that is decoded, made a tensor and drawn once the model is done


class SegmentNeeds:
    """Bytes that a segmenter is predicted to need, see `Needs`: tensors are counted on the meta device."""

    def __init__(
        self, model: Segmenter, how: Inference, short_side: int | None, training_sizes: Sequence[Size]
    ) -> None:
        with torch.device("meta"):
            self._model = Segmenter(model.config).eval()
        self._how, self._short_side = how, short_side
        self._usual = max(training_sizes, key=lambda size: size[0] * size[1], default=(512, 512))
        self._known: dict[tuple[Any, ...], int] = {}

    def whole(self, size: Size) -> int:
        given = seen_size(size, self._short_side)

        def labels(images: Tensor) -> Tensor:
            return probabilities(self._model, images, self._how, size).argmax(1)

        return with_reserve(self._peak(labels, ("whole", *size), (1, *given))) + _DECODED * size[0] * size[1]

    def windows(self, size: Size, window: Size, at_once: int) -> int:
        step, shape = usual_step(window), (at_once, min(window[0], size[0]), min(window[1], size[1]))
        called = self._peak(lambda images: self._model(images).to(torch.float32, copy=True), shape, shape)
        classes = self._model.num_classes
        waiting = 4 * classes * waiting_rows(size, window, step) * size[1]
        averaged = 8 * classes * shape[1] * shape[2]
        return with_reserve(max(called, averaged) + waiting + 2 * (shape[1] + 512) * size[1])

    def usual_window(self) -> Size:
        return self._usual

    def smaller_window(self, part: float) -> Size:
        stride = self._model.config.stride
        height, width = (max(2 * stride, round(side * part / stride) * stride) for side in self._usual)
        return height, width

    def _peak(self, function: Callable[[Tensor], object], key: tuple[Any, ...], shape: tuple[int, ...]) -> int:
        if key not in self._known:
            full = (shape[0], self._model.config.backbone.in_channels, *shape[1:])
            self._known[key] = peak_on_meta(function, full)
        return self._known[key]
