"""Semantic segmentation: a ViTAR whose grid keeps the image's shape, tapped at four blocks, under UperNet."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyres.layers.pyramid import TapPyramid, doublings
from anyres.layers.upernet import FCNHead, UperNetHead, init_convolutions
from anyres.models.config import ViTARConfig, override_around
from anyres.models.images import Images, group_by
from anyres.models.vitar import ViTAR
from anyres.models.weights import ModelInfo, load_around, model_info, write_model


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig:
    """Everything that defines a segmenter. The head's defaults are those of UperNet on BEiT and DeiT."""

    backbone: ViTARConfig
    """A ViTAR with cells of "1x1" or "2x2" patches, or without a merger; its own head is left out."""
    num_classes: int = 150
    """Classes to tell apart; ADE20K has 150."""
    taps: tuple[int, ...] = (2, 5, 8, 11)
    """Blocks of the trunk, counted from 0, whose outputs the head reads; the first becomes the finest map."""
    scales: tuple[float, ...] = (4, 2, 1, 0.5)
    """Size of each map relative to the backbone's; with cells of "2x2", (8, 4, 2, 1) keeps strides of 4 to 32."""
    head_channels: int = 512
    """Channels of the head."""
    auxiliary_channels: int = 256
    """Channels of the auxiliary head, which helps training; 0 leaves it out."""
    auxiliary_tap: int = 2
    """Which of the maps the auxiliary head reads, counted from 0."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "backbone", replace(self.backbone, num_classes=0))
        lowest = {"num_classes": 2, "head_channels": 1, "auxiliary_channels": 0, "auxiliary_tap": 0}
        for name, least in lowest.items():
            given = getattr(self, name)
            if isinstance(given, bool) or not isinstance(given, int) or given < least:
                raise ValueError(f"{name} is {given!r}; it must be a whole number from {least} up.")
        for name in ("taps", "scales"):
            if not isinstance(getattr(self, name), Sequence):
                raise ValueError(f"{name} is {getattr(self, name)!r}; give a tuple of numbers, such as {_of(name)}.")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check_taps()
        if self.backbone.merger != "none" and self.backbone.cells not in ("1x1", "2x2"):
            raise ValueError(
                f"cells are {self.backbone.cells!r}, whose grid does not keep the image's shape; allowed in "
                'segmentation: cells="1x1" or "2x2", or merger="none".'
            )
        if self.backbone.in_channels not in (1, 3):
            raise ValueError(f"in_channels is {self.backbone.in_channels}; image files have 1 or 3.")

    def _check_taps(self) -> None:
        depth, count = self.backbone.depth, len(self.taps)
        fits = count >= 2 and all(isinstance(tap, int) and 0 <= tap < depth for tap in self.taps)
        if not fits or list(self.taps) != sorted(set(self.taps)):
            nearest = sorted({max(depth * (i + 1) // 4 - 1, 0) for i in range(4)})
            raise ValueError(
                f"taps are {self.taps}; allowed: rising numbers of two or more blocks from 0 to {depth - 1}; "
                f"usual: {tuple(nearest)}."
            )
        if len(self.scales) != count:
            raise ValueError(f"scales are {self.scales} for {count} taps; give as many, the largest first.")
        for scale in self.scales:
            doublings(scale)
        if list(self.scales) != sorted(self.scales, reverse=True):
            raise ValueError(f"scales are {self.scales}; the first map is the finest: give the largest scale first.")
        if self.auxiliary_tap >= count:
            raise ValueError(f"auxiliary_tap is {self.auxiliary_tap}; allowed: 0 to {count - 1}, the place of a tap.")
        if not self.auxiliary_channels and self.auxiliary_tap != _of("auxiliary_tap"):
            raise ValueError(f"auxiliary_tap={self.auxiliary_tap} has no effect because auxiliary_channels is 0.")

    @property
    def stride(self) -> int:
        """Pixels per token of the backbone's grid."""
        cell = 2 if self.backbone.merger != "none" and self.backbone.cells == "2x2" else 1
        return self.backbone.patch_size * cell


