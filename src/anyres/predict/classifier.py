"""A classifier at work on images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from anyres.costs.largest import Sizer, sizer
from anyres.errors import UnreadableImageError
from anyres.models.vitar import ViTAR
from anyres.models.weights.record import ModelInfo
from anyres.predict.config import ClassOptions
from anyres.predict.loop import Loaded, Looker
from anyres.predict.plan import Item, Rules
from anyres.predict.preparation import as_images, preparation
from anyres.predict.results import Classification, Result
from anyres.sizes import Size, size_text
from anyres.streaming.sources import OpenSource
from anyres.streaming.stream import stream


class Classifier(Looker):
    """Says the likeliest classes of images.

    Raises:
        ValueError: a model without a name for every output or of other channels than images have, or a budget that
            nothing fits.
    """

    what = "predict"

    def __init__(self, model: ViTAR, info: ModelInfo, options: ClassOptions, *, progress: bool) -> None:
        outputs = model.config.num_classes
        if outputs < 1 or len(info.classes) != outputs:
            raise ValueError(
                f"the model has {outputs} outputs and {len(info.classes)} class names; allowed: a classifier with a "
                "name for every output"
            )
        self.model, self.classes, self.options, self.progress = model, info.classes, options, progress
        self.prepare_image = preparation(model.config, options.size, options.short_side, options.least_side)
        self.channels = model.config.in_channels
        self.budget = self._budget()
        is_resized = options.size is not None or options.short_side is not None
        self.rules = Rules(
            max_pixels=options.max_pixels,
            batch_size=1 if self.budget else options.batch_size,
            in_parts=model.config.merger != "none" and not is_resized and self.budget is None,
        )

    def _budget(self) -> Sizer | None:
        if self.options.limits is None:
            return None
        found = sizer(self.model, self.options.limits, progress=self.progress)
        found.reduced((1, 1))  # an error now if nothing fits
        return found

    def seen_size(self, size: Size) -> Size:
        return self.prepare_image.seen_size(size)

    def prepare(self, image: Image.Image) -> Tensor:
        return self.prepare_image(image)

    @torch.inference_mode()
    def whole(self, items: Sequence[Item], loaded: Sequence[Loaded]) -> list[Result | UnreadableImageError]:
        """Errors are refusals of what exceeds the budget."""
        fitted = [self._fitted(item, each.pixels) for item, each in zip(items, loaded, strict=True)]
        kept = [image for image in fitted if isinstance(image, Tensor)]
        if not kept:
            return [each for each in fitted if isinstance(each, UnreadableImageError)]
        logits = iter(self.model(as_images([self._on_device(image) for image in kept])))  # B of (classes,)
        found: list[Result | UnreadableImageError] = []
        for item, each, image in zip(items, loaded, fitted, strict=True):
            if isinstance(image, UnreadableImageError):
                found.append(image)
                continue
            shape = image.shape[1], image.shape[2]
            reduced = None if image is each.pixels else shape
            found.append(self._result(item, next(logits), each.size, reduced))
        return found

    @torch.inference_mode()
    def in_parts(self, item: Item, source: OpenSource, seen: Callable[[int], object]) -> Result:
        """Piece by piece, as `stream` says."""
        features = stream(self.model, source, progress=self.progress)
        return self._result(item, self.model.forward_head(features)[0], source.size)

    def _fitted(self, item: Item, image: Tensor) -> Tensor | UnreadableImageError:
        """The image (C, H, W) itself, made smaller for the budget, or why it is refused."""
        shape = image.shape[1], image.shape[2]
        if self.budget is None or (fitted := self.budget.reduced(shape)) == shape:
            return image
        if self.options.over_budget == "refuse":
            limits, most = self.budget.limits, size_text(fitted)
            text = f"{size_text(shape)} pixels exceed {limits}; within it: at most {most}"
            return UnreadableImageError(item.input.name, text)
        return F.interpolate(image[None], fitted, mode="bicubic", antialias=True)[0]

    def _on_device(self, image: Tensor) -> Tensor:
        return image.to(next(self.model.parameters()))

    def _result(self, item: Item, logits: Tensor, size: Size, reduced: Size | None = None) -> Classification:
        best: Any = logits.float().softmax(dim=0).topk(min(self.options.top_k, len(self.classes)))
        return Classification(
            index=item.input.index,
            path=item.input.path,
            size=size,
            classes=tuple(self.classes[label] for label in best.indices.tolist()),
            probabilities=tuple(best.values.tolist()),
            reduced=reduced,
            picture=self.picture_of(item),
        )
