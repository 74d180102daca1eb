"""The named models, a line each, and how to make one."""

import fnmatch
from dataclasses import fields
from typing import Any

from anyres.errors import unknown
from anyres.models.config import ViTARConfig, idle_fields
from anyres.models.vitar import ViTAR

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


def list_models(pattern: str = "*") -> list[str]:
    """Names of models that match a shell-style pattern, such as "vitar*"."""
    return [name for name in PRESETS if fnmatch.fnmatch(name, pattern)]


def get_config(name: str, **overrides: Any) -> ViTARConfig:
    """The configuration of a named model with some fields replaced.

    What the preset sets and an override leaves without effect goes back to its default: `position="none"` on a DeiT
    needs no word about interpolation.

    Raises:
        ValueError: unknown model or field (the nearest names are suggested), or an impossible value.
    """
    if name not in PRESETS:
        raise unknown("model", name, PRESETS)
    allowed = [field.name for field in fields(ViTARConfig)]
    for key in overrides:
        if key not in allowed:
            raise unknown(f"option of {name}", key, allowed)
    values = {field.name: getattr(PRESETS[name], field.name) for field in fields(ViTARConfig)} | overrides
    kept = {key: value for key, value in values.items() if key in overrides or key not in idle_fields(values)}
    return ViTARConfig(**kept)


def create_model(name: str, **overrides: Any) -> ViTAR:
    """A freshly initialised model by name; overrides are fields of `ViTARConfig`.

    `create_model("vitar_small_patch16", num_classes=10, drop_path_rate=0.1)`. Inside `with torch.device("meta"):`
    nothing is allocated; call `model.to_empty(device=...)` and `model.init_weights()` later.

    Raises:
        ValueError: unknown model or field (the nearest names are suggested), or an impossible value.
    """
    return ViTAR(get_config(name, **overrides))
