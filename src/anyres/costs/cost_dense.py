"""What stands on a ViTAR in segmentation and detection: its multiply-accumulates, which torch counts.

A pass on the meta device takes neither memory nor products, so nothing here repeats what pyramids and heads are made
of. Backbones are counted from their configuration (`cost`).
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

from anyres.models.architectures import DETECTOR, architecture_of
from anyres.sizes import rounded_up

Result = TypeVar("Result")


def padded_size(model: Any, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) in pixels of what the backbone gets: detectors pad images to whole cells of their maps."""
    is_padded = architecture_of(model) is DETECTOR
    return rounded_up(size, model.transform.size_divisible) if is_padded else size


def decoder_parts(model: Any, size: tuple[int, int], backbone: int) -> dict[str, int]:
    """Multiply-accumulates of what stands on the backbone, part by part in the order of the forward pass.

    Args:
        model: of the meta device, in evaluation mode.
        size: (height, width) of the image, after `padded_size`.
        backbone: multiply-accumulates of the backbone as it is executed.

    Returns:
        For segmenters "pyramid" and "head" as far as there are such, and what else is done besides the backbone; for
        detectors "pyramid", "first stage", "box head" and "mask head".
    """
    image = torch.empty(1, model.config.backbone.in_channels, *size, device="meta")
    if architecture_of(model) is DETECTOR:  # what it does depends on what it finds
        return _detector_parts(model, image)
    # the counter names modules by their place in the model, whose root has the name of its class
    counts, own = _counted(lambda: model(image))[1], type(model).__name__
    places = {name: f"{own}.{name}" for name, _ in model.named_children() if name != "backbone"}
    parts = {name: counts[place] for name, place in places.items() if place in counts}
    # what is done outside any module, such as carrying logits to pixels
    rest = counts["Global"] - backbone - sum(parts.values())
    return parts | {"rest": rest} if rest else parts


def _detector_parts(model: Any, image: torch.Tensor) -> dict[str, int]:
    """Boxes and masks as many as there may be: which are found is not known."""
    config, heads = model.config, model.roi_heads
    maps, counts = _counted(lambda: model.backbone(image))
    parts = {"pyramid": counts[f"{type(model.backbone).__name__}.pyramid"]}
    (scores, _), counts = _counted(lambda: model.rpn.head(list(maps.values())))
    parts["first stage"] = counts["Global"]
    boxes = min(config.test_proposals, sum(each.numel() for each in scores))  # one score an anchor
    regions = _regions(heads.box_roi_pool, boxes, config.channels)
    parts["box head"] = _counted(lambda: heads.box_predictor(heads.box_head(regions)))[1]["Global"]
    if config.masks:
        found = min(config.detections, boxes * config.num_classes)
        cut = _regions(heads.mask_roi_pool, found, config.channels)
        parts["mask head"] = _counted(lambda: heads.mask_predictor(heads.mask_head(cut)))[1]["Global"]
    return parts


def _regions(pool: Any, count: int, channels: int) -> torch.Tensor:
    """What is cut out of the maps for so many boxes."""
    return torch.empty(count, channels, *pool.output_size, device="meta")


def _counted(run: Callable[[], Result]) -> tuple[Result, dict[str, int]]:
    """The result, and multiply-accumulates of every module, "Global" those of all."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        result = run()
    return result, {name: sum(by_kind.values()) // 2 for name, by_kind in counter.get_flop_counts().items()}
