"""How a merge plan is divided into stages and pieces: integer arithmetic only.

All levels of a stage are done on one piece of its input, whose output are whole cells of the stage's last level.
"""

from dataclasses import dataclass

from anyres.layers.merge_plan import Boundaries, Grid, MergePlan, compose, even_boundaries
from anyres.layers.region import Region


@dataclass(frozen=True)
class Piece:
    """A rectangle of the cells of a stage."""

    cells: tuple[range, range]
    """Rows and columns of cells that it gives."""
    region: Region
    """The positions of the stage's input that it takes."""


@dataclass(frozen=True)
class Stage:
    """Levels `first` to `last` - 1 of a plan, and the pieces on which they are done, band by band, left to right."""

    first: int
    last: int
    bands: tuple[tuple[Piece, ...], ...]

    @property
    def pieces(self) -> list[Piece]:
        return [piece for band in self.bands for piece in band]


def make_stages(plan: MergePlan, positions: int) -> list[Stage]:
    """Divides a plan into stages whose pieces take about `positions` tokens, or one cell if a single level needs more.

    A stage has as many levels as fit: until a single cell is too large for a piece.
    """
    stages: list[Stage] = []
    first = 0
    while first < len(plan.levels) or not stages:
        last = min(first + 1, len(plan.levels))
        while last < len(plan.levels) and _largest(plan, first, last + 1) <= positions:
            last += 1
        stages.append(Stage(first, last, _bands(plan, first, last, positions)))
        first = last
    return stages


def stage_cells(plan: MergePlan, first: int, last: int) -> tuple[Boundaries, Boundaries]:
    """Boundaries of the cells that levels `first` to `last` - 1 leave, in positions of the grid before them."""
    grid = plan.levels[first - 1].output_grid if first else plan.size
    levels = plan.levels[first:last]
    return compose([level.rows for level in levels], grid[0]), compose([level.cols for level in levels], grid[1])


def _sides(boundaries: Boundaries) -> int:
    return max(stop - start for start, stop in zip(boundaries, boundaries[1:], strict=False))


def _largest(plan: MergePlan, first: int, last: int) -> int:
    rows, cols = stage_cells(plan, first, last)
    return _sides(rows) * _sides(cols)


def _bands(plan: MergePlan, first: int, last: int, positions: int) -> tuple[tuple[Piece, ...], ...]:
    rows, cols = stage_cells(plan, first, last)
    height, width = _sides(rows), _sides(cols)
    side = positions**0.5
    # nearly square pieces, which have the smallest halo and read the fewest tiles; longer where the image is narrow
    across = _clamp(side / width, len(cols) - 1)
    down = _clamp(positions / (across * width) / height, len(rows) - 1)
    across = _clamp(positions / (down * height) / width, len(cols) - 1)
    grid = (rows[-1], cols[-1])
    return tuple(
        tuple(_piece(rows, cols, grid, row, col) for col in _groups(len(cols) - 1, across))
        for row in _groups(len(rows) - 1, down)
    )


def _clamp(value: float, most: int) -> int:
    return max(1, min(int(value), most))


def _groups(cells: int, most: int) -> list[range]:
    """The cells of an axis in as few groups of at most so many as possible, of nearly equal size."""
    edges = even_boundaries(cells, -(-cells // most))
    return [range(start, stop) for start, stop in zip(edges, edges[1:], strict=False)]


def _piece(rows: Boundaries, cols: Boundaries, grid: Grid, row: range, col: range) -> Piece:
    start, stop = (rows[row.start], cols[col.start]), (rows[row.stop], cols[col.stop])
    return Piece((row, col), Region(start, (stop[0] - start[0], stop[1] - start[1]), grid))
