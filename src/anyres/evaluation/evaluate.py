"""How good a segmenter or a detector is on a data set in the usual format: mIoU, or average precision."""

from typing import Any

from anyres.data.coco import CocoImages, find_coco_split
from anyres.data.segmentation import HOW_MASKS_ARE_READ, SegmentationFolder
from anyres.devices import resolve_device
from anyres.evaluation.evaluate_config import EvaluateConfig
from anyres.files import check_file
from anyres.metrics.detection import evaluate_detector
from anyres.metrics.segmentation import evaluate_segmenter, measured
from anyres.models.detector import Detector
from anyres.models.segmenter import Segmenter
from anyres.models.weights.files import load
from anyres.models.weights.record import architecture_in
from anyres.predict.label_maps import MULTI_SCALE, Inference
from anyres.predict.objects import write_results
from anyres.sizes import parse_size


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Measures in percent, with the number of images, what was "skipped": [{"path", "reason"}], and the classes that
    are "absent" from the images measured.

    Raises:
        ValueError: no such model or data, other classes, or a setting that has no effect for this kind of model.
    """
    if config.results is not None:
        check_file("results", config.results)
    kind = architecture_in(config.run).name
    measures = {"Segmenter": _segmenter, "Detector": _detector}
    if kind not in measures:
        allowed = "allowed: a segmenter or a detector. For classifiers: anyres sweep"
        raise ValueError(f"{config.run} holds a {kind}; {allowed}")
    found = measures[kind](config)
    return {**found, "skipped": [each.to_dict() for each in found["skipped"]]}


def _segmenter(config: EvaluateConfig) -> dict[str, Any]:
    if config.results is not None:
        raise ValueError("results is given but has no effect on a segmenter; leave it out")
    model, info = load(config.run, Segmenter)
    how_read = {name: info.extra[name] for name in HOW_MASKS_ARE_READ if name in info.extra}
    folder = SegmentationFolder(config.data, "val", num_classes=len(info.classes), strict=config.strict, **how_read)
    window = None if config.window is None else parse_size(config.window)
    how = Inference(window=window, ratios=MULTI_SCALE if config.multi_scale else (1.0,), flip=config.multi_scale)
    short_side = config.short_side or max(min(size) for size in info.training_sizes)
    model.to(resolve_device(config.device))
    confusion, images, skipped = evaluate_segmenter(
        model, folder, short_side, how, limit=config.limit, strict=config.strict
    )
    found = measured(confusion)
    by_class = dict(zip(info.classes, found.pop("iou"), strict=True))
    absent = [info.classes[label] for label in confusion.absent()]
    return {"images": images, **found, "iou": by_class, "absent": absent, "skipped": [*folder.skipped, *skipped]}


def _detector(config: EvaluateConfig) -> dict[str, Any]:
    for name in ("window", "multi_scale"):
        if getattr(config, name):
            raise ValueError(f"{name} is given but has no effect on a detector; leave it out")
    model, info = load(config.run, Detector)
    found = find_coco_split(config.data, "val")
    if found is None:
        raise ValueError(f"{config.data} has no annotations to measure on; expected is annotations/instances_val*.json")
    categories = dict(zip(info.extra["category_ids"], info.classes, strict=True))
    data = CocoImages(
        *found, masks=model.config.masks, categories=categories, labels_as=info.extra.get("labels_as", "shown")
    )
    if config.short_side is not None:
        model.set_size(config.short_side, max(model.config.max_size, config.short_side))
    device = resolve_device(config.device)
    model.to(device)
    result = evaluate_detector(model, data, device, limit=config.limit, strict=config.strict, progress=True)
    if config.results is not None:
        write_results(config.results, result.results)
    return {"images": result.images, **result.measures, "absent": result.absent, "skipped": result.skipped}
