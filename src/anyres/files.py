"""Files that are either whole or as they were before."""

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO


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


def write_json(path: Path, content: Any) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def read_json(path: Path, keys: tuple[str, ...], remedy: str) -> dict[str, Any]:
    """A file that a sweep wrote; ValueError with the remedy if it is something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of JSON or of the encoding
        raise ValueError(f"{path} was not written by a sweep ({error}); {remedy}") from error
    missing = [key for key in keys if not isinstance(found, dict) or key not in found]
    if missing:
        raise ValueError(f"{path} was not written by a sweep ({', '.join(missing)} missing); {remedy}")
    assert isinstance(found, dict)
    return found
