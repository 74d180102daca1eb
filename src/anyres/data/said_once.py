"""Warnings about files that are given once, with the first file, and not for each of a million."""

import warnings
from pathlib import Path

MORE_PAGES = "more pages"
"""The kind of the warning of `say_more_pages`."""

_said: set[str] = set()


def was_said(kind: str) -> bool:
    """Whether this process has given a warning of this kind."""
    return kind in _said


def say_once(kind: str, text: str) -> None:
    """Warn, unless a warning of this kind was given before by this process."""
    if kind not in _said:
        _said.add(kind)
        warnings.warn(text, stacklevel=2)


def say_more_pages(name: Path | str) -> None:
    say_once(
        MORE_PAGES, f"{name}: of several pages or frames only the first is taken. Further files like it are not named"
    )


def say_more_channels(name: Path | str) -> None:
    say_once(
        "more channels",
        f"{name}: of several channels only red, green and blue are taken. Further files like it are not named",
    )
