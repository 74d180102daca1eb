"""The grid of somebody else's position table: a file of weights holds how many positions it has, and no more.

So many positions can be a square's or an oblong's, with one for the class token among them or without: 49 beside a
class token are a grid of 7x7 whose class token has none (timm's `no_embed_class`), or one of 6x8 and the class token's.
What the file or its folder says of the images decides, then the grid that the model is given, then that grids are
square; what is left open is refused.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from anyres.files import named_in_text
from anyres.layers.merge_plan import Grid
from anyres.sizes import Size


@dataclass(frozen=True)
class TableNotes:
    """What is known of a table beside the number of its positions."""

    sizes: tuple[Size, ...] = ()
    """(height, width) in pixels of the images that it may be for, the surest first."""
    has_class_position: bool | None = None
    """Whether the class token, if there is one, has a position; None if nobody says."""
    like: Grid = (0, 0)
    """The model's grid: that of the table, if it can be and no square can."""
    is_chosen: bool = False
    """Somebody gave the model's grid as that of the table, so that it decides between a square and another."""


def notes_of(record: Mapping[str, Any], like: Grid, *, is_chosen: bool) -> TableNotes:
    """What a configuration of timm or transformers says."""
    arguments, pretrained = (_mapping(record.get(name)) for name in ("model_args", "pretrained_cfg"))
    given = (
        arguments.get("img_size"),
        record.get("image_size"),
        pretrained.get("input_size"),
        record.get("input_size"),
        record.get("img_size"),
    )
    without = arguments.get("no_embed_class")
    return TableNotes(
        sizes=tuple(size for size in map(_size, given) if size is not None),
        has_class_position=None if without is None else not without,
        like=like,
        is_chosen=is_chosen,
    )


def metadata_of(path: Path) -> dict[str, Any]:
    """What a safetensors file says of itself beside its tensors, as a configuration; nothing for other files."""
    try:
        with named_in_text(path) as readable, safe_open(readable, "pt") as file:
            return {name: _value(text) for name, text in (file.metadata() or {}).items()}
    except SafetensorError:
        return {}


def grid_of_table(count: int, prefix: int, patch_size: int, notes: TableNotes, where: Path) -> tuple[Grid, bool]:
    """The grid of a table of `count` positions, and whether the `prefix` class tokens have one among them.

    Raises:
        ValueError: no grid is that large, or several are and nothing decides; with what would decide.
    """
    kinds = {None: (prefix, 0), True: (prefix,), False: (0,)}[notes.has_class_position]
    readings = {bool(of_class): count - of_class for of_class in reversed(kinds) if count > of_class}
    told = [(height // patch_size, width // patch_size) for height, width in notes.sizes]
    for grid in (*told, *([notes.like] if notes.is_chosen and _is_open(readings) else [])):
        for with_class, left in readings.items():
            if grid[0] * grid[1] == left:
                return grid, with_class or not prefix
    if _is_open(readings):
        raise ValueError(_open_text(where, count, notes))
    for with_class, left in sorted(readings.items(), reverse=True):
        side = math.isqrt(left)
        for grid in ((side, side), notes.like):
            if grid[0] * grid[1] == left:
                return grid, with_class or not prefix
    raise ValueError(
        f"{where} has a table of {count - prefix} positions, which is neither a square nor the model's grid of "
        f"{notes.like[0]}x{notes.like[1]}; give its rows and columns as --model-options grid=ROWSxCOLS"
    )


def _is_open(readings: Mapping[bool, int]) -> bool:
    """Whether a table is a square if the class token has no position, and something else if it has one."""
    return len(readings) == 2 and _is_square(readings[False])


def _is_square(number: int) -> bool:
    return math.isqrt(number) ** 2 == number


def _open_text(where: Path, count: int, notes: TableNotes) -> str:
    """49 -> 6x8 or 8x6 and the class token's, or 7x7."""
    side = math.isqrt(count)
    return (
        f"{where} has a table of {count} positions beside a class token: {side}x{side} if that has none, else "
        f"{side - 1}x{side + 1}, {side + 1}x{side - 1} or another of {count - 1}; give its rows and columns as "
        "--model-options grid=ROWSxCOLS without --init-resize, or in a config.json beside the file as timm does: "
        '{"pretrained_cfg": {"input_size": [3, HEIGHT, WIDTH]}} in pixels'
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _size(value: Any) -> Size | None:
    """A side, (height, width) or (channels, height, width) as (height, width); None for anything else."""
    sides = [value, value] if isinstance(value, int) else value
    if not isinstance(sides, list | tuple) or len(sides) not in (2, 3) or not all(isinstance(s, int) for s in sides):
        return None
    return sides[-2], sides[-1]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
