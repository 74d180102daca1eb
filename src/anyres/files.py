"""Files that are either whole or as they were before."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from PIL.Image import Image


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Calls write(file) on a temporary neighbour and puts it in place of `path` in one step.

    Whenever the machine stops, `path` holds the old content or the new one, never a part: the content is on disk
    before the name changes, and the changed name is on disk before this returns. Processes that write the same path
    at once do not meet: the last to finish wins. Nothing is left behind if `write` fails; a process that is killed
    while writing leaves a hidden file `.NAME.*.tmp`, which may be deleted.
    """
    # Not tempfile: its files are for their owner alone, and these are to have the usual permissions.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if hasattr(os, "O_DIRECTORY"):  # Windows cannot open a folder, and needs no sync of it
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_bytes(path: Path, content: bytes) -> None:
    """Content that is in memory already, atomically."""
    write_atomically(path, lambda file: file.write(content))


def write_picture(path: Path, picture: Image) -> None:
    """A PNG, atomically; its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: picture.save(file, format="PNG"))


def write_json(path: Path, content: Any, *, indent: int | None = 1) -> None:
    """Plain JSON in UTF-8, atomically; None for `indent` puts all of it on one line."""
    text = json.dumps(content, indent=indent, ensure_ascii=False) + "\n"
    # Names of files that are no text come from the system with surrogates, which UTF-8 does not have. What a
    # backslash replaces them with is JSON's own way to write them, so that they are read back as they were.
    write_bytes(path, text.encode(errors="backslashreplace"))


def read_json(path: Path, what: str, *, keys: Sequence[str] = (), remedy: str) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        what: the file should be, such as "the settings of a run".
        keys: that it must have.
        remedy: what to do if it is something else.

    Raises:
        ValueError: the file is no JSON object, or lacks a key; names the file, the reason and the remedy.
        OSError: it cannot be read at all.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of JSON or of the encoding
        raise ValueError(f"{path} is not {what} ({error}); {remedy}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not {what} (it holds no JSON object); {remedy}")
    missing = [key for key in keys if key not in found]
    if missing:
        raise ValueError(f"{path} is not {what} ({', '.join(missing)} missing); {remedy}")
    return found
