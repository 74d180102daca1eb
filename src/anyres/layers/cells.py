"""How the tokens of a grid fall into the cells of a merge plan: taking them apart cell by cell, filling, summing.

Nothing here loops over cells. Boundaries are those of `merge_plan`: cell i of an axis holds the positions from
boundaries[i] to boundaries[i + 1] - 1.
"""

from itertools import pairwise

import torch
from torch import Tensor

from anyres.layers.merge_plan import Boundaries, MergePlan


class Axis:
    """How the positions of one axis fall into cells of one or two; a padded cell repeats its one position."""

    def __init__(self, boundaries: Boundaries) -> None:
        self.cells = len(boundaries) - 1
        self.sizes = _sizes(boundaries)
        self.cell = max(self.sizes)
        if self.cell > 2:
            raise ValueError(f"a cell holds {self.cell} positions of an axis; one level merges 1 or 2.")
        self.is_even = min(self.sizes) == self.cell
        self.index = (list(boundaries[:-1]), [stop - 1 for stop in boundaries[1:]])

    def places(self, x: Tensor, dim: int) -> list[Tensor]:
        """The first tokens of all cells along axis `dim`, and the second ones where cells hold two."""
        if self.is_even:
            return [x[(slice(None),) * dim + (slice(place, None, self.cell),)] for place in range(self.cell)]
        return [x.index_select(dim, torch.tensor(self.index[place], device=x.device)) for place in range(self.cell)]

    def is_padding(self, device: torch.device) -> Tensor:
        """(cells, cell), true for the second place of a cell that holds one position."""
        place = torch.arange(self.cell, device=device)
        return place >= torch.tensor(self.sizes, device=device)[:, None]

    def filled(self, x: Tensor, dim: int, places: int) -> Tensor:
        """The tokens with every cell along axis `dim` filled to this many `places` with zeros."""
        if self.is_even and self.cell == places:
            return x
        cells = torch.stack(self.places(x, dim), dim=dim + 1)
        if not self.is_even:
            is_padding = self.is_padding(x.device)
            cells = cells.masked_fill(is_padding.view([*is_padding.shape, *[1] * (x.ndim - dim - 1)]), 0)
        if self.cell < places:
            cells = torch.cat([cells, torch.zeros_like(cells)], dim=dim + 1)
        return cells.flatten(dim, dim + 1)


def places(x: Tensor, rows: Axis, cols: Axis) -> list[Tensor]:
    """The one, two or four tokens of every cell: tensors (B, R, C, D) for R x C cells, row by row."""
    return [place for half in rows.places(x, 1) for place in cols.places(half, 2)]


def is_padding(rows: Axis, cols: Axis, device: torch.device) -> Tensor:
    """(R, C, 1, places), true where the place of a cell is padding."""
    either = rows.is_padding(device)[:, None, :, None] | cols.is_padding(device)[:, None, :]  # (R, C, r, c)
    return either.flatten(2)[:, :, None]


def cell_sum(x: Tensor, rows: Boundaries, cols: Boundaries) -> Tensor:
    """The sum over the tokens of each cell, of any size: (B, rows, cols, D) -> (B, R, C, D) in at least float32."""
    exact = torch.promote_types(x.dtype, torch.float32)
    for dim, edges in ((1, rows), (2, cols)):
        sizes = _sizes(edges)
        if max(sizes) == 1:
            continue
        if min(sizes) == max(sizes):
            x = x.unflatten(dim, (len(sizes), -1)).sum(dim + 1, dtype=exact)
            continue
        cell_of, _ = cell_and_place(edges, x.device)
        shape = list(x.shape)
        shape[dim] = len(sizes)
        x = x.new_zeros(shape, dtype=exact).index_add(dim, cell_of, x.to(exact))
    return x.to(exact)


def cell_mean(x: Tensor, rows: Boundaries, cols: Boundaries) -> Tensor:
    """The mean over the tokens of each cell, of any size: (B, rows, cols, D) -> (B, R, C, D)."""
    return (cell_sum(x, rows, cols) / cell_areas(rows, cols, x.device)[..., None]).to(x.dtype)


def cell_areas(rows: Boundaries, cols: Boundaries, device: torch.device) -> Tensor:
    """How many positions each cell holds, (R, C) int64."""
    return torch.tensor(_sizes(rows), device=device)[:, None] * torch.tensor(_sizes(cols), device=device)


def _sizes(boundaries: Boundaries) -> list[int]:
    return [stop - start for start, stop in pairwise(boundaries)]


def cell_and_place(boundaries: Boundaries, device: torch.device) -> tuple[Tensor, Tensor]:
    """The cell of every position of an axis, and its place in that cell, both (positions,) int64."""
    pairs = [(cell, at - start) for cell, (start, stop) in enumerate(pairwise(boundaries)) for at in range(start, stop)]
    cells, places = zip(*pairs, strict=True)
    return torch.tensor(cells, device=device), torch.tensor(places, device=device)


def to_patches(cells: Tensor, plan: MergePlan) -> Tensor:
    """What every patch's final cell has, by the plan's own map: (B, R, C, ...) -> (B, rows, cols, ...)."""
    row, _ = cell_and_place(plan.cell_rows, cells.device)
    col, _ = cell_and_place(plan.cell_cols, cells.device)
    return cells[:, row[:, None], col]


def kept_tokens(counts: Tensor, rows: Boundaries, cols: Boundaries) -> tuple[Tensor, Tensor]:
    """Which tokens of every cell take part where some patches of an image were skipped.

    Skipped ones do not, but of a cell that would be left empty the first one does.

    Args:
        counts: (rows, cols) int64, how many patches that were not skipped stand behind each token.

    Returns:
        (rows, cols) bool, and the counts (R, C) of the cells.
    """
    cells = cell_sum(counts[None, ..., None].double(), rows, cols)[0, ..., 0].long()  # (R, C)
    kept = counts > 0
    first = torch.tensor(rows[:-1], device=kept.device)[:, None], torch.tensor(cols[:-1], device=kept.device)
    kept[first] |= cells == 0
    return kept, cells
