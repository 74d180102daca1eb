"""Which tokens are merged with which, level by level: integer arithmetic only.

A level divides the rows and the columns of a token grid into cells of one or two positions each. A plan is the list
of levels that leads from the patches of an image to the final grid. Padding does not appear anywhere: a padded cell
is a cell that holds one position instead of two.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

Grid = tuple[int, int]
Boundaries = tuple[int, ...]


def token_grid(height: int, width: int, patch_size: int) -> Grid:
    """Rows and columns of patches that cover an image; the last ones may be completed."""
    return -(-height // patch_size), -(-width // patch_size)


def even_boundaries(size: int, cells: int) -> Boundaries:
    """Boundaries floor(i * size / cells + 1/2) for i = 0..cells: cells of nearly equal size, spread evenly."""
    return tuple((2 * i * size + cells) // (2 * cells) for i in range(cells + 1))


def _identity(size: int) -> Boundaries:
    return tuple(range(size + 1))


def _halving_axis(size: int, target: int) -> list[Boundaries]:
    """Levels of one axis: halve (rounding up) while size >= 2 * target, then one step to the target (paper, 3.2)."""
    levels = []
    while size > target:
        cells = -(-size // 2) if size >= 2 * target else target
        levels.append(even_boundaries(size, cells))
        size = cells
    return levels


def _balanced_axis(size: int, target: int) -> list[Boundaries]:
    """Levels of one axis whose final cells differ by at most one patch: each cell is halved inside its own borders."""
    if size <= target:
        return []
    edges = even_boundaries(size, target)
    sizes = [stop - start for start, stop in zip(edges, edges[1:], strict=False)]
    levels = []
    while max(sizes) > 1:
        boundaries, start = [0], 0
        for cell in sizes:
            boundaries += [start + edge for edge in even_boundaries(cell, -(-cell // 2))[1:]]
            start += cell
        levels.append(tuple(boundaries))
        sizes = [-(-cell // 2) for cell in sizes]
    return levels


@dataclass(frozen=True)
class Level:
    """One application of the merger. Cell i of the rows holds the positions from rows[i] to rows[i + 1] - 1."""

    rows: Boundaries
    cols: Boundaries
    whole_cell: Grid | None = None
    """Of a part of a level: the largest cell of all of it, (rows, cols)."""

    @property
    def cell(self) -> Grid:
        """Rows and columns of the largest cell of the level, to which padding fills the others."""
        return self.whole_cell or (largest_cell(self.rows), largest_cell(self.cols))

    @property
    def input_grid(self) -> Grid:
        return self.rows[-1], self.cols[-1]

    @property
    def output_grid(self) -> Grid:
        return len(self.rows) - 1, len(self.cols) - 1

    @property
    def is_identity(self) -> bool:
        """True where every cell holds a single token, so that the pass merges nothing."""
        return self.input_grid == self.output_grid

    def part(self, rows: range, cols: range) -> "Level":
        """The same level for a rectangle of its cells alone, whose tokens are counted from the rectangle's first."""
        return Level(_part(self.rows, rows), _part(self.cols, cols), self.cell)

    @property
    def padded_grid(self) -> Grid:
        """The grid after padding every cell to the largest cell of its axis: what the paper's costs count."""
        (rows, cols), (down, across) = self.output_grid, self.cell
        return rows * down, cols * across


def _part(boundaries: Boundaries, cells: range) -> Boundaries:
    return tuple(edge - boundaries[cells.start] for edge in boundaries[cells.start : cells.stop + 1])


def largest_cell(boundaries: Boundaries) -> int:
    """The most positions that a cell of one axis holds."""
    return max(stop - start for start, stop in zip(boundaries, boundaries[1:], strict=False))