class Segmenter(nn.Module):
    """A class for every pixel of images of any height and width.

    Images are those of `ViTAR`: (B, C, H, W), or, in evaluation, a list of (C, H_i, W_i), each of which gives what it
    would give alone.
    """

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.config, width = config, config.backbone.width
        self.num_classes = config.num_classes
        self.backbone = ViTAR(config.backbone)
        self.pyramid = TapPyramid(width, config.scales)
        self.head = UperNetHead([width] * len(config.taps), config.head_channels, config.num_classes)
        self.auxiliary = None
        if config.auxiliary_channels:
            self.auxiliary = FCNHead(width, config.auxiliary_channels, config.num_classes)
        if not self.head.classifier.weight.is_meta:
            self.init_weights()

    def init_weights(self) -> None:
        """Initialises every parameter, also after construction on the meta device and `to_empty`."""
        self.backbone.init_weights()
        for part in (self.pyramid, self.head, self.auxiliary):
            if part is not None:
                init_convolutions(part)

    def forward(self, images: Images) -> Tensor | list[Tensor]:
        """Logits (B, num_classes, H, W) at the images' own size, or for a list a list of (num_classes, H_i, W_i).

        Raises:
            ValueError: images of the wrong rank, dtype or channel count, of zero size, or a list in training.
        """
        if isinstance(images, Tensor):
            maps = self._maps(images)
            return self._at_pixels(self.head(maps), images)
        if self.training:
            raise ValueError("a list of images is given in training; allowed: a (B, C, H, W) tensor, or evaluation.")
        found: list[Any] = [None] * len(images)
        for members in group_by(tuple(image.shape) for image in images):
            logits = self(torch.stack([images[i] for i in members]))  # (b, num_classes, H, W)
            for place, i in enumerate(members):
                found[i] = logits[place]
        return found

    def forward_training(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits (B, num_classes, H, W) of both heads; None for an auxiliary head that is not there."""
        maps = self._maps(images)
        logits = self._at_pixels(self.head(maps), images)
        if self.auxiliary is None:
            return logits, None
        return logits, self._at_pixels(self.auxiliary(maps[self.config.auxiliary_tap]), images)

    def _maps(self, images: Tensor) -> list[Tensor]:
        """(B, D, h_i, w_i) for each scale."""
        taps = self.backbone.forward_intermediates(
            images, indices=self.config.taps, stop_early=True, intermediates_only=True
        )
        return self.pyramid(taps)

    def _at_pixels(self, logits: Tensor, images: Tensor) -> Tensor:
        """Logits of a map as those of pixels, bilinear; what only completes the last patches and cells is cut off."""
        stride, (height, width) = self.config.stride, images.shape[-2:]
        whole = [-(-side // stride) * stride for side in (height, width)]
        return F.interpolate(logits, size=whole, mode="bilinear", align_corners=False)[..., :height, :width]

    # What the engine expects.

    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay: the backbone's."""
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes the backbone's passes and blocks in the backward pass instead of keeping their activations."""
        self.backbone.set_grad_checkpointing(enable)


_VITAR: dict[str, Any] = {"cells": "1x1", "num_classes": 0, "drop_path_rate": 0.1}
PRESETS_SEGMENT: dict[str, SegmenterConfig] = {
    "upernet_vitar_small_patch16": SegmenterConfig(backbone=ViTARConfig(width=384, heads=6, **_VITAR)),
    "upernet_vitar_base_patch16": SegmenterConfig(backbone=ViTARConfig(width=768, heads=12, **_VITAR)),
}


def get_segmenter_config(name: str, **overrides: Any) -> SegmenterConfig:
    """The configuration of a named segmenter; overrides are fields of `SegmenterConfig` or of its backbone.

    Raises:
        ValueError: unknown model or field (the nearest names are suggested), or an impossible value.
    """
    return override_around(PRESETS_SEGMENT, "backbone", name, overrides, "model to segment with")


def save_segmenter(
    folder: Path | str,
    model: Segmenter,
    *,
    name: str | None,
    classes: Sequence[str],
    training_sizes: Sequence[tuple[int, int]],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes a segmenter to a folder; each of the two files is replaced atomically."""
    record = {"architecture": "Segmenter", "config": asdict(model.config)}
    write_model(Path(folder), model, record | asdict(model_info(name, classes, training_sizes, extra)))


def load_segmenter(folder: Path | str) -> tuple[Segmenter, ModelInfo]:
    """Reads a segmenter that `save_segmenter` wrote: on the CPU, in evaluation mode.

    Raises:
        ValueError: as `load_model`.
    """
    return load_around(folder, Segmenter, SegmenterConfig, "backbone")


def _of(name: str) -> Any:
    """The default of a field."""
    return next(each.default for each in fields(SegmenterConfig) if each.name == name)
