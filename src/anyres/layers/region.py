"""A part of an image's grid of patch tokens."""

from dataclasses import dataclass

from torch import Tensor

from anyres.layers.merge_plan import Grid


@dataclass(frozen=True)
class Region:
    """A part of an image's grid of patch tokens."""

    start: Grid
    """Its first row and column."""
    size: Grid
    """Its rows and columns."""
    grid: Grid
    """Rows and columns of the whole image."""

    @staticmethod
    def whole(grid: Grid) -> "Region":
        return Region((0, 0), grid, grid)

    @staticmethod
    def of(rows: range, cols: range, grid: Grid) -> "Region":
        return Region((rows.start, cols.start), (len(rows), len(cols)), grid)

    @property
    def rows(self) -> slice:
        return slice(self.start[0], self.start[0] + self.size[0])

    @property
    def cols(self) -> slice:
        return slice(self.start[1], self.start[1] + self.size[1])

    def grown(self, before: int, after: int) -> "Region":
        """With this many more rows above and columns to the left, and below and to the right, as far as there are."""
        start = [max(first - before, 0) for first in self.start]
        stop = [min(s + n + after, whole) for s, n, whole in zip(self.start, self.size, self.grid, strict=True)]
        return Region((start[0], start[1]), (stop[0] - start[0], stop[1] - start[1]), self.grid)

    def around(self, rows: range, cols: range) -> "Region":
        """The smallest rectangle that has all of this one, and these rows and columns."""
        spans = [
            (min(s, r.start), max(s + n, r.stop)) for s, n, r in zip(self.start, self.size, (rows, cols), strict=True)
        ]
        return Region.of(range(*spans[0]), range(*spans[1]), self.grid)

    def cut_from(self, tokens: Tensor, outer: "Region") -> Tensor:
        """This region's tokens out of those (B, rows, cols, D) of a region around it."""
        row, col = self.start[0] - outer.start[0], self.start[1] - outer.start[1]
        return tokens[:, row : row + self.size[0], col : col + self.size[1]]
