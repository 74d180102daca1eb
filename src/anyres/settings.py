"""Two configurations in their form on disk, compared field by field."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any


def differences(old: Mapping[str, Any], new: Mapping[str, Any], ignore: frozenset[str] = frozenset()) -> list[str]:
    """Lines like "lr: 0.001 there, 0.01 here" for every field of two configurations (`to_json`) that differs
    and is not to be ignored."""
    flat_old, flat_new = _flatten(old), _flatten(new)
    names = [name for name in {**flat_old, **flat_new} if name not in ignore]
    missing = "not set"
    pairs = [(name, flat_old.get(name, missing), flat_new.get(name, missing)) for name in names]
    short = _SHORT.repr  # a thousand class names would hide the rest of the message
    return [f"{name}: {short(there)} there, {short(here)} here" for name, there, here in pairs if there != here]


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlist = 16


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat
