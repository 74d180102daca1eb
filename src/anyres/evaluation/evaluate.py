"""How good a segmenter or a detector is on a data set in the usual format: mIoU, or average precision."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from anyres.data.coco import CocoImages, find_coco_split
from anyres.data.segmentation import SegmentationFolder
from anyres.devices import resolve_device
from anyres.errors import check_choice
from anyres.metrics.detection import evaluate_detector
from anyres.metrics.segmentation import evaluate_segmenter, measured
from anyres.models.detector import Detector
from anyres.models.segmenter import Segmenter
from anyres.models.weights.files import CONFIG, load
from anyres.predict.label_maps import MULTI_SCALE, Inference
from anyres.predict.objects import write_results
from anyres.sizes import parse_size


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Measure a trained segmenter (mIoU) or detector (box and mask AP) on the validation split of a data set."""

    run: Path
    """Folder of the trained model."""
    data: Path
    """Folder as in training: images/ and annotations/ with masks, or COCO's annotations and images."""
    task: Literal["segmentation", "detection"] | None = None
    """What the model was trained for; it is known, and only checked if given."""
    size: str | None = None
    """Short side in pixels that images are resized to; by default the largest training size."""
    window: str | None = None
    """Segmentation: look through windows of so many pixels, which overlap by a third."""
    multi_scale: bool = False
    """Segmentation: average over six sizes and mirror images."""
    limit: int | None = None
    """Only so many images, spread evenly over the split."""
    results: Path | None = None
    """Detection: a JSON file to write what was found into, in COCO's format."""
    strict: bool = False
    """Stop at the first unreadable image instead of leaving it out."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, or auto: cuda where there is one, else cpu."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit is {self.limit}; allowed: 1 and more, or None for all images")
        if self.size is not None:
            parse_size(self.size)
        if self.task is not None:
            check_choice("task", self.task, ("segmentation", "detection"))
        resolve_device(self.device)


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Measures in percent, with the number of images and what was skipped: [(path, reason)].

    Raises:
        ValueError: no such model or data, other classes, or a setting that has no effect for this kind of model.
    """
    path = config.run / CONFIG
    try:
        kind = json.loads(path.read_text())["architecture"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{config.run} holds no saved model: {path} cannot be read ({error})") from error
    kinds = {"Segmenter": ("segmentation", _segmenter), "Detector": ("detection", _detector)}
    if kind not in kinds:
        allowed = "allowed: a segmenter or a detector. For classifiers: anyres sweep"
        raise ValueError(f"{config.run} holds a {kind}; {allowed}")
    task, measure = kinds[kind]
    if config.task not in (None, task):
        raise ValueError(f"task is {config.task}, but {config.run} holds a {kind}; allowed: task={task}")
    return measure(config)


def _segmenter(config: EvaluateConfig) -> dict[str, Any]:
    if config.results is not None:
        raise ValueError("results is given but has no effect on a segmenter; leave it out")
    model, info = load(config.run, Segmenter)
    zero = bool(info.extra.get("reduce_zero_label"))
    classes = len(info.classes)
    folder = SegmentationFolder(config.data, "val", num_classes=classes, reduce_zero_label=zero, strict=config.strict)
    window = None if config.window is None else parse_size(config.window)
    how = Inference(window=window, ratios=MULTI_SCALE if config.multi_scale else (1.0,), flip=config.multi_scale)
    size = max(info.training_sizes, key=min) if config.size is None else parse_size(config.size)
    model.to(resolve_device(config.device))
    confusion, images, skipped = evaluate_segmenter(model, folder, size, how, limit=config.limit, strict=config.strict)
    found = measured(confusion)
    by_class = dict(zip(info.classes, found.pop("iou"), strict=True))
    return {"images": images, **found, "iou": by_class, "skipped": [*folder.skipped, *skipped]}


def _detector(config: EvaluateConfig) -> dict[str, Any]:
    for name in ("window", "multi_scale"):
        if getattr(config, name):
            raise ValueError(f"{name} is given but has no effect on a detector; leave it out")
    model, info = load(config.run, Detector)
    found = find_coco_split(config.data, "val")
    if found is None:
        raise ValueError(f"{config.data} has no annotations to measure on; expected is annotations/instances_val*.json")
    categories = dict(zip(info.extra["category_ids"], info.classes, strict=True))
    data = CocoImages(*found, masks=model.config.masks, categories=categories)
    if config.size is not None:
        size = parse_size(config.size)
        model.set_size(min(size), max(model.config.max_size, max(size)))
    device = resolve_device(config.device)
    model.to(device)
    result = evaluate_detector(model, data, device, limit=config.limit, strict=config.strict, progress=True)
    if config.results is not None:
        write_results(config.results, result.results)
    return {"images": result.images, **result.measures, "skipped": result.skipped}
