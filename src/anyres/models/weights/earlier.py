"""What earlier versions wrote, under today's names: the one place that knows of them."""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

Value = TypeVar("Value")

# architecture -> names in its state dict as they were, and as they are
_RENAMED = {
    "MaskedAutoencoder": ((r"^encoder\.", "backbone."),),
    "Detector": ((r"^backbone\.encoder\.", "backbone.backbone."),),
}


def settings_as_now(architecture: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a saved configuration: the ViTAR of an auto-encoder was its `encoder` before it was `backbone`."""
    if architecture != "MaskedAutoencoder":
        return dict(settings)
    return {"backbone" if name == "encoder" else name: value for name, value in settings.items()}


def weights_as_now(architecture: str, weights: Mapping[str, Value]) -> dict[str, Value]:
    """A saved state dict under today's names; one that has them already is as it was."""
    found = {}
    for name, value in weights.items():
        for pattern, replacement in _RENAMED.get(architecture, ()):
            name = re.sub(pattern, replacement, name)
        found[name] = value
    return found
