"""Detection and instance segmentation: a ViTAR whose grid keeps the image's shape, under torchvision's Mask R-CNN."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, RPNHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNN, MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper
from torchvision.transforms.v2 import functional

from anyres.layers.pyramid import SimpleFeaturePyramid
from anyres.models.around_backbone import AroundBackbone
from anyres.models.detector_config import DetectorConfig
from anyres.models.images import check_images, run_by_group
from anyres.models.vitar import ViTAR

_STRIDES = (4, 8, 16, 32)
_ASPECTS = (0.5, 1.0, 2.0)  # height / width of anchors


class PyramidBackbone(nn.Module):
    """ViTAR and simple feature pyramid: images (B, C, H, W) -> maps (B, channels, h, w) of strides 4 to 64."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.backbone = ViTAR(config.backbone)
        self.pyramid = SimpleFeaturePyramid(
            config.backbone.width, stride=config.stride, strides=_STRIDES, out_channels=config.channels
        )
        self.out_channels = config.channels

    def forward(self, images: Tensor, jitter_keys: Tensor | None = None) -> "OrderedDict[str, Tensor]":
        tokens = self.backbone.forward_features(images, jitter_keys).tokens  # (B, rows, cols, D)
        assert isinstance(tokens, Tensor)
        maps = self.pyramid(tokens.permute(0, 3, 1, 2).contiguous())
        maps.append(F.max_pool2d(maps[-1], 1, 2))  # ViTDet's P6, for anchors alone
        return OrderedDict((str(level), each) for level, each in enumerate(maps))


