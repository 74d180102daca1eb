"""The hash from which every random draw of the project starts, and what draws from it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

_MASK = (1 << 64) - 1
_PERMUTATION = 0x5045524D  # sets the orders of epochs apart from all other draws


def _splitmix(value: int) -> int:
    """One step of splitmix64 (Steele, Lea and Flood 2014), public-domain constants."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def key(*parts: int) -> int:
    """A stable 63-bit hash of integers: equal on every machine, Python version and process.

    The order and the number of the parts matter. 63 bits, so that the result is a valid int64 and a valid seed
    of `random`, `numpy.random.SeedSequence` and `torch.manual_seed`.
    """
    # so that () and (0,) differ
    state = _splitmix(len(parts))
    for part in parts:
        if part < 0:  # folded apart from the positive numbers, of any magnitude
            state = _splitmix(state ^ 0x5851F42D4C957F2D)
            part = -part
        # integers of any size, 64 bits at a time
        while True:
            state = _splitmix(state ^ (part & _MASK))
            part >>= 64
            if not part:
                break
    return state >> 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the generators of random, numpy and torch (CPU), and put their states back at the end."""
    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would seed accelerators too
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def index_at(seed: int, entry: int, count: int, repeats: int = 1) -> int:
    """Which of `count` samples stands at an entry of the endless stream that training reads: an order for each epoch.

    With `repeats` each stands so many times in a row; an epoch is as long and so shows the first part of its order.
    """
    epoch, place = divmod(entry, count)
    return permutation(seed, epoch, count)[place // repeats]


@lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, count: int) -> list[int]:
    """The order of `count` images in an epoch."""
    import torch

    generator = torch.Generator().manual_seed(key(seed, _PERMUTATION, epoch))
    return torch.randperm(count, generator=generator).tolist()
