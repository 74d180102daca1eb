"""Which size a training step has, and the hash from which every random draw of the project starts."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

Size = tuple[int, int]

_MASK = (1 << 64) - 1


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


class ResolutionSchedule:
    """One size per training step, drawn independently for every step: `size_at` is a pure function of (seed, step).

    Args:
        sizes: (height, width) in pixels, at least one.
        seed: any integer.
        weights: how often each size is drawn, relative to the others; uniform by default.
    """

    def __init__(self, sizes: Sequence[Size], seed: int, weights: Sequence[float] | None = None) -> None:
        if not sizes:
            raise ValueError("no sizes given: a schedule needs at least one (height, width), such as (224, 224)")
        self.sizes: tuple[Size, ...] = tuple(parse_size(size) for size in sizes)
        self.seed = seed
        self.weights = tuple(weights) if weights is not None else (1.0,) * len(self.sizes)
        if len(self.weights) != len(self.sizes):
            raise ValueError(f"{len(self.weights)} weights given for {len(self.sizes)} sizes: allowed is one per size")
        bad = [weight for weight in self.weights if not 0 <= weight < float("inf")]
        if bad or not sum(self.weights):
            raise ValueError(f"weights {self.weights} given: allowed are finite numbers from 0 up, not all of them 0")
        self._ends = list(accumulate(self.weights))

    def size_at(self, step: int) -> Size:
        """The (height, width) of a step."""
        draw = key(self.seed, 0x53495A45, step) / 2**63 * self._ends[-1]
        # rounding can bring the draw up to the very end; a size of weight 0 there must still not be chosen
        index = bisect_right(self._ends, draw)
        if index >= len(self._ends):
            index = max(i for i, weight in enumerate(self.weights) if weight)
        return self.sizes[index]
