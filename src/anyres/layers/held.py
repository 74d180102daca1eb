"""What is held between the stages of an image that is merged piece by piece: what has arrived and is still needed."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from anyres.layers.merge_plan import Grid
from anyres.layers.region import Region
from anyres.layers.stages import Piece, Stage


class Merged(NamedTuple):
    """Tokens of a rectangle of a grid, and what goes with them from stage to stage."""

    tokens: Tensor
    """(B, rows, cols, D)."""
    counts: Tensor | None = None
    """(rows, cols) int64, how many patches that were not skipped stand behind each token, if any may be skipped."""
    image: Tensor | None = None
    """(B, C, rows * p, cols * p), the image averaged down to the grid, if bases are made of it; of a piece it reaches
    further than the tokens."""

    def cut(self, region: Region, outer: Region, start: Grid = (0, 0)) -> "Merged":
        """The tokens of a region and the image of one around it, where the first token is that of `start`."""
        rows, cols = _stretch(region.rows, start[0]), _stretch(region.cols, start[1])
        counts, image = self.counts, self.image
        if image is not None:
            patch = image.shape[2] // self.tokens.shape[1]
            image = image[:, :, _stretch(outer.rows, start[0], patch), _stretch(outer.cols, start[1], patch)]
        return Merged(self.tokens[:, rows, cols], None if counts is None else counts[rows, cols], image)

    def below(self, rows: int) -> "Merged":
        """A copy without the first so many rows, so that their memory is free."""
        counts, image = self.counts, self.image
        if image is not None:
            image = image[:, :, rows * (image.shape[2] // self.tokens.shape[1]) :].clone()
        return Merged(self.tokens[:, rows:].clone(), None if counts is None else counts[rows:].clone(), image)


def _stretch(places: slice, start: int, scale: int = 1) -> slice:
    return slice((places.start - start) * scale, (places.stop - start) * scale)


def together(parts: Sequence[Merged], dim: int) -> Merged:
    """Neighbours put together along rows (0) or columns (1)."""
    if len(parts) == 1:
        return parts[0]
    counts = [part.counts for part in parts if part.counts is not None]
    images = [part.image for part in parts if part.image is not None]
    return Merged(
        torch.cat([part.tokens for part in parts], dim + 1),
        torch.cat(counts, dim) if counts else None,
        torch.cat(images, dim + 2) if images else None,
    )


class Queue:
    """Rows of a stage's input that have arrived and are still needed, and its unfinished band of pieces.

    Args:
        stage: any but the first.
        outer: the rectangle of the stage's input that a piece needs, at least its region.
    """

    def __init__(self, stage: Stage, outer: Callable[[Piece], Region]) -> None:
        self.stage, self.outer = stage, outer
        self.next = 0  # band
        self.rows: list[Merged] = []
        self.band: list[Merged] = []

    def push(self, arrived: Merged) -> Iterator[tuple[Piece, Merged]]:
        """Takes whole rows and gives every piece that they complete, with what it needs of them."""
        self.rows.append(arrived)
        number = sum(part.tokens.shape[1] for part in self.rows)
        while self.next < len(self.stage.bands):
            band = self.stage.bands[self.next]
            needed = self.outer(band[0]).rows
            if needed.start + number < needed.stop:
                return
            held = together(self.rows, 0)
            for piece in band:
                yield piece, held.cut(piece.region, self.outer(piece), (needed.start, 0))
            self.next += 1
            self.rows.clear()
            if self.next == len(self.stage.bands):
                return
            done = self.outer(self.stage.bands[self.next][0]).rows.start - needed.start
            if done < number:
                self.rows.append(held.below(done))
            number -= done
