"""Adapters: the trained merger of an upgraded ViT in a small file of its own, for the one model that it belongs to."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as as_bytes
from torch import Tensor

from anyres.files import named_in_text, write_bytes
from anyres.models.upgraded import UpgradedViT

_KIND = "adapter of anyres"
_LEVELS = ("full_levels", "deep_weight")
_PARTS = ("merger.", "head.")


def save_adapter(path: Path | str, model: UpgradedViT, *, head: bool = False) -> None:
    """Writes what is not the old ViT's: the merger, and with `head` the classifier.

    Args:
        path: of the file, usually with .safetensors at its end; replaced atomically.
        model: made by `anyres.upgrade`.
        head: the classifier too, for one that was trained with the merger.
    """
    parts = _PARTS if head else _PARTS[:1]
    weights = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items() if name.startswith(parts)
    }
    known = {
        "kind": _KIND, "base": base_digest(model), "name": str(model.config.source.get("architecture", "")),
        "settings": json.dumps(_settings(model)), "levels": json.dumps([getattr(model.config, k) for k in _LEVELS]),
    }  # fmt: skip
    write_bytes(Path(path), as_bytes(weights, metadata=known))


def load_adapter(model: UpgradedViT, path: Path | str) -> UpgradedViT:
    """Puts an adapter on the model that it belongs to, or one made anew from the same weights. Gives the model.

    `full_levels` and `deep_weight` become those that it was trained with, and where it brings a classifier for other
    classes the head becomes that.

    Raises:
        ValueError: no adapter, one of another model (both digests are named), or of one that was upgraded otherwise.
    """
    try:
        with named_in_text(Path(path)) as readable, safe_open(readable, framework="pt") as file:
            known = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
    except Exception as error:  # safetensors raises its own, unexported kind
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    if known.get("kind") != _KIND:
        raise ValueError(f"{path} holds no adapter; allowed: a file that anyres.save_adapter wrote.")
    own = base_digest(model)
    if known["base"] != own:
        theirs, ours = known["name"] or "unnamed", model.config.source.get("architecture", "unnamed")
        raise ValueError(
            f"{path} belongs to another model ({theirs}, digest {known['base']}); this one is {ours}, digest {own}. "
            "Upgrade the model that it was made for."
        )
    there, here = json.loads(known["settings"]), json.loads(json.dumps(_settings(model)))
    other = [f"{name} is {value} there and {here[name]} here" for name, value in there.items() if value != here[name]]
    merger = {name for name in weights if name.startswith("merger.")}
    if other or merger != {name for name in model.state_dict() if name.startswith("merger.")}:
        raise ValueError(f"{path} belongs to a model that was upgraded otherwise: {'; '.join(other) or 'its merger'}.")
    classes = len(weights.get("head.bias", ()))
    if classes and classes != model.num_classes:
        model.reset_classifier(classes)
    model.set_levels(**dict(zip(_LEVELS, json.loads(known["levels"]), strict=True)))
    model.load_state_dict(weights, strict=False)
    return model


def _settings(model: UpgradedViT) -> dict[str, Any]:
    """What the answers depend on beside weights and levels."""
    return {
        name: getattr(model.config, name) for name in ("merger", "base_filter", "cells", "last_pass", "heads", "vit")
    }


def base_digest(model: UpgradedViT) -> str:
    """Twelve hexadecimal digits of the old ViT's weights, which no adapter changes."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if not name.startswith(_PARTS):
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(_bytes(value))
    return digest.hexdigest()[:12]


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