@dataclass(frozen=True)
class MergePlan:
    """The levels that take a grid of `size` = (rows, cols) patch tokens to the final `grid`.

    Make one with `halving` (the paper's schedule), `balanced` (final cells of equal size) or `fixed` (dense tasks).
    `print(plan)` shows the chain of grids, `cell_rows` and `cell_cols` which patches end in which final cell.
    """

    size: Grid
    levels: tuple[Level, ...]

    @staticmethod
    def halving(size: Grid, grid: Grid, *, last_pass: bool = True) -> "MergePlan":
        """The paper's schedule: each axis is halved while it is at least twice the target, then brought to it.

        An axis shorter than the target stays as it is. `last_pass` adds one pass with 1x1 cells at the end, at every
        resolution, as the paper's printed costs need it.
        """
        return _plan(_halving_axis, _grid("size", size), _grid("grid", grid), last_pass)

    @staticmethod
    def balanced(size: Grid, grid: Grid, *, last_pass: bool = True) -> "MergePlan":
        """Final cells that differ by at most one patch per axis; halving inside each of them."""
        return _plan(_balanced_axis, _grid("size", size), _grid("grid", grid), last_pass)

    @staticmethod
    def fixed(size: Grid, cell: int) -> "MergePlan":
        """One pass with cells of `cell` x `cell` patches (1 or 2), so that the grid keeps the image's shape."""
        if cell not in (1, 2):
            raise ValueError(f"cell is {cell!r}; a fixed plan has cells of 1 or 2 patches a side.")
        rows, cols = _grid("size", size)
        return MergePlan((rows, cols), (Level(_fixed_axis(rows, cell), _fixed_axis(cols, cell)),))

    @property
    def grid(self) -> Grid:
        """The final (rows, cols)."""
        return self.levels[-1].output_grid if self.levels else self.size

    @property
    def chain(self) -> tuple[Grid, ...]:
        """The grid before the first level and after each level that merges; passes with 1x1 cells are left out."""
        return (self.size, *(level.output_grid for level in self.levels if not level.is_identity))

    @cached_property
    def cell_rows(self) -> Boundaries:
        """Boundaries of the final cells, in rows of patches."""
        return compose([level.rows for level in self.levels], self.size[0])

    @cached_property
    def cell_cols(self) -> Boundaries:
        """Boundaries of the final cells, in columns of patches."""
        return compose([level.cols for level in self.levels], self.size[1])

    def with_extra_passes(self, extra: Sequence[int]) -> "MergePlan":
        """The same plan with extra[i] more passes of 1x1 cells after level i."""
        if len(extra) != len(self.levels):
            raise ValueError(f"extra has {len(extra)} entries; the plan has {len(self.levels)} levels.")
        levels: list[Level] = []
        for level, count in zip(self.levels, extra, strict=True):
            rows, cols = level.output_grid
            levels += [level, *[Level(_identity(rows), _identity(cols))] * count]
        return MergePlan(self.size, tuple(levels))

    def __str__(self) -> str:
        passes = sum(level.is_identity for level in self.levels)
        chain = " > ".join(f"{rows}x{cols}" for rows, cols in self.chain)
        return chain + (f" + {passes} pass{'es' * (passes > 1)} of 1x1 cells" if passes else "")


def _grid(name: str, value: Grid) -> Grid:
    rows, cols = (int(side) for side in value)
    if rows < 1 or cols < 1:
        raise ValueError(f"{name} is {rows}x{cols}; both sides must be at least 1.")
    return rows, cols


def _fixed_axis(size: int, cell: int) -> Boundaries:
    return tuple(min(start, size) for start in range(0, size + cell, cell))  # a constant stride; the last may be short


@lru_cache(maxsize=256)
def _plan(axis: Callable[[int, int], list[Boundaries]], size: Grid, grid: Grid, last_pass: bool) -> MergePlan:
    rows, cols = axis(size[0], grid[0]), axis(size[1], grid[1])
    end_rows = len(rows[-1]) - 1 if rows else size[0]
    end_cols = len(cols[-1]) - 1 if cols else size[1]
    depth = max(len(rows), len(cols))
    rows += [_identity(end_rows)] * (depth - len(rows))  # the axis that is done first waits with cells of one
    cols += [_identity(end_cols)] * (depth - len(cols))
    levels = [Level(r, c) for r, c in zip(rows, cols, strict=True)]
    if last_pass:
        levels.append(Level(_identity(end_rows), _identity(end_cols)))
    return MergePlan(size, tuple(levels))


def compose(levels: Sequence[Boundaries], size: int) -> Boundaries:
    """Boundaries of the cells that these levels of one axis leave together, in positions of an axis of `size`."""
    edges = _identity(size)
    for boundaries in levels:
        edges = tuple(edges[boundary] for boundary in boundaries)
    return edges
