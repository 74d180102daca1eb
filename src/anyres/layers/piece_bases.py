"""The bases of single pieces (`pyramid_merger`): which rectangle of the image they need, and the bases themselves.

A piece of a stage gets a rectangle of the image at the stage's input grid. It is averaged down from level to level as
the whole image is, but only as far as the cells of the piece need it: their own patches at every level, what stem and
positions see around these, and, where the ratio of two levels is no whole number, up to half a patch over the border.
"""

from typing import Any

import torch
from torch import Tensor

from anyres.layers.averaged import AxisResize
from anyres.layers.merge_plan import Grid, Level, MergePlan
from anyres.layers.pyramid_merger import level_keys
from anyres.layers.region import Region
from anyres.layers.stages import Piece, Stage, level_cells


class PatchTokens:
    """Patch tokens with positions of a region of a grid.

    Args:
        stem, position: the first parts of a model.
    """

    def __init__(self, stem: Any, position: Any) -> None:
        self.stem, self.position = stem, position
        self.halo = stem.halo + position.halo, position.halo  # before and behind: stems look up and to the left only

    def make(self, region: Region, image: Tensor, start: Grid, keys: Tensor | None) -> Tensor:
        """Tokens (B, rows, cols, D) of a region.

        Args:
            region: of the image's grid.
            image: (B, C, h, w), a rectangle of whole patches around those that the region depends on.
            start: the rectangle's first pixel.
            keys: (B,) int64 jitter keys, in training.
        """
        outer, patch = region.grown(*self.halo), self.stem.patch_size
        y, x = (first * patch - pixel for first, pixel in zip(outer.start, start, strict=True))
        pixels = image[..., y : y + outer.size[0] * patch, x : x + outer.size[1] * patch]
        return region.cut_from(self.position(self.stem(pixels), keys, outer), outer)


class PieceBases:
    """The bases of the cells of one piece after the other.

    Args:
        tokens: what makes tokens of an image.
        plan: how the image is merged.
        keys: (B,) int64 jitter keys of the images, in training.
    """

    def __init__(self, tokens: PatchTokens, plan: MergePlan, keys: Tensor | None) -> None:
        self.tokens, self.plan, self.keys = tokens, plan, keys
        self.patch = tokens.stem.patch_size

    def outer(self, first: int, last: int, axis: int, cells: range) -> range:
        """The patches along an axis that the image of a piece must have, at the input grid of levels `first` to
        `last` - 1, of which the piece gives these cells."""
        needed = self._needed(first, last, axis, cells)[0]
        return range(needed.start // self.patch, -(-needed.stop // self.patch))

    def make(
        self, stage: Stage, piece: Piece, tokens: Tensor, image: Tensor, outer: Region, dtype: torch.dtype
    ) -> tuple[list[Tensor], Tensor]:
        """The bases of a piece.

        Args:
            stage, piece: which.
            tokens: (B, rows, cols, D), its patch tokens; of the first stage they are needed.
            image: (B, C, h, w), the image of its outer region.
            outer: that region.
            dtype: of the model's images.

        Returns:
            (B, R, C, D) for each level of the stage, and the image (B, C, R * p, C * p) of the last one's cells.
        """
        cells = [level_cells(self.plan, stage.first, stage.last, axis, piece.cells[axis]) for axis in (0, 1)]
        needed = [self._needed(stage.first, stage.last, axis, piece.cells[axis]) for axis in (0, 1)]
        start = outer.start[0] * self.patch, outer.start[1] * self.patch
        bases: list[Tensor] = []
        for step, index in enumerate(range(stage.first, stage.last)):
            level = self.plan.levels[index]
            if level.is_identity:
                bases.append(bases[-1] if bases else tokens)
                continue
            image = image.to(torch.promote_types(image.dtype, torch.float32))
            for axis in (0, 1):
                after, resize = needed[axis][step + 1], self._resize(level, axis)
                first, stop = resize.reach(after.start, after.stop)
                image = image.narrow(axis + 2, first - start[axis], stop - first)
                image = resize.apply(image, axis + 2, after.start, after.stop)
            start = needed[0][step + 1].start, needed[1][step + 1].start
            region = Region.of(cells[0][step], cells[1][step], level.output_grid)
            reductions = sum(not each.is_identity for each in self.plan.levels[: index + 1])
            bases.append(self.tokens.make(region, image.to(dtype), start, level_keys(self.keys, reductions)))
        down, across = (
            slice(own.start * self.patch - first, own.stop * self.patch - first)
            for own, first in zip(piece.cells, start, strict=True)
        )
        return bases, image[:, :, down, across]

    def _needed(self, first: int, last: int, axis: int, cells: range) -> list[range]:
        """The pixels along an axis of the image at the input grid of these levels, and at the grid of each of them."""
        levels = self.plan.levels[first:last]
        needed: list[range] = []
        source = range(0, 0)  # what the level after needs, of which there is none yet
        for level, own in zip(
            reversed(levels), reversed(level_cells(self.plan, first, last, axis, cells)), strict=True
        ):
            before, behind = self.tokens.halo
            seen = range(max(own.start - before, 0), min(own.stop + behind, level.output_grid[axis]))
            needed.append(_around(source, range(seen.start * self.patch, seen.stop * self.patch)))
            source = range(*self._resize(level, axis).reach(needed[-1].start, needed[-1].stop))
        return [source, *reversed(needed)]

    def _resize(self, level: Level, axis: int) -> AxisResize:
        return AxisResize(level.input_grid[axis] * self.patch, level.output_grid[axis] * self.patch)


def _around(some: range, others: range) -> range:
    """The range from the first to the last of both."""
    return range(min(some.start, others.start), max(some.stop, others.stop)) if some else others
