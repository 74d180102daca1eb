"""Sizes of images in pixels, (height, width), and how they are written."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Size = tuple[int, int]

MOST_ASPECT = 4
"""Longest side, in shortest sides, of a size of an image's own aspect; what is longer still is cropped."""


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


def size_text(size: Sequence[int]) -> str:
    """A size as `parse_size` reads it: (224, 320) is "224x320"; rows and columns of a grid are written likewise."""
    height, width = size
    return f"{height}x{width}"


def _size_message(given: object) -> str:
    return (
        f"cannot read {given!r} as a size; allowed: one positive whole number, such as 224, "
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
    return f"cannot read {given!r} as a range of sizes; allowed: two whole numbers, the smaller first, such as 32-96"


def rounded_up(size: Size, multiple: int) -> Size:
    """The size with each side completed to a multiple of so many pixels."""
    height, width = size
    return -(-height // multiple) * multiple, -(-width // multiple) * multiple


def stretched(size: Size, factor: float) -> Size:
    """The size with its width / height multiplied by `factor` and its area kept, in whole pixels from 1 up."""
    height, width = size
    return max(1, round(height / math.sqrt(factor))), max(1, round(width * math.sqrt(factor)))


def fitted(size: Sequence[int], short: int, long: int) -> Size:
    """The size of an image whose short side becomes `short`, or less where the long side would exceed `long`."""
    height, width = size
    factor = min(short / min(height, width), long / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def whole_patch_size(size: Size, image: Size, patch_size: int) -> Size:
    """(height, width) of whole patches with the area of `size` and about the shape of `image`, both (height, width).

    The short side is rounded to whole patches first and the long side to what then comes nearest to the area, so that
    images of nearly one shape share a size, those that are nearly square a square, and an image on its side has its
    size on its side.
    """
    patches = size[0] * size[1] / patch_size**2
    height, width = image
    ratio = min(max(image) / min(image), MOST_ASPECT)
    square = max(1, round(math.sqrt(patches)))
    short = max(1, round(math.sqrt(patches / ratio)))
    long = square if short == square else min(max(short, round(patches / short)), MOST_ASPECT * short)
    rows, cols = (short, long) if height <= width else (long, short)
    return rows * patch_size, cols * patch_size