class Detector(AroundBackbone, MaskRCNN):
    """Boxes, classes and masks of the objects in images of any height and width.

    Images are a list of (C, H_i, W_i) floating-point tensors from 0 to 1, not normalised: that and, in evaluation,
    resizing is done here (`config.min_size`, `config.max_size`, `set_size`). Strides of anchors and of what boxes are
    cut from are exact, where torchvision estimates them from sizes that are rounded or padded.
    """

    def __init__(self, config: DetectorConfig) -> None:
        outputs, channels = config.num_classes + 1, config.channels
        super().__init__(
            PyramidBackbone(config),
            rpn_anchor_generator=_Anchors((*_STRIDES, 2 * _STRIDES[-1]), config.anchor_sizes),
            rpn_head=_FirstStage(channels, len(_ASPECTS), conv_depth=2),
            rpn_pre_nms_top_n_train=config.train_proposals,
            rpn_post_nms_top_n_train=config.train_proposals,
            rpn_pre_nms_top_n_test=config.test_proposals,
            rpn_post_nms_top_n_test=config.test_proposals,
            rpn_batch_size_per_image=config.rpn_samples,
            box_roi_pool=_region_pool(7),
            box_head=FastRCNNConvFCHead((channels, 7, 7), [channels] * 4, [config.box_features], LayerNorm2d),
            box_predictor=_SecondStage(config.box_features, outputs),
            box_score_thresh=config.score_threshold,
            box_nms_thresh=config.nms_threshold,
            box_detections_per_img=config.detections,
            box_batch_size_per_image=config.roi_samples,
            mask_roi_pool=_region_pool(14),
            mask_head=MaskRCNNHeads(channels, [channels] * 4, 1, LayerNorm2d),
            mask_predictor=MaskRCNNPredictor(channels, channels, outputs),
        )
        self.config = config
        self.transform = _Preparation(config)
        if not config.masks:
            self.roi_heads.mask_roi_pool = self.roi_heads.mask_head = self.roi_heads.mask_predictor = None

    def set_size(self, min_size: int, max_size: int) -> None:
        """The size in pixels that images are resized to in evaluation, see `DetectorConfig`; it is not saved."""
        if not 1 <= min_size <= max_size:
            raise ValueError(f"min_size is {min_size} and max_size is {max_size}; allowed: 1 <= min_size <= max_size")
        self.transform.limits = (min_size, max_size)

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Mapping[str, Tensor]] | None = None,
        jitter_keys: Tensor | None = None,
    ) -> Any:
        """Losses by name in training, otherwise one dictionary an image: what it gives alone.

        In evaluation images share a pass where they are padded to the same size: attention sees the padding, so that
        an image padded to the size of a larger one would give something else.

        Args:
            images: (C, H_i, W_i) each, from 0 to 1; in training as they are to be seen, they are not resized.
            targets: in training alone, for each image boxes (N, 4) as x0, y0, x1, y1 in pixels, labels (N,) from 1 to
                `num_classes` and, if the model has masks, masks (N, H_i, W_i) of 0 and 1.
            jitter_keys: (B,) int64, see `ViTAR.forward`; in training alone.

        Returns:
            In evaluation boxes (N, 4) and scores (N,), labels (N,) and masks (N, 1, H_i, W_i) from 0 to 1, in the
            pixels of the images as given, the best first.

        Raises:
            ValueError: images that are none, targets that do not fit them or the model, or weights that are not
                float32, as which torchvision cuts out regions (autocast does mix).
        """
        images = list(images)
        if self.training:
            self.check_images(images)
            self._check_targets(images, targets)
            return self._losses(images, [dict(target) for target in targets or ()], jitter_keys)
        found = self.find(images)
        for image, each in zip(images, found, strict=True):
            if "masks" in each:
                each["masks"] = paste_masks_in_image(each["masks"], each["boxes"], image.shape[-2:])
        return found

    def _losses(
        self, images: list[Tensor], targets: list[dict[str, Tensor]], jitter_keys: Tensor | None
    ) -> dict[str, Tensor]:
        """torchvision's own steps; its `forward` has no place for what the backbone is to be told."""
        batch, targets = self.transform(images, targets)
        maps = self.backbone(batch.tensors, jitter_keys)
        proposals, first_stage = self.rpn(batch, maps, targets)
        _, second_stage = self.roi_heads(maps, proposals, batch.image_sizes, targets)
        return second_stage | first_stage

    def find(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """What `forward` gives in evaluation, but with masks as small as they are made, (N, 1, 28, 28) within boxes."""
        self.check_images(images)
        padded = (self.transform.padded((each.shape[-2], each.shape[-1])) for each in images)
        return run_by_group(padded, lambda members: self._find_together([images[i] for i in members]))

    def _find_together(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """The same in images that are padded to one size."""
        batch, _ = self.transform(images)
        maps = self.backbone(batch.tensors)
        found, _ = self.roi_heads(maps, self.rpn(batch, maps)[0], batch.image_sizes)
        for image, seen, each in zip(images, batch.image_sizes, found, strict=True):
            each["boxes"] = resize_boxes(each["boxes"], list(seen), list(image.shape[-2:]))
        return found

    def check_images(self, images: Sequence[Tensor]) -> None:
        """ValueError for images that the model does not take, or none, or weights of another type than float32."""
        if not images:
            raise ValueError("no images are given; give a list of (C, H, W) tensors.")
        dtype = self.rpn.head.cls_logits.weight.dtype
        if dtype != torch.float32:
            raise ValueError(f"the detector's weights are {dtype}; allowed: model.float(), then torch.autocast.")
        for image in images:
            check_images(image, 3, self.config.backbone.in_channels, dtype)

    def _check_targets(self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None) -> None:
        needed = ("boxes", "labels", "masks") if self.config.masks else ("boxes", "labels")
        if targets is None or len(targets) != len(images):
            given = "none" if targets is None else len(targets)
            raise ValueError(f"{given} targets are given for {len(images)} images; in training each image needs one.")
        for image, target in zip(images, targets, strict=True):
            missing = [name for name in needed if name not in target]
            if missing:
                raise ValueError(f"a target lacks {', '.join(missing)}; needed are {', '.join(needed)}.")
            count = len(target["labels"])
            shapes = {"boxes": (count, 4), "masks": (count, *image.shape[-2:])}
            for name in needed:
                if name in shapes and tuple(target[name].shape) != shapes[name]:
                    raise ValueError(f"{name} are {tuple(target[name].shape)}; needed for the image: {shapes[name]}.")
            boxes = target["boxes"]
            flat = boxes[(boxes[:, 2:] <= boxes[:, :2]).any(dim=1)]
            if len(flat):
                raise ValueError(f"a box is {flat[0].tolist()}; needed are x0, y0, x1, y1 with x0 < x1 and y0 < y1.")
            if count and not 1 <= target["labels"].min() <= target["labels"].max() <= self.config.num_classes:
                found = sorted(set(target["labels"].tolist()))
                raise ValueError(f"labels are {found}; allowed: 1 to num_classes, {self.config.num_classes}.")


class _FirstStage(RPNHead):
    """Scores and boxes in float32: under autocast torchvision would round boxes of bfloat16 to whole patches."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        scores, boxes = super().forward(x)
        return [each.float() for each in scores], [each.float() for each in boxes]


class _SecondStage(FastRCNNPredictor):
    """The same for the last scores and boxes."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores, boxes = super().forward(x)
        return scores.float(), boxes.float()


class _Anchors(AnchorGenerator):
    """Anchors at the maps' true strides."""

    def __init__(self, strides: Sequence[int], sizes: Sequence[int]) -> None:
        super().__init__(tuple((size,) for size in sizes), (_ASPECTS,) * len(sizes))
        self.strides = tuple(strides)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """(N, 4) float32 for each image."""
        device = feature_maps[0].device
        self.set_cell_anchors(torch.float32, device)
        strides = [[torch.full((), stride, device=device)] * 2 for stride in self.strides]
        anchors = torch.cat(self.grid_anchors([list(each.shape[-2:]) for each in feature_maps], strides))
        return [anchors] * len(image_list.image_sizes)


def _region_pool(side: int) -> MultiScaleRoIAlign:
    """Cuts boxes out of the map that fits their size, with the scales that torchvision would guess from the first
    images it sees, wrongly where much of them is padding."""
    pool = MultiScaleRoIAlign([str(level) for level in range(len(_STRIDES))], side, sampling_ratio=2)
    pool.scales = [1 / stride for stride in _STRIDES]
    pool.map_levels = initLevelMapper(2, 5)
    return pool


class _Preparation(GeneralizedRCNNTransform):
    """Normalises and pads images and, in evaluation alone, resizes them, with antialiasing as in training."""

    def __init__(self, config: DetectorConfig) -> None:
        mean, std = list(config.backbone.mean), list(config.backbone.std)
        divisor = max(config.stride, _STRIDES[-1])
        super().__init__(config.min_size, config.max_size, mean, std, size_divisible=divisor)
        self.limits = (config.min_size, config.max_size)

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, Any]:
        if self.training:
            return image, target
        size = self._resized((image.shape[-2], image.shape[-1]))
        return functional.resize(image, list(size), antialias=True), target

    def padded(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) that an image of (height, width) is seen as in evaluation: resized and padded."""
        height, width = (-(-side // self.size_divisible) * self.size_divisible for side in self._resized(size))
        return height, width

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        scale = min(self.limits[0] / min(size), self.limits[1] / max(size))
        return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
