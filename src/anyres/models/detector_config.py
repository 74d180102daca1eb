"""The configuration of a detector: its backbone, the sizes that it works at, and its heads."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from anyres.models.config import ViTARConfig

_LEVELS = 5  # maps that anchors stand on: strides 4 to 64
_WHOLE = {
    "num_classes": 1, "min_size": 1, "max_size": 1, "channels": 1, "box_features": 1, "train_proposals": 1,
    "test_proposals": 1, "rpn_samples": 2, "roi_samples": 2, "detections": 1,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """Everything that defines a detector. The heads are those of ViTDet (arXiv 2203.16527), all with layer norms."""

    backbone: ViTARConfig
    """A ViTAR with cells of "1x1" or "2x2" patches, or without a merger; its own head is left out."""
    num_classes: int = 80
    """Classes to find, without the background; COCO has 80."""
    masks: bool = True
    """Finds masks too (Mask R-CNN); otherwise boxes alone (Faster R-CNN)."""
    min_size: int = 800
    """In evaluation images are resized until the shorter side has this many pixels ..."""
    max_size: int = 1333
    """... but the longer one no more than this."""
    channels: int = 256
    """Channels of the pyramid's maps and of the heads' convolutions."""
    box_features: int = 1024
    """Length of the vector that a box is classified by."""
    anchor_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    """Side in pixels of the anchors on each of the five maps, whose strides are 4, 8, 16, 32 and 64."""
    train_proposals: int = 2000
    """Most boxes that the first stage hands on, per map and in all, while training."""
    test_proposals: int = 1000
    """The same in evaluation."""
    rpn_samples: int = 256
    """Anchors per image that the first stage learns from in a step."""
    roi_samples: int = 512
    """Boxes per image that the second stage learns from in a step."""
    score_threshold: float = 0.05
    """Least score of what is found."""
    nms_threshold: float = 0.5
    """Of two boxes of one class that overlap by more than this (IoU) the better one is kept."""
    detections: int = 100
    """Most objects found in an image."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "backbone", replace(self.backbone, num_classes=0))
        for name, least in _WHOLE.items():
            given = getattr(self, name)
            if isinstance(given, bool) or not isinstance(given, int) or given < least:
                raise ValueError(f"{name} is {given!r}; it must be a whole number from {least} up.")
        if not isinstance(self.masks, bool):
            raise ValueError(f"masks is {self.masks!r}; allowed: True, False.")
        for name in ("score_threshold", "nms_threshold"):
            given = getattr(self, name)
            if not isinstance(given, int | float) or not 0 <= given <= 1:
                raise ValueError(f"{name} is {given!r}; it must be a number from 0 to 1.")
        if self.min_size > self.max_size:
            raise ValueError(f"min_size is {self.min_size}, above max_size {self.max_size}; allowed: up to it.")
        sizes = self.anchor_sizes if isinstance(self.anchor_sizes, Sequence) else ()
        if len(sizes) != _LEVELS or not all(isinstance(size, int) and size > 0 for size in sizes):
            usual = next(field.default for field in fields(DetectorConfig) if field.name == "anchor_sizes")
            raise ValueError(f"anchor_sizes is {self.anchor_sizes!r}; give {_LEVELS} whole numbers, such as {usual}.")
        object.__setattr__(self, "anchor_sizes", tuple(sizes))
        self._check_backbone()

    def _check_backbone(self) -> None:
        backbone = self.backbone
        if not backbone.keeps_shape:
            raise ValueError(
                f"cells are {backbone.cells!r}, whose grid does not keep the image's shape; allowed in detection: "
                'cells="1x1" or "2x2", or merger="none".'
            )
        if self.stride not in (4, 8, 16, 32, 64):
            raise ValueError(
                f"patch_size is {backbone.patch_size}, which gives a map of stride {self.stride}; allowed: strides of "
                "4, 8, 16, 32 and 64, such as patch_size=16."
            )
        if backbone.in_channels not in (1, 3):
            raise ValueError(f"in_channels is {backbone.in_channels}; image files have 1 or 3.")

    @property
    def stride(self) -> int:
        """Pixels per token of the backbone's grid."""
        return self.backbone.stride
