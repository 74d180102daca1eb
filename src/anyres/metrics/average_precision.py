"""COCO's average precision of boxes and masks, by torchmetrics on faster-coco-eval."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

_MEASURES = {
    "ap": "map", "ap50": "map_50", "ap75": "map_75", "ap_small": "map_small", "ap_medium": "map_medium",
    "ap_large": "map_large",
}  # fmt: skip


class AveragePrecision:
    """Collects what was found in images and what is there, and measures the one by the other.

    Raises ImportError that names the extra if torchmetrics or faster-coco-eval is not installed.

    Args:
        masks: measures masks beside boxes.
    """

    def __init__(self, *, masks: bool = True) -> None:
        types: tuple[Literal["bbox", "segm"], ...] = ("bbox", "segm") if masks else ("bbox",)
        self.kinds = dict(zip(("box", "mask"), types, strict=False))
        try:
            from torchmetrics.detection import MeanAveragePrecision

            self._metric: Any = MeanAveragePrecision(iou_type=types, backend="faster_coco_eval")
        except ImportError as error:
            raise ImportError(
                "torchmetrics and faster-coco-eval are needed to measure detection: pip install 'anyres[dense]'"
            ) from error
        self._metric.warn_on_many_detections = False

    def update(self, found: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Tensor]]) -> None:
        """Adds images.

        Args:
            found: of each image boxes (N, 4) as x0, y0, x1, y1, scores (N,), labels (N,) and masks (N, H, W) bool.
            targets: of each image boxes, labels, masks and, as COCO counts them, area (M,) and iscrowd (M,).
        """
        names = ("boxes", "labels", "masks")[: 2 + ("mask" in self.kinds)]
        predictions = [{name: _plain(each[name]) for name in (*names, "scores")} for each in found]
        truths = [{name: _plain(each[name]) for name in (*names, "area", "iscrowd")} for each in targets]
        self._metric.update(predictions, truths)

    def compute(self) -> dict[str, float | None]:
        """Percentages: box_ap (mean over IoU 0.5 to 0.95), box_ap50, box_ap75, box_ap_small (below 32x32 pixels),
        box_ap_medium, box_ap_large (from 96x96 on), and the same of masks. None where there is nothing of that size."""
        measured = self._metric.compute()
        prefixes = {kind: f"{name}_" if len(self.kinds) > 1 else "" for kind, name in self.kinds.items()}
        return {
            f"{kind}_{name}": _percent(measured[f"{prefixes[kind]}{theirs}"])
            for kind in self.kinds
            for name, theirs in _MEASURES.items()
        }


def _plain(value: Tensor) -> Tensor:
    value = value.detach().cpu()
    return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value


def _percent(value: Tensor) -> float | None:
    """-1 stands for what cannot be measured."""
    return None if value < 0 else 100.0 * value.item()
