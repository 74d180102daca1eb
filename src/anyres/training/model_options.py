"""Options of a model as text, key=value: what the command line takes, and runs of the first version have on disk."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from typing import Any

from anyres.sizes import parse_size


def parse_options(texts: Iterable[str]) -> dict[str, Any]:
    """Keyword arguments of `create_model` from "grid=7x7", "width=96", ...

    Values are numbers, tuples (0.5,0.5), True, False, None, else strings; grids are (rows, cols). ValueError for one
    that is given twice or not so.
    """
    pairs = [_parse_option(text) for text in texts]
    names = [name for name, _ in pairs]
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise ValueError(f"model option {repeated[0]!r} is given {names.count(repeated[0])} times; allowed: once")
    return dict(pairs)


def _parse_option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"model option {text!r} has no '='; write it as key=value, for example grid=7x7")
    if name == "grid":
        return name, parse_size(value)
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def options_as_text(options: Mapping[str, Any]) -> list[str]:
    """What `parse_options` reads as these options."""
    return [f"{name}={_text(name, value)}" for name, value in options.items()]


def _text(name: str, value: Any) -> str:
    if name == "grid" and not isinstance(value, int):
        return "x".join(map(str, value))
    return str(value).replace(" ", "")
