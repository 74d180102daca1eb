"""Which image stands where in the endless stream that training reads, and what stands in for one that is unreadable."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from anyres.data.workers import Numbered, run_in_order
from anyres.errors import Unreadable, UnreadableImageError
from anyres.seeds import index_at, key

Sample = TypeVar("Sample")

_JITTER = 0x4A495454  # sets the keys of positional jitter apart from all other draws


@dataclass(frozen=True)
class Samples(Generic[Sample]):
    """Images in the order of a permutation per epoch, each entry of the stream a pure function of (seed, entry)."""

    read: Callable[[int], Sample]
    """By index; raises UnreadableImageError."""
    paths: Sequence[Path]
    """One for each index."""
    where: str
    """For messages, such as "in FOLDER"."""
    seed: int
    strict: bool
    """An unreadable image is an error; else the next readable one in the order of the paths takes its place."""
    repeats: int = 1
    """Every image stands so many times in a row; an epoch is as long and so shows the first part of its permutation."""

    def at(self, entry: int) -> tuple[Sample, int, list[Unreadable]]:
        """The image of an entry of the stream, its index, and what had to be passed over to find it."""
        count = len(self.paths)
        first = index_at(self.seed, entry, count, self.repeats)
        skipped: list[Unreadable] = []
        for offset in range(count):
            index = (first + offset) % count
            try:
                return self.read(index), index, skipped
            except UnreadableImageError as error:
                if self.strict:
                    raise
                skipped.append(Unreadable.of(self.paths[index], error))
        raise ValueError(f"none of the {count} images {self.where} can be read; the first: {skipped[0]}")


def jitter_keys(seed: int, step: int, positions: Sequence[int], *more: int) -> Tensor:
    """(B,) int64, from which a model draws the positional jitter of images of a step, each a pure function of its place
    in the batch: so neither the parts that a batch is done in nor who does them changes it."""
    drawn = [key(seed, step, position, _JITTER, *more) for position in positions]
    return torch.tensor(drawn, dtype=torch.int64)


def batches_of_steps(make: Callable[[int], Any], start_step: int, stop_step: int, num_workers: int) -> Iterator:
    """make(step) for the steps start_step ... stop_step - 1, in order, made by so many processes."""
    if not 0 <= start_step <= stop_step:
        raise ValueError(f"steps are {start_step} to {stop_step}; allowed: 0 <= start_step <= stop_step")
    return run_in_order(Numbered(make), range(start_step, stop_step), num_workers)
