"""Which size a training step has, or which sizes, and the hash from which every random draw of the project starts."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

Size = tuple[int, int]

_MASK = (1 << 64) - 1
_SIZE, _SIDE, _ASPECT = 0x53495A45, 0x53494445, 0x41535043  # set apart what is drawn for different purposes


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
    state = _splitmix(len(parts))
    for part in parts:
        if part < 0:  # folded apart from the positive numbers, of any magnitude
            state = _splitmix(state ^ 0x5851F42D4C957F2D)
            part = -part
        while True:
            state = _splitmix(state ^ (part & _MASK))
            part >>= 64
            if not part:
                break
    return state >> 1


def parse_size(text: str | int | Sequence[int]) -> Size:
    """Read a size: "224" or 224 is (224, 224), "224x320" is (224, 320); always (height, width) in pixels.

    Raises ValueError for anything that is not one or two positive whole numbers.
    """
    given = text
    try:
        if isinstance(text, str):
            numbers = [int(part) for part in text.strip().lower().split("x")]
        elif isinstance(text, bool):
            raise TypeError("a truth value is not a size")
        elif isinstance(text, Sequence):
            numbers = [int(part) for part in text]
        else:
            numbers = [int(text)]
            if numbers[0] != text:
                raise TypeError("not a whole number")
    except (TypeError, ValueError) as error:
        raise ValueError(_size_message(given)) from error
    if len(numbers) not in (1, 2) or min(numbers) < 1:
        raise ValueError(_size_message(given))
    return numbers[0], numbers[-1]


def _size_message(given: object) -> str:
    return (
        f"cannot read {given!r} as a size: allowed are one positive whole number, such as 224, "
        "or height x width in pixels, such as 224x320"
    )


@dataclass(frozen=True)
class SideRange:
    """Squares whose side is any whole number of pixels from `low` to `high`, both included."""

    low: int
    high: int

    def at(self, draw: float) -> Size:
        """The size of a draw from [0, 1): log-uniform, the side k as often as log((k + 1) / k) says."""
        side = int(self.low * ((self.high + 1) / self.low) ** draw)
        side = min(max(side, self.low), self.high)  # rounding can step over either end
        return side, side

    def ends(self) -> tuple[Size, Size]:
        """The smallest and the largest size."""
        return (self.low, self.low), (self.high, self.high)


def parse_entry(text: str | int | Sequence[int]) -> Size | SideRange:
    """Read an entry of a schedule: a size as in `parse_size`, or a range of squares such as "32-96".

    Raises ValueError for anything else, with the nearest range where there is one.
    """
    if not isinstance(text, str) or "-" not in text.strip()[1:]:
        return parse_size(text)
    try:
        low, high = (int(part) for part in text.split("-"))
    except ValueError as error:
        raise ValueError(_range_message(text)) from error
    if low < 1 or low >= high:
        low, high = sorted(max(side, 1) for side in (low, high))
        raise ValueError(f"{_range_message(text)}; nearest: {low if low == high else f'{low}-{high}'}")
    return SideRange(low, high)


def _range_message(given: str) -> str:
    return f"cannot read {given!r} as a range of sizes: allowed are two whole numbers, the smaller first, such as 32-96"


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
            raise ValueError("no sizes given: a schedule needs at least one (height, width), such as (224, 224)")
        self.entries = tuple(size if isinstance(size, SideRange) else parse_size(size) for size in sizes)
        self.seed = seed
        self.weights = tuple(weights) if weights is not None else (1.0,) * len(self.entries)
        if len(self.weights) != len(self.entries):
            raise ValueError(f"{len(self.weights)} weights given for {len(self.entries)} sizes: allowed is one each")
        bad = [weight for weight in self.weights if not 0 <= weight < math.inf]
        if bad or not sum(self.weights):
            raise ValueError(f"weights {self.weights} given: allowed are finite numbers from 0 up, not all of them 0")
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
        return key(self.seed, purpose, step) / 2**63


class EverySize:
    """All sizes in every step, the largest area first: each image is shown at each of them (ResFormer's replicas).

    Args:
        sizes: (height, width) in pixels, at least two different ones.
    """

    def __init__(self, sizes: Sequence[Size]) -> None:
        if len(set(sizes)) < 2 or len(set(sizes)) < len(sizes):
            raise ValueError(f"sizes {tuple(sizes)} given: replicas need at least two sizes, each given once")
        self.sizes = tuple(sorted(map(parse_size, sizes), key=lambda size: (size[0] * size[1], size), reverse=True))

    def size_at(self, step: int) -> Size:
        """The largest size, whatever the step."""
        return self.sizes[0]

    def sizes_at(self, step: int) -> tuple[Size, ...]:
        return self.sizes

    def largest_side(self) -> int:
        return max(map(max, self.sizes))


def stretched(size: Size, factor: float) -> Size:
    """The size with its width / height multiplied by `factor` and its area kept, in whole pixels from 1 up."""
    height, width = size
    return max(1, round(height / math.sqrt(factor))), max(1, round(width * math.sqrt(factor)))


def _checked_aspect(aspect: tuple[float, float]) -> tuple[float, float]:
    low, high = aspect
    if 0 < low <= high < math.inf:
        return low, high
    nearest = f"; nearest: {high} {low}" if 0 < high < low < math.inf else ""
    raise ValueError(f"aspect is {low} {high}; allowed: two numbers above 0, the smaller first, such as 0.5 2{nearest}")
