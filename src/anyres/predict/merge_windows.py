"""Objects that several windows of an image see: which window sees one best."""

from collections.abc import Sequence

import torch
from torch import Tensor

from anyres.sizes import Size


def is_cut(boxes: Tensor, place: tuple[int, int], begins: tuple[Sequence[int], Sequence[int]], window: Size) -> Tensor:
    """Which objects of a window a neighbouring window sees better.

    These are the boxes that touch a border within the image and lie, up to that border, all inside of the neighbour
    beyond it: it sees what this window sees of the object, and what is cut off too. An object no larger than the
    overlap is thus left to a window that sees all of it. A box that reaches beyond the neighbour's own border is kept,
    since the neighbour cuts the object too. To touch is to come within 1/64 of the window, and at least 2 pixels.

    Args:
        boxes: (N, 4), x0, y0, x1, y1 in pixels of the whole image.
        place: (row, col) of the window among the others.
        begins: where the windows of the image begin, down and across.
        window: (height, width) of the windows.

    Returns:
        (N,) bool.
    """
    down = _is_cut_along(boxes[:, 1], boxes[:, 3], place[0], begins[0], window[0])
    return down | _is_cut_along(boxes[:, 0], boxes[:, 2], place[1], begins[1], window[1])


def _is_cut_along(low: Tensor, high: Tensor, place: int, begins: Sequence[int], window: int) -> Tensor:
    near = max(window / 64, 2)
    cut = torch.zeros_like(low, dtype=torch.bool)
    if place + 1 < len(begins):
        cut |= (high > begins[place] + window - near) & (low > begins[place + 1] + near)
    if place > 0:
        cut |= (low < begins[place] + near) & (high < begins[place - 1] + window - near)
    return cut
