"""Configurations as such: the defaults of their fields, their form on disk, and two of them compared."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any


def defaults(kind: type[Any]) -> dict[str, Any]:
    """The fields of a dataclass that may be left out, with what they are then."""
    found: dict[str, Any] = {}
    for field in fields(kind):
        if field.default is not MISSING:
            found[field.name] = field.default
        elif field.default_factory is not MISSING:
            found[field.name] = field.default_factory()
    return found


def default_of(name: str, kind: type[Any]) -> Any:
    """The default of a field of a dataclass. KeyError if it has none."""
    return defaults(kind)[name]


def plain(settings: Any) -> Any:
    """The same in lists, dictionaries, numbers and strings, as JSON reads it back, so that what is read compares equal:
    tuples are lists, dataclasses are dictionaries, paths are strings."""
    return json.loads(json.dumps(settings, default=_plain))


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


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
