"""What `dense.py` measures of a trained model: accuracy by the size of objects, costs, memory, time."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dense_setup import Scale
from faster_coco_eval import COCO, COCOeval_faster
from torch import Tensor

from anyres.costs.cost import cost, macs_by_part
from anyres.costs.memory import peak_tensor_bytes
from anyres.data.coco import CocoImages, find_coco_split
from anyres.data.segmentation import IGNORE, SegmentationFolder
from anyres.metrics.detection import evaluate_detector
from anyres.metrics.segmentation import Confusion, measured
from anyres.models.detector import Detector
from anyres.models.segmenter import Segmenter
from anyres.models.weights.files import load
from anyres.predict.label_maps import Inference, label_map
from anyres.training.detection.config import DetectionConfig
from anyres.training.detection.task import DetectionTask
from anyres.training.runlog import STEPS
from anyres.training.segmentation.config import SegmentationConfig
from anyres.training.segmentation.task import SegmentationTask

THIRDS = ("small", "middle", "large")
_AROUND = 0.25  # of an object's height: what is looked at beside it

Box = tuple[float, float, float, float]


def measure(config: DetectionConfig | SegmentationConfig, scale: Scale) -> dict[str, Any]:
    """Everything about a finished run; accuracies are percentages, at each of `scale.sizes()`."""
    is_detection = isinstance(config, DetectionConfig)
    accuracy = _detection if is_detection else _segmentation
    model: Any = load(config.out)[0]
    sizes = {str(side): accuracy(model, config.data, side) | _forward(model, side) for side in scale.sizes()}
    rows = [json.loads(line) for line in (config.out / STEPS).read_text().splitlines()]
    ends = [0.0, *(row["seconds"] for row in rows)]
    return {
        "parameters": sum(each.numel() for each in model.parameters()),
        "options": dict(config.model_options),
        "steps": len(rows),
        "seconds_per_step": statistics.median(late - early for early, late in zip(ends, ends[1:], strict=False)),
        "minutes": ends[-1] / 60,
        "step_bytes": _step_bytes(config),
        "sizes": sizes,
    }


def thirds(data: Path) -> tuple[float, float]:
    """The heights in stored pixels of what is seen of an object that cut the validation objects into three."""
    heights = [box[3] - box[1] for image in _annotated(data).images for box in (each.box for each in image.instances)]
    low, high = np.quantile(heights, [1 / 3, 2 / 3])
    return float(low), float(high)


def third_of(box: Box, limits: tuple[float, float]) -> int:
    """0, 1 or 2: in which third the height of a box is."""
    return int(np.searchsorted(limits, box[3] - box[1], side="left"))


def _annotated(data: Path, masks: bool = False) -> CocoImages:
    found = find_coco_split(data, "val")
    assert found is not None
    return CocoImages(*found, masks=masks)


# Detection.


def _detection(model: Detector, data: Path, side: int) -> dict[str, Any]:
    """AP of boxes and masks, and of each third of the objects by height."""
    model.set_size(side, 4 * side)  # the short side, as in segmentation
    found = evaluate_detector(model, _annotated(data, masks=True))
    split = find_coco_split(data, "val")
    assert split is not None
    by_third = {
        f"{name}_ap_{third}": value
        for name, kind in (("box", "bbox"), ("mask", "segm"))
        for third, value in ap_by_height(split[0], found.results, kind, thirds(data)).items()
    }
    return found.measures | by_third


def ap_by_height(
    file: Path, results: Sequence[Mapping[str, Any]], kind: str, limits: tuple[float, float]
) -> dict[str, float | None]:
    """COCO's average precision in percent of all objects, and of those in each third of the heights.

    COCO's ranges of area, with the square of the box's height in place of the area: what is not in the range counts
    neither as an object nor, where it is found without being there, as a mistake.

    Args:
        file: the annotations.
        results: what was found, in COCO's format.
        kind: "bbox" or "segm".
        limits: heights in pixels between the thirds.
    """
    if not results:
        return dict.fromkeys(("all", *THIRDS), 0.0)
    content = json.loads(file.read_text())
    truth = COCO(content)
    found = truth.loadRes([dict(each) for each in results])
    for each in (truth, found):
        for annotation in each.dataset["annotations"]:
            annotation["area"] = float(annotation["bbox"][3] ** 2)
        each.createIndex()
    evaluation = COCOeval_faster(truth, found, kind, print_function=lambda *_: None)
    low, high = (limit**2 for limit in limits)
    evaluation.params.areaRng = [[0, 1e10], [0, low], [low + 1e-6, high], [high + 1e-6, 1e10]]
    evaluation.params.areaRngLbl = ["all", *THIRDS]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][..., -1]  # (IoU thresholds, recalls, classes, ranges)
    means = {}
    for place, name in enumerate(("all", *THIRDS)):
        known = precision[..., place][precision[..., place] > -1]
        means[name] = 100 * float(known.mean()) if known.size else None
    return means


# Segmentation.


def _segmentation(model: Segmenter, data: Path, side: int) -> dict[str, Any]:
    """mIoU of all pixels with and without the background, and without it around the objects of each third."""
    folder = SegmentationFolder(data, "val", num_classes=model.num_classes)
    images, limits = _annotated(data, masks=True), thirds(data)
    places = {path.name: place for place, path in enumerate(images.paths)}
    whole, parts = Confusion(model.num_classes), [Confusion(model.num_classes) for _ in THIRDS]
    for index, path in enumerate(folder.paths):
        read = folder.read(index)
        labels = torch.from_numpy(np.array(read.labels))  # (H, W)
        predicted = label_map(model, read.image, Inference(), side)
        whole.add(predicted, labels)
        target = images.target(places[path.name])
        for number, part in enumerate(parts):
            part.add(predicted, around_third(labels, target, number, limits))
    found = measured(whole) | {"miou_objects": _objects(whole)}
    return found | {f"miou_{name}": _objects(part) for name, part in zip(THIRDS, parts, strict=True)}


def around_third(labels: Tensor, target: Mapping[str, Tensor], number: int, limits: tuple[float, float]) -> Tensor:
    """Labels (H, W) in and closely around the objects of one third; IGNORE elsewhere and on all other objects.

    Args:
        labels: (H, W).
        target: boxes (N, 4), masks (N, H, W).
        number: 0 to 2.
        limits: heights in pixels between the thirds.
    """
    shown = torch.full_like(labels, IGNORE)
    others = torch.zeros(labels.shape, dtype=torch.bool)
    for box, mask in zip(target["boxes"].tolist(), target["masks"], strict=True):
        if third_of(box, limits) != number:
            others |= mask.bool()
            continue
        margin = round(_AROUND * (box[3] - box[1]))
        left, top, right, bottom = (round(value) for value in box)
        part = (
            slice(max(top - margin, 0), bottom + margin),
            slice(max(left - margin, 0), right + margin),
        )
        shown[part] = labels[part]
    shown[others] = IGNORE
    return shown


def _objects(confusion: Confusion) -> float | None:
    """Mean IoU of all classes but the background, in percent."""
    mean = float(confusion.iou()[1:].nanmean())
    return None if np.isnan(mean) else 100 * mean


# Costs.


def _forward(model: Detector | Segmenter, side: int) -> dict[str, Any]:
    """Multiply-accumulates of one square image, of the backbone alone too, and the peak of tensors' bytes."""
    macs = cost(model, (side, side), memory=False).macs
    backbone = sum(macs_by_part(model.config.backbone, (side, side)).values())  # without classes its head has none
    image = torch.rand(model.config.backbone.in_channels, side, side, generator=torch.Generator().manual_seed(0))
    if isinstance(model, Detector):
        model.set_size(side, side)
    with torch.no_grad():
        peak = peak_tensor_bytes(lambda: model([image]))
    return {"macs": macs, "backbone_macs": backbone, "forward_bytes": peak}


def _step_bytes(config: DetectionConfig | SegmentationConfig) -> int:
    """Peak of tensors' bytes of forward and backward pass of the first batch, without weights and optimiser."""
    task = DetectionTask(config) if isinstance(config, DetectionConfig) else SegmentationTask(config)
    task.model.train()
    prepared: Any = task.prepare(next(iter(task.batches(0, 1))), torch.device("cpu"))  # type: ignore[arg-type]

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.precision == "bfloat16"):
            loss = task.loss(prepared, slice(None))
        loss.backward()

    torch.manual_seed(0)
    return peak_tensor_bytes(step)
