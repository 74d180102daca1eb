"""What checks of configurations share: ranges of numbers, and settings without effect.

Every message says what was given, what is allowed and what is nearest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from anyres.settings import default_of

Range = tuple[float, float, str]
"""Lowest and highest, and in brackets whether they are allowed themselves: (0.0, 1.0, "[)")."""
ABOVE_ZERO: Range = (0.0, math.inf, "()")
FROM_ZERO: Range = (0.0, math.inf, "[)")
PROBABILITY: Range = (0.0, 1.0, "[]")


def check_integers(config: Any, lowest: Mapping[str, int]) -> None:
    """ValueError for the first of these fields that is no whole number, or too low. None is fine where it is usual."""
    for name, least in lowest.items():
        given = getattr(config, name)
        if _is_left_out(config, name):
            continue
        # To Python True is the number 1; to whoever gives it for a count it is a slip.
        if isinstance(given, bool) or not isinstance(given, int) or given < least:
            raise ValueError(f"{name} is {given!r}; allowed: whole numbers from {least} up; nearest: {least}")


def check_numbers(config: Any, ranges: Mapping[str, Range]) -> None:
    """ValueError for the first of these fields, or of their elements, out of its range. None is fine where it is usual.

    nan is in no range.
    """
    for name, allowed in ranges.items():
        given = getattr(config, name)
        if not _is_left_out(config, name):
            for each in given if isinstance(given, tuple) else (given,):
                _check_number(config, name, each, *allowed)


def check_idle(config: Any, idle: Mapping[str, str | None]) -> None:
    """ValueError for a setting that differs from its default although another leaves it without effect."""
    for name, reason in idle.items():
        given, default = getattr(config, name), default_of(name, type(config))
        if reason is not None and given != default:
            raise ValueError(f"{name} is {given} but has no effect, because {reason}; leave it at {default}")


def refuse_validation(config: Any, names: Iterable[str], missing: str) -> None:
    """ValueError for a setting of the validation where there is nothing to validate with: what is missing, and how to
    add it."""
    for name in names:
        given, default = getattr(config, name), default_of(name, type(config))
        if given != default:
            raise ValueError(f"{name} is {given}, but {missing}, or leave {name} at {default}")


def _is_left_out(config: Any, name: str) -> bool:
    return getattr(config, name) is None and default_of(name, type(config)) is None


def _check_number(config: Any, name: str, given: Any, low: float, high: float, ends: str) -> None:
    inside = isinstance(given, int | float) and low <= given <= high
    inside = inside and (ends[0] == "[" or given > low) and (ends[1] == "]" or given < high)
    if not inside:
        above = f"{'from' if ends[0] == '[' else 'above'} {low:g}"
        default = default_of(name, type(config))
        below = "" if high == math.inf else f" {'up to' if ends[1] == ']' else 'to below'} {high:g}"
        raise ValueError(f"{name} is {given!r}; allowed: {above}{below}; the default is {default}")
