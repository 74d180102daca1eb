"""The way back: what the trunk made of the final cells of a merge plan, carried to every patch. Not in the paper.

A patch gets its cell's output; more of it or less, channel by channel, the more or less the merger attended to that
patch; what its own token was before merging; and, if asked for, what it attends to in the 3x3 nearest cells. The cost
grows with the patches as the merger's does, not with their square.
"""

import math

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from anyres.layers.cells import cell_and_place, cell_areas, to_patches
from anyres.layers.merge_plan import Boundaries, MergePlan
from anyres.layers.pyramid import rescale


class Unmerge(nn.Module):
    """Tokens of final cells -> tokens of patches.

    Untrained, with neither skip nor neighbours, every patch gets exactly its cell's output.

    Args:
        width: D.
        heads: of the attention to neighbours; must divide D.
        skip: adds a linear map of the normalised token before merging.
        neighbours: adds attention to the 3x3 nearest cells.
    """

    def __init__(self, width: int, heads: int, *, skip: bool = True, neighbours: bool = False) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.empty(width))
        self.norm = nn.LayerNorm(width, eps=1e-6) if skip or neighbours else None
        self.skip = nn.Linear(width, width) if skip else None
        self.neighbours = NeighbourAttention(width, heads) if neighbours else None
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        nn.init.zeros_(self.gain)
        _init_linear(self)
        if self.neighbours is not None:
            nn.init.constant_(self.neighbours.decay, _UNIT)

    def forward(self, cells: Tensor, patches: Tensor, shares: Tensor, plan: MergePlan) -> Tensor:
        """Cells (B, R, C, D) to (B, rows, cols, D).

        Args:
            cells: the trunk's output on the plan's final grid.
            patches: (B, rows, cols, D), the tokens before merging.
            shares: (B, rows, cols), the share of each in its cell (`merge_with_shares`); times the cell's number of
                patches it is 1 on average.
            plan: how they were merged.
        """
        areas = to_patches(cell_areas(plan.cell_rows, plan.cell_cols, cells.device)[None], plan)  # (1, rows, cols)
        excess = (shares * areas - 1)[..., None].to(cells.dtype)
        x = to_patches(cells, plan) * (1 + self.gain * excess)
        if self.norm is None:
            return x
        patches = self.norm(patches)
        if self.skip is not None:
            x = x + self.skip(patches)
        return x if self.neighbours is None else x + self.neighbours(patches, cells, plan)


class Interpolate(nn.Module):
    """What `Unmerge` is to be held against: the grid of cells read bilinearly at the patches.

    Args:
        width: D.
        skip: adds a linear map of the normalised token before merging.
    """

    def __init__(self, width: int, *, skip: bool = True) -> None:
        super().__init__()
        self.skip = nn.Sequential(nn.LayerNorm(width, eps=1e-6), nn.Linear(width, width)) if skip else None
        self.init_weights()

    def init_weights(self) -> None:
        _init_linear(self)

    def forward(self, cells: Tensor, patches: Tensor, shares: Tensor, plan: MergePlan) -> Tensor:
        """Cells (B, R, C, D) to (B, rows, cols, D); arguments as those of `Unmerge`."""
        x = F.interpolate(cells.permute(0, 3, 1, 2), plan.size, mode="bilinear", align_corners=False)
        x = x.permute(0, 2, 3, 1)
        return x if self.skip is None else x + self.skip(patches)


@torch.no_grad()
def _init_linear(module: nn.Module) -> None:
    for each in module.modules():
        if isinstance(each, nn.Linear):
            nn.init.xavier_uniform_(each.weight)
            nn.init.zeros_(each.bias)
        elif isinstance(each, nn.LayerNorm):
            each.reset_parameters()


_UNIT = math.log(math.e - 1)  # whose softplus is 1


class NeighbourAttention(nn.Module):
    """Every patch attends to the 3x3 final cells around its own; there are fewer at the border of the grid.

    Logits fall with the square of the distance from the patch's centre to the cell's, in cells, each head at its own
    learned rate: untrained queries give a smooth interpolation.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.decay = nn.Parameter(torch.full((heads,), _UNIT))

    def forward(self, patches: Tensor, cells: Tensor, plan: MergePlan) -> Tensor:
        """Patches (B, rows, cols, D) over cells (B, R, C, D): (B, rows, cols, D)."""
        keys, values = self.kv(self.norm(cells)).unflatten(-1, (2, self.heads, -1)).unbind(-3)  # (B, R, C, heads, d)
        query = self.q(patches).unflatten(-1, (self.heads, -1)) * keys.shape[-1] ** -0.5
        down, across = _nearest(plan.cell_rows, cells.device), _nearest(plan.cell_cols, cells.device)
        places = [(row, col) for row in range(3) for col in range(3)]
        logits = []
        for row, col in places:  # one at a time: inference never holds nine copies of all patches
            (rows, dy, has_row), (cols, dx, has_col) = (axis[place] for axis, place in ((down, row), (across, col)))
            found = (query * keys[:, rows[:, None], cols]).sum(-1).float()  # (B, rows, cols, heads)
            distance = dy[:, None] ** 2 + dx**2
            found = found - F.softplus(self.decay.float()) * distance[..., None]
            is_there = (has_row[:, None] & has_col)[..., None]
            logits.append(found.masked_fill(~is_there, float("-inf")))
        weights = torch.stack(logits).softmax(0).to(values.dtype)  # (9, B, rows, cols, heads)
        total = torch.zeros_like(query)
        for weight, (row, col) in zip(weights, places, strict=True):
            total = total + weight[..., None] * values[:, down[row][0][:, None], across[col][0]]
        return self.proj(total.flatten(-2))


def _nearest(boundaries: Boundaries, device: torch.device) -> list[tuple[Tensor, Tensor, Tensor]]:
    """For every position of an axis the cell before its own, its own, and the one after it.

    Returns:
        Three times (positions,): the cell (the nearest one that exists), its centre's distance in cells of mean size,
        and whether it exists.
    """
    edges = torch.tensor(boundaries, device=device, dtype=torch.float32)
    centres, size = (edges[1:] + edges[:-1]) / 2, boundaries[-1] / (len(boundaries) - 1)
    own, at = cell_and_place(boundaries, device)[0], torch.arange(boundaries[-1], device=device) + 0.5
    found = []
    for offset in (-1, 0, 1):
        wanted = own + offset
        cell = wanted.clamp(0, len(centres) - 1)
        found.append((cell, (at - centres[cell]) / size, wanted == cell))
    return found


class LightHead(nn.Module):
    """A map of patches (B, D, rows, cols) -> logits (B, num_classes, 4 * rows, 4 * cols); norms are over channels."""

    def __init__(self, width: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.stages = nn.Sequential(
            LayerNorm2d(width),
            nn.Conv2d(width, channels, 1),
            nn.Conv2d(channels, channels, 3, padding=1),
            LayerNorm2d(channels),
            nn.GELU(),
            rescale(channels, 2, halve=False),
            LayerNorm2d(channels),
            nn.GELU(),
        )
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, rows, cols) -> (B, num_classes, 4 * rows, 4 * cols)"""
        return self.classifier(self.stages(x))
