"""How a merge plan is divided into stages and pieces: integer arithmetic only.

All levels of a stage are done on one piece of its input, whose output are whole cells of the stage's last level.
"""

import math
from dataclasses import dataclass
from typing import Protocol

from anyres.layers.merge_plan import Boundaries, Grid, MergePlan, compose, even_boundaries
from anyres.layers.region import Region

# times its positions that a stage may take of its input with what its pieces need around them (docs/log.md)
_MOST_READ = 1.1
_MOST_READ_OF_WIDE = 1.3  # where what waits for the next stage would be more than a piece


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


class Reading(Protocol):
    """What `outer` says: the positions along an axis that a group of cells needs of the input of levels `first` to
    `last` - 1, at least those that fall into the cells."""

    def __call__(self, first: int, last: int, axis: int, cells: range) -> range: ...


def make_stages(plan: MergePlan, positions: int, outer: Reading | None = None) -> list[Stage]:
    """Divides a plan into stages whose pieces take about `positions` tokens, or one cell if a single level needs more.

    A stage has as many levels as fit: until a single cell is too large for a piece, all that is left of the image fits
    one, or what the pieces need around their cells (`outer`) is too much. A pass of 1x1 cells goes with the level
    before it.
    """
    stages: list[Stage] = []
    first = 0
    while first < len(plan.levels) or not stages:
        last = min(first + 1, len(plan.levels))
        while last < len(plan.levels) and _goes_on(plan, first, last + 1, positions, outer):
            last += 1
        stages.append(Stage(first, last, _bands(plan, first, last, positions)))
        first = last
    return stages


def _goes_on(plan: MergePlan, first: int, last: int, positions: int, outer: Reading | None) -> bool:
    """Whether a stage of levels `first` to `last` - 2 takes one more."""
    if plan.levels[last - 1].is_identity:
        return True
    if _largest(plan, first, last) > positions:
        return False
    left = math.prod(plan.levels[last - 1].input_grid)
    if left <= positions < math.prod(_input_grid(plan, first)):  # a piece's few tokens would use the weights badly
        return False
    if outer is None:
        return True
    (rows, cols), groups = stage_cells(plan, first, last), _groups(plan, first, last, positions)
    needed = [sum(len(outer(first, last, axis, group)) for group in groups[axis]) for axis in (0, 1)]
    waiting = len(_groups(plan, first, last - 1, positions)[0][0]) * plan.levels[last - 2].output_grid[1]
    most = _MOST_READ if waiting <= positions else _MOST_READ_OF_WIDE
    return needed[0] * needed[1] <= most * rows[-1] * cols[-1]


def _input_grid(plan: MergePlan, first: int) -> Grid:
    return plan.levels[first - 1].output_grid if first else plan.size


def level_cells(plan: MergePlan, first: int, last: int, axis: int, cells: range) -> list[range]:
    """For each of levels `first` to `last` - 1 its cells along an axis that become these of the last of them."""
    found: list[range] = []
    for level in reversed(plan.levels[first:last]):
        found.append(cells)
        edges = (level.rows, level.cols)[axis]
        cells = range(edges[cells.start], edges[cells.stop])
    return found[::-1]


def first_cells(plan: MergePlan, first: int, last: int, axis: int, cells: range) -> list[list[int]]:
    """For each of these levels which of its `level_cells`, counted from the first, hold the first patch of one of
    `cells`."""
    found: list[list[int]] = []
    firsts = list(cells)
    for level in reversed(plan.levels[first:last]):
        found.append([cell - firsts[0] for cell in firsts])
        edges = (level.rows, level.cols)[axis]
        firsts = [edges[cell] for cell in firsts]
    return found[::-1]


def stage_cells(plan: MergePlan, first: int, last: int) -> tuple[Boundaries, Boundaries]:
    """Boundaries of the cells that levels `first` to `last` - 1 leave, in positions of the grid before them."""
    grid, levels = _input_grid(plan, first), plan.levels[first:last]
    return compose([level.rows for level in levels], grid[0]), compose([level.cols for level in levels], grid[1])


def _sides(boundaries: Boundaries) -> int:
    return max(stop - start for start, stop in zip(boundaries, boundaries[1:], strict=False))


def _largest(plan: MergePlan, first: int, last: int) -> int:
    rows, cols = stage_cells(plan, first, last)
    return _sides(rows) * _sides(cols)


def _bands(plan: MergePlan, first: int, last: int, positions: int) -> tuple[tuple[Piece, ...], ...]:
    rows, cols = stage_cells(plan, first, last)
    down, across = _groups(plan, first, last, positions)
    grid = (rows[-1], cols[-1])
    return tuple(tuple(_piece(rows, cols, grid, row, col) for col in across) for row in down)


def _groups(plan: MergePlan, first: int, last: int, positions: int) -> tuple[list[range], list[range]]:
    """The rows and the columns of cells that make a piece."""
    rows, cols = stage_cells(plan, first, last)
    if rows[-1] * cols[-1] <= positions:
        return [range(len(rows) - 1)], [range(len(cols) - 1)]
    height, width = _sides(rows), _sides(cols)
    side = positions**0.5
    # nearly square pieces, which have the smallest halo and read the fewest tiles; longer where the image is narrow
    across = _clamp(side / width, len(cols) - 1)
    down = _clamp(positions / (across * width) / height, len(rows) - 1)
    across = _clamp(positions / (down * height) / width, len(cols) - 1)
    return _evenly(len(rows) - 1, down), _evenly(len(cols) - 1, across)


def _clamp(value: float, most: int) -> int:
    return max(1, min(int(value), most))


def _evenly(cells: int, most: int) -> list[range]:
    """The cells of an axis in as few groups of at most so many as possible, of nearly equal size."""
    edges = even_boundaries(cells, -(-cells // most))
    return [range(start, stop) for start, stop in zip(edges, edges[1:], strict=False)]


def _piece(rows: Boundaries, cols: Boundaries, grid: Grid, row: range, col: range) -> Piece:
    start, stop = (rows[row.start], cols[col.start]), (rows[row.stop], cols[col.stop])
    return Piece((row, col), Region(start, (stop[0] - start[0], stop[1] - start[1]), grid))
