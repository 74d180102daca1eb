"""Semantic segmentation: a ViTAR whose grid keeps the image's shape, tapped at four blocks, under UperNet; or one whose
grid is any, its output carried back to every patch."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyres.layers.pyramid import TapPyramid
from anyres.layers.unmerge import Interpolate, LightHead, Unmerge
from anyres.layers.upernet import FCNHead, UperNetHead, init_convolutions
from anyres.models.around_backbone import AroundBackbone
from anyres.models.images import Images, run_by_group
from anyres.models.segmenter_config import SegmenterConfig
from anyres.models.vitar import ViTAR
from anyres.sizes import rounded_up


class Segmenter(AroundBackbone, nn.Module):
    """A class for every pixel of images of any height and width.

    Images are those of `ViTAR`: (B, C, H, W), or, in evaluation, a list of (C, H_i, W_i), each of which gives what it
    would give alone.
    """

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.config, width = config, config.backbone.width
        self.num_classes = config.num_classes
        self.backbone = ViTAR(config.backbone)
        self.pyramid: TapPyramid | None = None
        self.unmerge: Unmerge | Interpolate | None = None
        self.head: UperNetHead | LightHead
        if config.decoder == "upernet":
            self.pyramid = TapPyramid(width, config.scales)
            self.head = UperNetHead([width] * len(config.taps), config.head_channels, config.num_classes)
        else:
            self.unmerge = _make_unmerge(config)
            self.head = LightHead(width, config.head_channels, config.num_classes)
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
        if self.unmerge is not None:
            self.unmerge.init_weights()

    def forward(self, images: Images) -> Tensor | list[Tensor]:
        """Logits (B, num_classes, H, W) at the images' own size, or for a list a list of (num_classes, H_i, W_i).

        Raises:
            ValueError: images of the wrong rank, dtype or channel count, of zero size, or a list in training.
        """
        if isinstance(images, Tensor):
            return self._at_pixels(self.head(self._maps(images)), images)
        if self.training:
            raise ValueError("a list of images is given in training; allowed: a (B, C, H, W) tensor, or evaluation.")
        shapes = (tuple(image.shape) for image in images)
        return run_by_group(shapes, lambda members: self(torch.stack([images[i] for i in members])))

    def forward_training(self, images: Tensor, jitter_keys: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Logits (B, num_classes, H, W) of both heads; None for an auxiliary head that is not there.

        Args:
            images: (B, C, H, W).
            jitter_keys: (B,) int64, see `ViTAR.forward`.
        """
        maps = self._maps(images, jitter_keys)
        logits = self._at_pixels(self.head(maps), images)
        if self.auxiliary is None:
            return logits, None
        return logits, self._at_pixels(self.auxiliary(maps[self.config.auxiliary_tap]), images)

    def _maps(self, images: Tensor, jitter_keys: Tensor | None = None) -> Any:
        """What the head reads: (B, D, h_i, w_i) for each scale, or one map of the patches (B, D, rows, cols)."""
        if self.unmerge is not None:
            features, patches, shares = self.backbone.forward_patches(images, jitter_keys)
            return self.unmerge(features.tokens, patches, shares, features.plan).permute(0, 3, 1, 2).contiguous()
        assert self.pyramid is not None
        taps = self.backbone.forward_intermediates(
            images, indices=self.config.taps, stop_early=True, intermediates_only=True, jitter_keys=jitter_keys
        )
        return self.pyramid(taps)

    def _at_pixels(self, logits: Tensor, images: Tensor) -> Tensor:
        """Logits of a map as those of pixels, bilinear; what only completes the last patches and cells is cut off."""
        height, width = images.shape[-2:]
        whole = self.backbone.covered(height, width)
        if self.unmerge is None:
            whole = rounded_up(whole, self.config.stride)
        return F.interpolate(logits, size=whole, mode="bilinear", align_corners=False)[..., :height, :width]


def _make_unmerge(config: SegmenterConfig) -> Unmerge | Interpolate:
    if config.decoder == "bilinear":
        return Interpolate(config.backbone.width, skip=config.skip)
    return Unmerge(config.backbone.width, config.backbone.heads, skip=config.skip, neighbours=config.neighbours)
