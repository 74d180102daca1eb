"""Errors that no command is to blame for, in one sentence: bad input, and conditions of the machine."""

from __future__ import annotations


def told(error: Exception) -> str | None:
    """What the command line says of an error, None for one that is a mistake in the program."""
    if isinstance(error, ValueError | FloatingPointError | ImportError):
        return str(error)
    if isinstance(error, OSError):
        return _of_system(error)
    # These import torch, which is there once something can run out of memory or be loaded by processes.
    from anyres.costs.memory import is_out_of_memory, what_found_no_room
    from anyres.data.workers import lost_worker

    if is_out_of_memory(error):
        return what_found_no_room(error)
    return lost_worker(error)


def _of_system(error: OSError) -> str:
    """Path first, as all messages have it, and without the number."""
    path = error.filename2 or error.filename
    return str(error) if path is None or error.strerror is None else f"{path}: {error.strerror}"
