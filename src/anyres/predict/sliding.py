"""Windows that slide over an image: where they lie, and their overlapping outputs as one map, row by row."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from anyres.sizes import Size

Read = Callable[[int, int, int, int], Tensor]
"""(y, x, height, width) in pixels -> that region of the images, (B, C, height, width)."""


def starts(length: int, window: int, step: int) -> list[int]:
    """Where windows begin on an axis: every `step`, until one reaches the end; that one is shifted inside."""
    last = max(length - window, 0)
    return [*range(0, last, step), last]


def usual_step(window: Size) -> Size:
    """From window to window in pixels, if nothing else is asked for: two thirds of it, so that a third overlaps."""
    return max(window[0] * 2 // 3, 1), max(window[1] * 2 // 3, 1)


def waiting_rows(size: Size, window: Size, step: Size) -> int:
    """Most rows of logits that wait at once for windows further down, in `finished_rows`."""
    tops = starts(size[0], window[0], step[0])
    return max((top + min(window[0], size[0]) - below for top, below in zip(tops, tops[1:], strict=False)), default=0)


def finished_rows(
    model: Callable[[Tensor], Tensor],
    read: Read,
    size: Size,
    window: Size,
    step: Size,
    finish: Callable[[Tensor], Tensor],
    *,
    at_once: int = 1,
    seen: Callable[[int], object] = lambda count: None,
) -> Iterator[Tensor]:
    """The map of images of any size, from the top down, of which only what overlaps further windows is held.

    Every pixel's logits are averaged over the windows that see it. The last windows are shifted inside; an image
    smaller than a window is one window.

    Args:
        model: images (B, C, h, w) -> logits (B, K, h, w).
        read: gives a region of the images.
        size: (height, width) of the images.
        step: (rows, cols) from window to window in pixels.
        finish: called with averaged logits (B, K, rows, cols), for instance to keep the largest alone; what it
            returns has rows and cols last.
        at_once: most windows in one call of the model.
        seen: called with the number of windows that have been looked at since the last call.

    Yields:
        What `finish` made of the next rows, over the whole width.
    """
    height, width = min(window[0], size[0]), min(window[1], size[1])
    tops, lefts = starts(size[0], height, step[0]), starts(size[1], width, step[1])
    down, across = _visits(tops, height, size[0]), _visits(lefts, width, size[1])
    waiting: Tensor | None = None  # (B, K, rows, W): sums of rows that the next windows see too
    rows = 0
    for top, below in zip(tops, [*tops[1:], size[0]], strict=True):
        places = [(top, left, height, width) for left in lefts]
        done, ready = [], below - top
        for cols, sums in _finished_cols(_outputs(model, read, places, at_once, seen), lefts, size[1]):
            if waiting is None:
                most = waiting_rows(size, window, step)
                waiting = sums.new_empty(*sums.shape[:2], most, size[1])
            sums[..., :rows, :] += waiting[..., :rows, cols]
            waiting[..., : height - ready, cols] = sums[..., ready:, :]
            visits = (down[top:below, None] * across[cols]).to(sums.device)  # (rows, cols)
            done.append(finish(sums[..., :ready, :] / visits))
        rows = height - ready
        yield torch.cat(done, dim=-1)


def sliding_logits(model: torch.nn.Module, images: Tensor, window: Size, step: Size) -> Tensor:
    """Logits (B, num_classes, H, W) float32 of overlapping windows, each pixel's averaged over the windows that saw it.

    The last windows are shifted inside; an image smaller than a window is one window.
    """

    def read(y: int, x: int, height: int, width: int) -> Tensor:
        return images[..., y : y + height, x : x + width]

    size = (images.shape[-2], images.shape[-1])
    total: Tensor | None = None
    row = 0
    for rows in finished_rows(model, read, size, window, step, lambda logits: logits):
        if total is None:
            total = rows.new_empty(*rows.shape[:2], *size)
        total[:, :, row : row + rows.shape[2]] = rows
        row += rows.shape[2]
    assert total is not None
    return total


def _outputs(
    model: Callable[[Tensor], Tensor],
    read: Read,
    places: Sequence[tuple[int, int, int, int]],
    at_once: int,
    seen: Callable[[int], object],
) -> Iterator[Tensor]:
    """Logits (B, K, h, w) float32 of each window, its own to change."""
    for first in range(0, len(places), at_once):
        regions = [read(*place) for place in places[first : first + at_once]]
        logits = model(torch.cat(regions)).to(torch.float32, copy=True)
        yield from logits.split(len(regions[0]))
        seen(len(regions))


def _finished_cols(found: Iterable[Tensor], lefts: Sequence[int], width: int) -> Iterator[tuple[slice, Tensor]]:
    """Sums (B, K, h, cols) of the windows of one row, and which columns they are, once no further window sees them."""
    open_cols: Tensor | None = None
    for left, right, sums in zip(lefts, [*lefts[1:], width], found, strict=True):
        if open_cols is not None:
            sums[..., : open_cols.shape[-1]] += open_cols
        yield slice(left, right), sums[..., : right - left]
        open_cols = sums[..., right - left :]


def _visits(begins: Sequence[int], window: int, length: int) -> Tensor:
    """How many windows see each pixel of an axis, (length,) float32."""
    counts = torch.zeros(length)
    for begin in begins:
        counts[begin : begin + window] += 1
    return counts
