"""The named models, a line each. `architectures` makes them."""

from typing import Any, Literal

from anyres.models.config import ViTARConfig
from anyres.models.detector_config import DetectorConfig
from anyres.models.mae_config import MAEConfig
from anyres.models.segmenter_config import SegmenterConfig

_TINY: dict[str, Any] = {"width": 192, "heads": 3}
_SMALL: dict[str, Any] = {"width": 384, "heads": 6}
_BASE: dict[str, Any] = {"width": 768, "heads": 12}
_LARGE: dict[str, Any] = {"width": 1024, "heads": 16, "depth": 24}
_DEIT: dict[str, Any] = {
    "merger": "none", "position": "learned", "interpolation": "bicubic", "prefix_tokens": 1, "pool": "token"
}  # fmt: skip
_RESFORMER: dict[str, Any] = {"merger": "none", "position": "global_local", "prefix_tokens": 1, "pool": "token"}
# Ours: every cell is also seen from afar, the grid has the shape of the image, and positions act where the number of
# tokens is constant, so that they meet nothing new at other sizes and are learned soon.
_ANYRES: dict[str, Any] = {"merger": "pyramid", "grid_shape": "aspect", "position": "rotary"}

CLASSIFIERS: dict[str, ViTARConfig] = {
    "anyres_tiny_patch16": ViTARConfig(**_TINY, **_ANYRES),
    "anyres_small_patch16": ViTARConfig(**_SMALL, **_ANYRES),
    "anyres_base_patch16": ViTARConfig(**_BASE, **_ANYRES),
    "anyres_large_patch16": ViTARConfig(**_LARGE, **_ANYRES),
    "anyres_small_conv16": ViTARConfig(**_SMALL, **_ANYRES, stem="conv"),
    "anyres_base_conv16": ViTARConfig(**_BASE, **_ANYRES, stem="conv"),
    "vitar_tiny_patch16": ViTARConfig(**_TINY),
    "vitar_small_patch16": ViTARConfig(**_SMALL),
    "vitar_base_patch16": ViTARConfig(**_BASE),
    "vitar_large_patch16": ViTARConfig(**_LARGE),
    "vitar_small_conv16": ViTARConfig(**_SMALL, stem="conv"),
    "vitar_base_conv16": ViTARConfig(**_BASE, stem="conv"),
    "deit_tiny_patch16": ViTARConfig(**_TINY, **_DEIT),
    "deit_small_patch16": ViTARConfig(**_SMALL, **_DEIT),
    "deit_base_patch16": ViTARConfig(**_BASE, **_DEIT),
    "resformer_tiny_patch16": ViTARConfig(**_TINY, **_RESFORMER),
    "resformer_small_patch16": ViTARConfig(**_SMALL, **_RESFORMER),
    "resformer_base_patch16": ViTARConfig(**_BASE, **_RESFORMER),
}

# For pre-training without labels: of ours, of ViTAR, and of an ordinary ViT as in MAE.
_MAE_VIT: dict[str, Any] = {"merger": "none", "position": "sincos", "prefix_tokens": 1}
AUTOENCODERS: dict[str, MAEConfig] = {
    "mae_anyres_tiny_patch16": MAEConfig(backbone=ViTARConfig(**_TINY, **_ANYRES)),
    "mae_anyres_small_patch16": MAEConfig(backbone=ViTARConfig(**_SMALL, **_ANYRES)),
    "mae_anyres_base_patch16": MAEConfig(backbone=ViTARConfig(**_BASE, **_ANYRES)),
    "mae_anyres_large_patch16": MAEConfig(backbone=ViTARConfig(**_LARGE, **_ANYRES)),
    "mae_vitar_tiny_patch16": MAEConfig(backbone=ViTARConfig(**_TINY)),
    "mae_vitar_small_patch16": MAEConfig(backbone=ViTARConfig(**_SMALL)),
    "mae_vitar_base_patch16": MAEConfig(backbone=ViTARConfig(**_BASE)),
    "mae_vitar_large_patch16": MAEConfig(backbone=ViTARConfig(**_LARGE)),
    "mae_vit_tiny_patch16": MAEConfig(backbone=ViTARConfig(**_TINY, **_MAE_VIT)),
    "mae_vit_small_patch16": MAEConfig(backbone=ViTARConfig(**_SMALL, **_MAE_VIT)),
    "mae_vit_base_patch16": MAEConfig(backbone=ViTARConfig(**_BASE, **_MAE_VIT)),
    "mae_vit_large_patch16": MAEConfig(backbone=ViTARConfig(**_LARGE, **_MAE_VIT)),
}

