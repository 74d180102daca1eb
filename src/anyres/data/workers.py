"""What loaders are made of: seeded draws, reading by index, worker processes that change neither order nor errors."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from anyres.data.decode import read_image


@dataclass(frozen=True)
class ImageReader:
    """Images by index."""

    paths: Sequence[Path]
    max_pixels: int
    channels: int

    def __call__(self, index: int) -> Image.Image:
        return read_image(self.paths[index], max_pixels=self.max_pixels, channels=self.channels)


# What torch says in this process of one that has ended, from wherever a signal finds it.
_LOST = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (is killed by signal: [^.]+|exited unexpectedly)(.*)", re.S
)


class Numbered(Dataset):
    """Whole batches by number; errors travel as values, since a loader process would rewrite their message."""

    def __init__(self, make: Callable) -> None:
        self.make = make

    def __getitem__(self, number: int) -> object:
        try:
            return self.make(number)
        except (ValueError, OSError, MemoryError) as error:
            return error


def _itself(item: object) -> object:
    return item


def _leave_the_group(worker: int) -> None:
    """What is sent to a whole process group (Ctrl-C, torchrun's SIGTERM) is for who trains, and still needs batches."""
    if os.name == "posix":
        os.setpgrp()


def run_in_order(items: Numbered, numbers: range, num_workers: int) -> Iterator:
    """Batches in order. The loader's own draw comes from a generator of its own, so that training's is untouched."""
    loader: DataLoader = DataLoader(
        items, batch_size=None, sampler=numbers, num_workers=num_workers, collate_fn=_itself,
        generator=torch.Generator(), worker_init_fn=_leave_the_group,
    )  # fmt: skip
    with naming_lost_workers():
        for item in loader:
            if isinstance(item, Exception):
                raise item
            yield item


def lost_worker(error: BaseException) -> str | None:
    """What there is to say if an error is of a process that loads images and was killed; None for any other."""
    if not isinstance(error, RuntimeError):
        return None
    # how it ended is known to the error that the signal raised, if that met torch while it waited for a batch
    found = _LOST.match(str(error.__cause__)) or _LOST.match(str(error))
    if found is None:
        return None
    pid, end, rest = found.groups()
    how = end.replace("is killed", "was killed").replace("exited unexpectedly", "ended by itself")
    why = ": /dev/shm is full" if "shared memory" in rest else ", perhaps for want of memory"
    return f"a process that loads images (pid {pid}) {how}{why}; fewer num_workers need less"


@contextmanager
def naming_lost_workers() -> Iterator[None]:
    """ChildProcessError for what torch says of a process that loads images and was killed."""
    try:
        yield
    except RuntimeError as error:
        said = lost_worker(error)
        if said is None:
            raise
        raise ChildProcessError(said) from error


def check_counts(batch_size: int, num_workers: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; allowed: 1 and more")
    if num_workers < 0:
        raise ValueError(f"num_workers is {num_workers}; allowed: 0 and more, 0 for none")
