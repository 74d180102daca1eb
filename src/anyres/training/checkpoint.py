"""Checkpoints that are either whole or absent, and that are read without unpickling anything but tensors."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from anyres.files import LFS_POINTER, is_lfs_pointer, write_atomically

FORMAT = 2
FIRST_FORMAT = 1  # before the trunk was a module of its own; names and order of parameters were others
NAME = "checkpoint.pt"

_REMEDY = "delete it to start the run again from step 0, or put a backup in its place"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes tensors, numbers, strings, lists and dictionaries; `torch.load(path, weights_only=True)` reads them."""
    write_atomically(path, lambda file: torch.save({"format": FORMAT, **state}, file))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What `save_checkpoint` wrote, in this or an earlier version, on the CPU.

    ValueError for a damaged file or a format that no version has written so far.
    """
    try:
        # torch does not compare checksums when it reads; the standard library's zip reader does.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        if is_lfs_pointer(path):
            raise ValueError(f"{path} {LFS_POINTER}") from error
        raise ValueError(f"{path} is damaged or no checkpoint ({error}); {_REMEDY}") from error
    given = state.get("format") if isinstance(state, dict) else type(state).__name__
    if given not in (FIRST_FORMAT, FORMAT):
        raise ValueError(f"{path} has checkpoint format {given!r}; allowed: {FORMAT}; {_REMEDY}")
    return state


def refuse_earlier_format(path: Path, state: dict[str, Any]) -> None:
    """ValueError for a checkpoint whose tensors this version cannot go on with."""
    if state["format"] != FORMAT:
        raise ValueError(
            f"{path} has checkpoint format {state['format']}; allowed: {FORMAT}; {_REMEDY}, "
            "or finish the run with the version of anyres that began it"
        )


def refuse_other_run(where: Path, changed: Sequence[str]) -> None:
    """ValueError naming the settings in which the run at `where` differs from the one asked for, if there are any."""
    if changed:
        raise ValueError(
            f"{where} belongs to a run with other settings ({'; '.join(changed)}). "
            "Give the settings it was started with to go on with it, or another output folder for a new run"
        )
