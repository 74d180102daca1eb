"""A classifier in an exported file at work on images."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from anyres.errors import UnreadableImageError
from anyres.exporting.exported import ExportedModel
from anyres.models.weights.record import ModelInfo
from anyres.predict.classifier import Classifier
from anyres.predict.config import ClassOptions
from anyres.predict.loop import Loaded
from anyres.predict.plan import Item
from anyres.predict.results import Result


class ExportedClassifier(Classifier):
    """Says the likeliest classes of images by the runtime of the file, and refuses each that is beyond its limit.

    Raises:
        ValueError: as `Classifier`, and for options that need the model itself.
    """

    model: ExportedModel  # type: ignore[assignment]

    def __init__(self, model: ExportedModel, info: ModelInfo, options: ClassOptions, *, progress: bool) -> None:
        if options.limits is not None:
            raise ValueError(
                "an exported model has no predicted costs for a budget; leave max_milliseconds and memory_budget out, "
                "or give the run that it was exported from"
            )
        if options.device not in ("auto", "cpu"):
            raise ValueError(f"device is {options.device!r}; allowed for an exported model: auto, cpu")
        super().__init__(model, info, options, progress=progress)  # type: ignore[arg-type]
        self.rules = replace(self.rules, in_parts=False)

    @torch.inference_mode()
    def whole(self, items: Sequence[Item], loaded: Sequence[Loaded]) -> list[Result | UnreadableImageError]:
        found: list[Result | UnreadableImageError] = []
        for item, each in zip(items, loaded, strict=True):
            try:
                self.model.check_size(each.pixels.shape[-2], each.pixels.shape[-1])
            except ValueError as error:
                found.append(UnreadableImageError(item.input.name, str(error)))
            else:
                found.extend(super().whole([item], [each]))
        return found

    def _on_device(self, image: Tensor) -> Tensor:
        return image
