"""What earlier versions wrote, under today's names: the one place that knows of them."""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

Value = TypeVar("Value")

# architecture -> where its ViTAR was in its state dict, and where it is
_BACKBONES = {
    "ViTAR": ("", ""),
    "MaskedAutoencoder": ("encoder.", "backbone."),
    "Segmenter": ("backbone.", "backbone."),
    "Detector": ("backbone.encoder.", "backbone.backbone."),
}
_OF_THE_TRUNK = re.compile(r"(blocks|norm|prefix|rotary)(\.|$)")  # parts of a ViTAR itself before it had a `trunk`


def settings_as_now(architecture: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a saved configuration: the ViTAR of an auto-encoder was its `encoder` before it was `backbone`, and
    `deep_weight` had another default, which is written even where it has no effect."""
    found = dict(settings)
    if architecture == "MaskedAutoencoder" and "encoder" in found:
        found["backbone"] = found.pop("encoder")
    for each in (found, found.get("backbone")):
        if isinstance(each, dict) and each.get("full_levels") is None:
            each.pop("deep_weight", None)
    return found


def weights_as_now(architecture: str, weights: Mapping[str, Value]) -> dict[str, Value]:
    """A saved state dict under today's names; one that has them already is as it was."""
    if architecture not in _BACKBONES:  # newer than all of this
        return dict(weights)
    was, is_now = _BACKBONES[architecture]
    found = {}
    for name, value in weights.items():
        for place in (was, is_now):
            if name.startswith(place):
                own = name.removeprefix(place)
                name = is_now + ("trunk." + own if _OF_THE_TRUNK.match(own) else own)
                break
        found[name] = value
    return found
