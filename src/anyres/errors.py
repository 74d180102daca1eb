"""Errors that say what was given, what is allowed and what was probably meant."""

import difflib
from collections.abc import Iterable


class UnreadableImageError(ValueError):
    """A file that cannot be read as an image, or that is refused before it is decoded. The message names the file."""


class SourceError(ValueError):
    """A part of an image that cannot be read, or is not what it was said to be. The message names source and region."""


class OtherWorkError(ValueError):
    """Unfinished work on disk that is not the work to be done. The message names the file and what differs."""


def unknown(kind: str, given: object, allowed: Iterable[object]) -> ValueError:
    """The error to raise for a name that is not among the allowed ones, with the nearest of them suggested."""
    names = [str(name) for name in allowed]
    nearest = difflib.get_close_matches(str(given), names, n=2, cutoff=0.4)
    hint = f" Did you mean {' or '.join(repr(name) for name in nearest)}?" if nearest else ""
    return ValueError(f"unknown {kind} {given!r}.{hint} Allowed: {', '.join(names)}.")


def check_choice(kind: str, given: object, allowed: Iterable[object]) -> None:
    """Raises the error of `unknown` unless `given` is one of the allowed values."""
    allowed = tuple(allowed)
    if given not in allowed:
        raise unknown(kind, given, allowed)