# With cells of one patch the grid keeps the image's shape; carried back to the patches, it need not.
_SHAPED: dict[str, Any] = {"cells": "1x1", "drop_path_rate": 0.1}
# Of ours cells of 2x2: with cells of one patch there is nothing to be seen from afar, and both mergers are the same.
_OURS: dict[str, Any] = {**_ANYRES, "drop_path_rate": 0.1}
_OURS_SHAPED: dict[str, Any] = {**_OURS, "grid_shape": "fixed", "cells": "2x2"}
_UNMERGE: dict[str, Any] = {"decoder": "unmerge", "head_channels": 256}
SEGMENTERS: dict[str, SegmenterConfig] = {
    "upernet_anyres_small_patch16": SegmenterConfig(backbone=ViTARConfig(**_SMALL, **_OURS_SHAPED)),
    "upernet_anyres_base_patch16": SegmenterConfig(backbone=ViTARConfig(**_BASE, **_OURS_SHAPED)),
    "unmerge_anyres_small_patch16": SegmenterConfig(backbone=ViTARConfig(**_SMALL, **_OURS), **_UNMERGE),
    "unmerge_anyres_base_patch16": SegmenterConfig(backbone=ViTARConfig(**_BASE, **_OURS), **_UNMERGE),
    "upernet_vitar_small_patch16": SegmenterConfig(backbone=ViTARConfig(**_SMALL, **_SHAPED)),
    "upernet_vitar_base_patch16": SegmenterConfig(backbone=ViTARConfig(**_BASE, **_SHAPED)),
    "unmerge_vitar_small_patch16": SegmenterConfig(backbone=ViTARConfig(**_SMALL, drop_path_rate=0.1), **_UNMERGE),
    "unmerge_vitar_base_patch16": SegmenterConfig(backbone=ViTARConfig(**_BASE, drop_path_rate=0.1), **_UNMERGE),
}

DETECTORS: dict[str, DetectorConfig] = {
    "mask_rcnn_anyres_small_patch16": DetectorConfig(backbone=ViTARConfig(**_SMALL, **_OURS_SHAPED)),
    "mask_rcnn_anyres_base_patch16": DetectorConfig(backbone=ViTARConfig(**_BASE, **_OURS_SHAPED)),
    "mask_rcnn_vitar_small_patch16": DetectorConfig(backbone=ViTARConfig(**_SMALL, **_SHAPED)),
    "mask_rcnn_vitar_base_patch16": DetectorConfig(backbone=ViTARConfig(**_BASE, **_SHAPED)),
}

# The same names for type checkers (a test compares them): what a name makes is known before it runs.
AutoencoderName = Literal[
    "mae_anyres_tiny_patch16", "mae_anyres_small_patch16", "mae_anyres_base_patch16", "mae_anyres_large_patch16",
    "mae_vitar_tiny_patch16", "mae_vitar_small_patch16", "mae_vitar_base_patch16", "mae_vitar_large_patch16",
    "mae_vit_tiny_patch16", "mae_vit_small_patch16", "mae_vit_base_patch16", "mae_vit_large_patch16",
]  # fmt: skip
SegmenterName = Literal[
    "upernet_anyres_small_patch16", "upernet_anyres_base_patch16",
    "unmerge_anyres_small_patch16", "unmerge_anyres_base_patch16",
    "upernet_vitar_small_patch16", "upernet_vitar_base_patch16",
    "unmerge_vitar_small_patch16", "unmerge_vitar_base_patch16",
]  # fmt: skip
DetectorName = Literal[
    "mask_rcnn_anyres_small_patch16", "mask_rcnn_anyres_base_patch16",
    "mask_rcnn_vitar_small_patch16", "mask_rcnn_vitar_base_patch16",
]  # fmt: skip
