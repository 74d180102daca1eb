"""The named models, a line each, and how to make one."""

import fnmatch
from typing import Any, Literal, overload

from torch import nn

from anyres.errors import unknown
from anyres.models.config import ViTARConfig, override, override_around
from anyres.models.detector_config import PRESETS_DETECT, get_detector_config
from anyres.models.mae import MaskedAutoencoder
from anyres.models.mae_config import MAEConfig
from anyres.models.segmenter import Segmenter
from anyres.models.segmenter_config import PRESETS_SEGMENT, get_segmenter_config
from anyres.models.vitar import ViTAR

MAEName = Literal[
    "mae_vitar_tiny_patch16", "mae_vitar_small_patch16", "mae_vitar_base_patch16", "mae_vitar_large_patch16",
    "mae_vit_tiny_patch16", "mae_vit_small_patch16", "mae_vit_base_patch16", "mae_vit_large_patch16",
]  # fmt: skip

_TINY: dict[str, Any] = {"width": 192, "heads": 3}
_SMALL: dict[str, Any] = {"width": 384, "heads": 6}
_BASE: dict[str, Any] = {"width": 768, "heads": 12}
_LARGE: dict[str, Any] = {"width": 1024, "heads": 16, "depth": 24}
_DEIT: dict[str, Any] = {
    "merger": "none", "position": "learned", "interpolation": "bicubic", "prefix_tokens": 1, "pool": "token"
}  # fmt: skip
_RESFORMER: dict[str, Any] = {"merger": "none", "position": "global_local", "prefix_tokens": 1, "pool": "token"}

PRESETS: dict[str, ViTARConfig] = {
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


# For pre-training without labels: of ViTAR, and of an ordinary ViT as in MAE.
_MAE_VIT: dict[str, Any] = {"merger": "none", "position": "sincos", "prefix_tokens": 1}
_SIZES = {"tiny": _TINY, "small": _SMALL, "base": _BASE, "large": _LARGE}
MAE_PRESETS: dict[str, MAEConfig] = {
    **{f"mae_vitar_{size}_patch16": MAEConfig(encoder=ViTARConfig(**shape)) for size, shape in _SIZES.items()},
    **{
        f"mae_vit_{size}_patch16": MAEConfig(encoder=ViTARConfig(**shape, **_MAE_VIT)) for size, shape in _SIZES.items()
    },
}


def list_models(pattern: str = "*") -> list[str]:
    """Names of models that match a shell-style pattern, such as "vitar*"."""
    names = (*PRESETS, *MAE_PRESETS, *PRESETS_SEGMENT, *PRESETS_DETECT)
    return [name for name in names if fnmatch.fnmatch(name, pattern)]


def get_config(name: str, **overrides: Any) -> ViTARConfig:
    """The configuration of a named model with some fields replaced.

    What the preset sets and an override leaves without effect goes back to its default: `position="none"` on a DeiT
    needs no word about interpolation.

    Raises:
        ValueError: unknown model or field (the nearest names are suggested), or an impossible value.
    """
    if name not in PRESETS:
        raise unknown("model", name, PRESETS)
    return override(PRESETS[name], overrides, name)


def get_mae_config(name: str, **overrides: Any) -> MAEConfig:
    """The configuration of a named masked auto-encoder; overrides are fields of `MAEConfig` or of its encoder.

    Raises:
        ValueError: unknown model or field (the nearest names are suggested), or an impossible value.
    """
    return override_around(MAE_PRESETS, "encoder", name, overrides, "model to pre-train")


@overload
def create_model(name: MAEName, **overrides: Any) -> MaskedAutoencoder: ...
@overload
def create_model(name: str, **overrides: Any) -> ViTAR: ...
def create_model(name: str, **overrides: Any) -> nn.Module:
    """A freshly initialised model by name, of which "_patch16" may be left out.

    Overrides are fields of `ViTARConfig`, and for `mae_*`, `upernet_*`, `unmerge_*` and `mask_rcnn_*` those of
    `MAEConfig`, `SegmenterConfig` and `DetectorConfig` too.

    `create_model("vitar_small_patch16", num_classes=10, drop_path_rate=0.1)`. Inside `with torch.device("meta"):`
    nothing is allocated; call `model.to_empty(device=...)` and `model.init_weights()` later.

    Raises:
        ValueError: unknown model or field (the nearest names are suggested), or an impossible value.
    """
    names = list_models()
    name = next((each for each in (name, f"{name}_patch16") if each in names), name)
    if name not in names:
        raise unknown("model", name, names)
    if name in MAE_PRESETS:
        return MaskedAutoencoder(get_mae_config(name, **overrides))
    if name in PRESETS_SEGMENT:
        return Segmenter(get_segmenter_config(name, **overrides))
    if name in PRESETS_DETECT:
        from anyres.models.detector import Detector  # torchvision's detection, which nothing else needs

        return Detector(get_detector_config(name, **overrides))
    return ViTAR(get_config(name, **overrides))
