"""Which size a training step has, or which sizes."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

from anyres.seeds import key
from anyres.sizes import SideRange, Size, parse_size, stretched

_SIZE, _SIDE, _ASPECT = 0x53495A45, 0x53494445, 0x41535043  # set apart what is drawn for different purposes


class Schedule(Protocol):
    """Which sizes each training step has."""

    def sizes_at(self, step: int) -> tuple[Size, ...]:
        """All the sizes of a step, the largest area first; every image of the step is shown at each of them."""
        ...

    def largest_side(self) -> int:
        """The longest side in pixels that any step can have."""
        ...


class ResolutionSchedule:
    """One size per training step, drawn independently for every step: `size_at` is a pure function of (seed, step).

    Args:
        sizes: (height, width) in pixels, or ranges of squares; at least one.
        seed: any integer.
        weights: how often each entry is drawn, relative to the others; uniform by default.
        aspect: every step's width / height is multiplied by a factor drawn log-uniformly from this interval; the
            area stays what it was, up to rounding, and no side falls below 1.
    """

    def __init__(
        self,
        sizes: Sequence[Size | SideRange],
        seed: int,
        weights: Sequence[float] | None = None,
        aspect: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        if not sizes:
            raise ValueError("sizes is empty; allowed: one (height, width) or more, such as (224, 224)")
        self.entries = tuple(size if isinstance(size, SideRange) else parse_size(size) for size in sizes)
        self.seed = seed
        self.weights = tuple(weights) if weights is not None else (1.0,) * len(self.entries)
        if len(self.weights) != len(self.entries):
            raise ValueError(
                f"weights has {len(self.weights)} entries for {len(self.entries)} sizes; allowed: one each"
            )
        bad = [weight for weight in self.weights if not 0 <= weight < math.inf]
        if bad or not sum(self.weights):
            raise ValueError(f"weights is {self.weights}; allowed: finite numbers from 0 up, not all of them 0")
        self.aspect = _checked_aspect(aspect)
        self._ends = list(accumulate(self.weights))

    def size_at(self, step: int) -> Size:
        """The (height, width) of a step."""
        draw = self._draw(_SIZE, step) * self._ends[-1]
        # rounding can bring the draw up to the very end; a size of weight 0 there must still not be chosen
        index = bisect_right(self._ends, draw)
        if index >= len(self._ends):
            index = max(i for i, weight in enumerate(self.weights) if weight)
        entry = self.entries[index]
        size = entry.at(self._draw(_SIDE, step)) if isinstance(entry, SideRange) else entry
        low, high = self.aspect
        return size if low == high == 1 else stretched(size, low * (high / low) ** self._draw(_ASPECT, step))

    def sizes_at(self, step: int) -> tuple[Size, ...]:
        return (self.size_at(step),)

    def largest_side(self) -> int:
        drawn = [entry for entry, weight in zip(self.entries, self.weights, strict=True) if weight]
        largest = [(entry.high, entry.high) if isinstance(entry, SideRange) else entry for entry in drawn]
        return max(side for size in largest for factor in self.aspect for side in stretched(size, factor))

    def _draw(self, purpose: int, step: int) -> float:
        """Uniform in [0, 1]; the upper end by rounding only."""
        # keys have 63 bits
        return key(self.seed, purpose, step) / 2**63


class EverySize:
    """All sizes in every step, the largest area first: each image is shown at each of them (ResFormer's replicas).

    Args:
        sizes: (height, width) in pixels, at least two different ones.
    """

    def __init__(self, sizes: Sequence[Size]) -> None:
        if len(set(sizes)) < 2 or len(set(sizes)) < len(sizes):
            raise ValueError(f"sizes is {tuple(sizes)}; allowed with replicas: at least two sizes, each once")
        self.sizes = tuple(sorted(map(parse_size, sizes), key=lambda size: (size[0] * size[1], size), reverse=True))

    def size_at(self, step: int) -> Size:
        """The largest size, whatever the step."""
        return self.sizes[0]

    def sizes_at(self, step: int) -> tuple[Size, ...]:
        return self.sizes

    def largest_side(self) -> int:
        return max(map(max, self.sizes))


def _checked_aspect(aspect: tuple[float, float]) -> tuple[float, float]:
    low, high = aspect
    if 0 < low <= high < math.inf:
        return low, high
    nearest = f"; nearest: {high} {low}" if 0 < high < low < math.inf else ""
    raise ValueError(f"aspect is {low} {high}; allowed: two numbers above 0, the smaller first, such as 0.5 2{nearest}")
