"""What no tensor tells of when a model starts from another's weights: settings that are others there."""

from collections.abc import Mapping
from typing import Any

from anyres.models.config import ViTARConfig

TABLES = ("fuzzy", "learned")
"""Positions that are a table."""

_MERGING = ("cells", "last_pass", "learned_levels", "padding")
_OF_LEVELS = ("grid_shape", "full_levels", "deep_weight")  # where an image decides how many levels there are
_ONE_BLOCK = {"grid_attention", "pyramid"}  # mergers whose tensors are the same
_SAME_TENSORS = (
    ("position", {"sincos", "rotary", "none"}),
    ("merger", {"average", "none"}),
    ("merger", _ONE_BLOCK),
)


Differing = Mapping[str, tuple[Any, Any]]  # fields of a `ViTARConfig`: (in the source, in the model)


def differing_settings(theirs: ViTARConfig, ours: ViTARConfig, resize: bool) -> Differing:
    """What no tensor tells of, of the parts that both have. Nothing that matters while training alone."""
    names = ["mean", "std"]
    names += [name for name, alike in _SAME_TENSORS if {getattr(theirs, name), getattr(ours, name)} <= alike]
    if theirs.position in TABLES and ours.position in TABLES:
        names.append("interpolation")
    if theirs.merger == ours.merger == "none":
        names.append("tome")
    elif theirs.merger == ours.merger or {theirs.merger, ours.merger} <= _ONE_BLOCK:
        is_fixed = {theirs.cells, ours.cells} <= {"1x1", "2x2"}
        names += _MERGING if resize or is_fixed else ("grid", *_MERGING)
        if not {theirs.cells, ours.cells} & {"1x1", "2x2"}:
            names += _OF_LEVELS
    names += ["window", "global_blocks"] if theirs.window and ours.window else ["window"]
    pairs = {name: (getattr(theirs, name), getattr(ours, name)) for name in names}
    if "cells" in pairs:
        usual = "balanced" if ours.merger == "average" else "halving"
        pairs["cells"] = (theirs.cells or usual, ours.cells or usual)
    return unequal(pairs)


def unequal(pairs: Differing) -> Differing:
    """The pairs whose two sides are not alike."""
    return {name: (theirs, ours) for name, (theirs, ours) in pairs.items() if theirs != ours}


def told(differing: Differing) -> str:
    """What differs, in words."""
    return "; ".join(f"{k} is {_text(k, a)} there and {_text(k, b)} in the model" for k, (a, b) in differing.items())


def options(differing: Differing) -> str:
    """What makes the model like the source."""
    return "--model-options " + " ".join(f"{name}={_text(name, there)}" for name, (there, _) in differing.items())


def _text(name: str, value: Any) -> str:
    """As --model-options takes it."""
    return ("x" if name == "grid" else ",").join(map(str, value)) if isinstance(value, tuple) else str(value)
