"""Errors that say what was given, what is allowed and what was probably meant."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Unreadable(NamedTuple):
    """An image that could not be used, and why. Every room hands on the same value, so that nobody parses messages."""

    path: Path | str
    """The file, or the name of what is no file."""
    reason: str
    """Without the path, unless it is about another file, such as the image's mask."""

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"

    def to_dict(self) -> dict[str, str]:
        """As JSON has it in every room."""
        return {"path": str(self.path), "reason": self.reason}

    @classmethod
    def of(cls, path: Path | str, error: Exception) -> "Unreadable":
        """What an error says of the image at `path`."""
        is_own = isinstance(error, _ImageError) and str(error.path) == str(path)
        return cls(path, error.reason if is_own else str(error))  # type: ignore[attr-defined]


class _ImageError(ValueError):
    """The message is "path: reason". Both are kept, also where the error is handed from process to process."""

    def __init__(self, path: Path | str, reason: object) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, str(reason)

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class UnreadableImageError(_ImageError):
    """A file that cannot be read as an image, or that is refused before it is decoded. The message names the file."""


class SourceError(_ImageError):
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
