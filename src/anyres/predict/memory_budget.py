"""How much memory a prediction may take, and the largest windows, and most of them at a time, that stay within it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from PIL import ExifTags, Image

from anyres.amounts import show_bytes
from anyres.costs.memory import peak_tensor_bytes
from anyres.sizes import Size, size_text

_AROUND = 2**26  # bytes beside tensors: what libraries allocate once, and what lies between tensors
_SCRATCH = 1.75  # times the tensors, since kernels need room of their own
_PARTS = (1, 3 / 4, 1 / 2, 3 / 8, 1 / 4, 1 / 8)  # of the usual window that are tried

MOST_AT_ONCE = 16


def decoding_bytes(path: Path, pixels: int) -> int:
    """Bytes at the peak of decoding a file as a whole with Pillow and handing it over as an array: measured."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
            has_alpha = image.has_transparency_data
    except Exception:  # damaged: it is named when it is read
        turned = has_alpha = True
    return (12 + 4 * turned + 8 * has_alpha) * pixels + _AROUND


class Needs(Protocol):
    """What a model is predicted to need in bytes at the peak, beside itself."""

    def whole(self, size: Size) -> int:
        """To read an image of (height, width) and look at all of it at once."""

    def windows(self, size: Size, window: Size, at_once: int) -> int:
        """To look at an image by windows, so many in one call of the model."""

    def usual_window(self) -> Size:
        """Windows that the model works best with."""

    def smaller_window(self, part: float) -> Size:
        """About that part of it on each side."""


def with_reserve(count: float) -> int:
    """Bytes of a process for bytes of tensors."""
    return int(_SCRATCH * count) + _AROUND


def peak_on_meta(function: Callable[[torch.Tensor], object], shape: Sequence[int]) -> int:
    """Bytes of tensors at the peak of function(images), images included, counted without computing anything.

    Args:
        function: works on the meta device.
        shape: of the images.
    """
    with torch.inference_mode():
        return peak_tensor_bytes(lambda: function(torch.empty(*shape, device="meta")))


def fitting_windows(
    needs: Needs, size: Size, window: Size | None, at_once: int, budget: int, *, held: int, decoding: int = 0
) -> tuple[Size, int]:
    """(height, width) of windows and how many at a time, at most `at_once`, so that an image stays within a budget.

    Args:
        needs: of the model.
        size: (height, width) of the image.
        window: None looks for the largest.
        held: bytes of the image itself that are in memory all the while.
        decoding: bytes that it takes before that.

    Raises:
        ValueError: if nothing fits, with the least budget that does.
    """
    tried = [window] if window else list(dict.fromkeys(needs.smaller_window(part) for part in _PARTS))

    def most(each: Size, count: int) -> int:
        return max(decoding, held + needs.windows(size, each, count))

    for each in tried:
        if most(each, 1) <= budget:
            count = 1
            while count < at_once and most(each, count + 1) <= budget:
                count += 1
            return each, count
    least = min(most(each, 1) for each in tried)
    raise ValueError(
        f"memory_budget is {show_bytes(budget)}, but an image of {size_text(size)} pixels by windows of "
        f"{size_text(tried[-1])} pixels needs {show_bytes(least)}; allowed: at least that"
    )
