"""The configuration of a model: every field, its default, and which combinations cannot exist."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from anyres.errors import check_choice, unknown
from anyres.layers.aspect_grid import aspect_grid, most_tokens
from anyres.layers.merge_plan import Grid, MergePlan
from anyres.layers.options import Interpolation, Padding, Start, check_amount, usual_global_blocks
from anyres.settings import default_of

Stem = Literal["patch", "conv"]
Position = Literal["fuzzy", "learned", "sincos", "conditional", "global_local", "relative_bias", "rotary", "none"]
Placement = Literal["before", "trunk"]
Merger = Literal["grid_attention", "pyramid", "average", "concat", "none"]
Cells = Literal["halving", "balanced", "1x1", "2x2"]
GridShape = Literal["fixed", "aspect"]
Pool = Literal["mean", "token"]


@dataclass(frozen=True, kw_only=True)
class ViTARConfig:
    """Everything that defines a model. Unknown names, impossible values and settings without effect are errors."""

    patch_size: int = 16
    """Side of a patch in pixels."""
    grid: Grid = (14, 14)
    """Rows and columns of tokens that the merger leaves, and of the position table; one number means a square."""
    grid_shape: GridShape = "fixed"
    """"fixed" (the paper's): every image is merged to `grid`; "aspect": to as many tokens in the shape of the image, so
    that a 1:2 image has 10x20 instead of a squashed 14x14. Of `grid` only the area counts then, and a square keeps
    14x14. The trunk's cost stays constant: of 14x14 186 to 200 tokens at any shape, which up to 1:4 is met to 11 %."""
    width: int = 768
    """D, the length of a token."""
    depth: int = 12
    """Number of transformer blocks in the trunk."""
    heads: int = 12
    """Attention heads of trunk and merger; must divide the width."""
    mlp_ratio: float = 4.0
    """Hidden width of the feed-forward networks divided by the width."""
    in_channels: int = 3
    """Channels of an image."""
    num_classes: int = 1000
    """Number of classes; 0 leaves the head out, so that the model returns pooled features."""
    stem: Stem = "patch"
    """"patch": one linear layer, as the paper writes; "conv": convolutions, as its printed costs need."""
    position: Position = "fuzzy"
    """"fuzzy" (jittered while training), "learned" (fuzzy without jitter), "sincos" (MAE's, fixed) and the global part
    of "global_local" (ResFormer's) act before the merger; "relative_bias" (Swin's) and "rotary" (DINOv3's) in the
    trunk's attention, which behind a merger meets a constant grid; "conditional" (CPVT's) and the local part of
    "global_local" where `placement` says; "none"."""
    placement: Placement | None = None
    """Where conditional positions and the local part of global-local ones act: "before" the merger (on a plain trunk:
    before its first block) or in the "trunk". None is "trunk", but "before" for conditional positions with a merger."""
    rescale: float = 1.0
    """Rotary positions: in training an image's coordinates are scaled by a random factor in [1/rescale, rescale]."""
    jitter: float = 0.5
    """Largest fuzzy offset, in tokens of the current grid."""
    interpolation: Interpolation = "bilinear"
    """How the position table is read at other grids than its own, without jitter."""
    merger: Merger = "grid_attention"
    """"grid_attention" (the paper's), "pyramid" (ours: the same, with every cell also seen from afar), "average" (the
    paper's ablation), "concat" (Swin's 2x2 tokens side by side and a linear layer) or "none" (an ordinary ViT)."""
    cells: Cells | None = None
    """"halving" (the paper's schedule), "balanced" (equal cells), or cells of "1x1" or "2x2" patches in one pass; None
    is "balanced" for average pooling, else "halving"."""
    padding: Padding = "masked"
    """"masked": padding changes nothing; "zeros": the paper's literal zero tokens."""
    last_pass: bool = True
    """One last pass of the merger with 1x1 cells, at every resolution."""
    extra_passes: int = 0
    """While training, up to this many random extra passes with 1x1 cells at the end and, if this is not 0, one after
    each other level with probability 1/2, so that depth is not memorised. Not in the paper."""
    start: Start = "random"
    """Grid attention: "mean" starts as exactly the mean of a cell's tokens. Not in the paper."""
    scale_query: bool = False
    """Grid attention: the query is told how many patches its cell covers. Not in the paper."""
    learned_levels: int | None = None
    """Grid attention: only the last so many levels that merge are learned, the ones before them plain means. None: all
    are, as in the paper."""
    full_levels: int | None = None
    """Pyramid: only the last so many levels that merge give their cells all of what their tokens say, the one before
    them `deep_weight` of it, the one before that its square, and so on; None: all levels. Choose as many as the largest
    training size merges, since deeper ones are first met at larger images and then say too much: with patches of 16 and
    a 14x14 grid 0 for 224 pixels, 1 to 448, 2 to 896, 3 to 1792. `anyres train` and `pretrain` choose it so, at least
    1; a model of which no training size is known, such as a named one, leaves it at None."""
    deep_weight: float = 0.25
    """Pyramid: how much each level before `full_levels` counts against the one after it, from 0 (not at all) to 1."""
    tome: float = 0.0
    """Without a merger: what every block merges (ToMe), as a share of the tokens below 1, as a number from 1 on."""
    window: int = 0
    """Side in tokens of the windows that the trunk's attention is kept in (ViTDet: 14); 0: it is global. Windows at the
    right and bottom edge are smaller where the grid does not divide."""
    global_blocks: tuple[int, ...] | None = None
    """With windows: the blocks, counted from 0, whose attention is global all the same. None: four spread evenly."""
    prefix_tokens: int = 0
    """Learned tokens in front of the grid tokens; they bypass the merger. The first is the class token."""
    pool: Pool = "mean"
    """What the head reads: the mean of the grid tokens, or the first prefix token."""
    drop_path_rate: float = 0.0
    """Stochastic depth of the last trunk block; it grows linearly from 0 at the first."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Mean of each channel on a scale of 0 to 1, subtracted by whoever prepares images (ImageNet's by default)."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """Standard deviation of each channel."""

    def __post_init__(self) -> None:
        grid = (self.grid, self.grid) if isinstance(self.grid, int) else tuple(self.grid)
        object.__setattr__(self, "grid", grid)
        for name in ("mean", "std"):
            given = getattr(self, name)
            given = given if isinstance(given, Sequence) and not isinstance(given, str) else (given,)
            if not all(isinstance(value, int | float) for value in given):
                raise ValueError(f"{name} is {getattr(self, name)!r}; give one number for each channel, such as 0.5.")
            values = tuple(float(value) for value in given)
            if self.in_channels != 3 and values == default_of(name, ViTARConfig):  # ImageNet's fit colour images only
                values = (0.5,) * self.in_channels
            object.__setattr__(self, name, values)
        self._check_numbers()
        self._check_choices()

    def _check_numbers(self) -> None:
        for field in fields(self):
            value, default = getattr(self, field.name), field.default
            if isinstance(default, bool) and not isinstance(value, bool):
                raise ValueError(f"{field.name} is {value!r}; allowed: True, False.")
            numbers = int if type(default) is int else (int, float)
            if type(default) in (int, float) and (isinstance(value, bool) or not isinstance(value, numbers)):
                kind = "whole number" if numbers is int else "number"
                raise ValueError(f"{field.name} is {value!r}; it must be a {kind}, such as {default}.")
        if len(self.grid) != 2 or not all(isinstance(side, int) and side > 0 for side in self.grid):
            raise ValueError(f"grid is {self.grid}; give one positive number or (rows, cols).")
        for name in ("patch_size", "width", "depth", "heads", "in_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not 1 <= self.rescale < math.inf:
            raise ValueError(f"rescale is {self.rescale}; it must be at least 1 (1 is none, DINOv3 uses 2).")
        for name in ("num_classes", "extra_passes", "prefix_tokens", "jitter", "window"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more.")
        if self.width % self.heads:
            divisors = [n for n in range(1, self.width + 1) if self.width % n == 0]
            nearest = min(divisors, key=lambda n: abs(n - self.heads))
            raise ValueError(
                f"heads is {self.heads}, which does not divide the width {self.width}; nearest: {nearest}."
            )
        check_amount(self.tome)
        for name in ("learned_levels", "full_levels"):
            levels = getattr(self, name)
            if levels is not None and (isinstance(levels, bool) or not isinstance(levels, int) or levels < 0):
                raise ValueError(f"{name} is {levels!r}; it must be a whole number from 0 up, or None for all.")
        if not 0 <= self.deep_weight <= 1:
            raise ValueError(f"deep_weight is {self.deep_weight}; allowed: 0 to 1.")
        if self.mlp_ratio <= 0 or min(self.std) <= 0:
            raise ValueError(f"mlp_ratio is {self.mlp_ratio}, std is {self.std}; both must be above 0.")
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate is {self.drop_path_rate}; it must be at least 0 and below 1.")
        for name in ("mean", "std"):
            if len(getattr(self, name)) != self.in_channels:
                raise ValueError(f"{name} has {len(getattr(self, name))} values for {self.in_channels} channels.")

    def _check_choices(self) -> None:
        literals = {"stem": Stem, "position": Position, "merger": Merger, "cells": Cells, "pool": Pool}
        literals |= {"padding": Padding, "interpolation": Interpolation, "placement": Placement, "start": Start}
        literals["grid_shape"] = GridShape
        for name, literal in literals.items():
            if getattr(self, name) is not None or default_of(name, ViTARConfig) is not None:
                check_choice(name, getattr(self, name), get_args(literal))
        if self.pool == "token" and not self.prefix_tokens:
            raise ValueError('pool is "token" but prefix_tokens is 0; give at least one prefix token.')
        self._check_position()
        if self.tome and (self.position in ("relative_bias", "rotary") or self.local_placement == "trunk"):
            raise ValueError(
                f"tome is {self.tome} and position {self.position!r} acts in the trunk, where merged tokens form no "
                'grid; give tome=0, or a position before the trunk, such as "learned".'
            )
        if self.window:
            self._check_windows()
        if self.merger == "grid_attention" and self.learned_levels == 0 and (not self.last_pass or self.cells == "2x2"):
            raise ValueError(
                "learned_levels is 0 and there is no last pass: grid attention is never used; "
                'give learned_levels=1, or merger="average".'
            )
        if self.merger == "pyramid" and self.cells == "balanced":
            raise ValueError('merger is "pyramid" and cells are "balanced"; allowed: halving (or None), 1x1, 2x2.')
        if self.merger == "concat" and self.cells == "1x1":
            raise ValueError('merger is "concat" and cells are "1x1": nothing is merged; give cells="2x2".')
        for name, reason in idle_fields({field.name: getattr(self, field.name) for field in fields(self)}).items():
            raise ValueError(f"{name}={getattr(self, name)!r} has no effect because {reason}; leave it out.")

    def _check_windows(self) -> None:
        """What acts in the trunk's attention, beside the grid or by merging its tokens, does not know windows."""
        blocks = self.global_blocks
        if blocks is not None:
            is_sequence = isinstance(blocks, Sequence) and not isinstance(blocks, str)
            object.__setattr__(self, "global_blocks", tuple(blocks) if is_sequence else blocks)
            if not is_sequence or not all(type(block) is int and 0 <= block < self.depth for block in blocks):
                usual = usual_global_blocks(self.depth)
                raise ValueError(
                    f"global_blocks is {blocks!r}; allowed: numbers of blocks from 0 to {self.depth - 1}; "
                    f"usual: {usual}."
                )
        if len(set(self.whole_blocks)) == self.depth:
            raise ValueError(
                f"window={self.window} has no effect because all {self.depth} blocks are global; leave it out, or give "
                f"global_blocks, such as {(self.depth - 1,) if self.depth > 1 else ()}."
            )
        in_attention = self.position in ("relative_bias", "rotary")
        in_attention |= self.position == "global_local" and self.local_placement == "trunk"
        for applies, given, allowed in (
            (self.prefix_tokens, f"prefix_tokens is {self.prefix_tokens}", 'prefix_tokens=0 with pool="mean"'),
            (self.tome, f"tome is {self.tome}", "tome=0"),
            (in_attention, f"position {self.position!r} acts in the trunk's attention", 'such as position="learned"'),
        ):
            if applies:
                raise ValueError(f"window is {self.window} and {given}; allowed with windows: {allowed}.")

    def _check_position(self) -> None:
        """Sin-cos positions need pairs of channels on two axes: a width, or for rotary ones a head, divisible by 4."""
        given = f"position is {self.position!r}, width is {self.width}, heads is {self.heads}; "
        if self.position in ("sincos", "global_local") and self.width % 4:
            step = math.lcm(4, self.heads)
            nearest = max(round(self.width / step), 1) * step
            raise ValueError(f"{given}the width must be divisible by 4; nearest: width={nearest}.")
        if self.position == "rotary" and self.width // self.heads % 4:
            valid = [n for n in range(1, self.width // 4 + 1) if self.width % (4 * n) == 0]
            if not valid:
                nearest = max(round(self.width / (4 * self.heads)), 1) * 4 * self.heads
                raise ValueError(f"{given}width / heads must be divisible by 4; nearest: width={nearest}.")
            nearest = min(valid, key=lambda n: abs(n - self.heads))
            raise ValueError(f"{given}width / heads must be divisible by 4; nearest: heads={nearest}.")

    @property
    def local_placement(self) -> Placement | None:
        """`placement` with its default filled in; None for positions that have no choice of place."""
        if self.position not in ("conditional", "global_local"):
            return None
        behind_merger = self.position == "conditional" and self.merger != "none"
        return self.placement or ("before" if behind_merger else "trunk")

    @property
    def whole_blocks(self) -> tuple[int, ...]:
        """The blocks whose attention is global, counted from 0."""
        if not self.window:
            return tuple(range(self.depth))
        return usual_global_blocks(self.depth) if self.global_blocks is None else self.global_blocks

    @property
    def keeps_shape(self) -> bool:
        """Whether the final grid has the image's shape at every size: cells are fixed, or nothing merges."""
        return self.merger == "none" or self.cells in ("1x1", "2x2")

    @property
    def stride(self) -> int:
        """Pixels per token of the final grid, where it keeps the image's shape."""
        return self.patch_size * (2 if self.merger != "none" and self.cells == "2x2" else 1)

    def final_grid(self, size: Grid) -> Grid:
        """What an image of `size` = (rows, cols) patches is merged to, where its grid is not as long as the image.

        Patches and not pixels: what completes the last ones is part of what is merged.
        """
        return self.grid if self.grid_shape == "fixed" else aspect_grid(size, math.prod(self.grid))

    @property
    def most_tokens(self) -> int:
        """No `final_grid` has more tokens."""
        area = math.prod(self.grid)
        return area if self.grid_shape == "fixed" else most_tokens(area)

    def plan(self, size: Grid) -> MergePlan:
        """The merge plan for a grid of patch tokens (rows, cols)."""
        if self.merger == "none":
            return MergePlan(size, ())
        if self.cells in ("1x1", "2x2"):
            cell = int(self.cells[0])
            if self.merger == "pyramid":  # completed to whole cells, so that their bases are boxes of the image
                size = -(-size[0] // cell) * cell, -(-size[1] // cell) * cell
            return MergePlan.fixed(size, cell)
        grid = self.final_grid(size)
        if self.merger == "pyramid":  # images smaller than the grid are enlarged to it
            size = max(size[0], grid[0]), max(size[1], grid[1])
        cells = self.cells or ("balanced" if self.merger == "average" else "halving")
        make = MergePlan.balanced if cells == "balanced" else MergePlan.halving
        return make(size, grid, last_pass=self.last_pass and self.merger in ("grid_attention", "pyramid"))


def idle_fields(values: Mapping[str, Any]) -> dict[str, str]:
    """Fields that are not at their default although others leave them without effect, and why."""
    table: dict[str, tuple[bool, tuple[str, ...]]] = {
        'position is not "fuzzy"': (values["position"] != "fuzzy", ("jitter",)),
        "position has no table": (values["position"] not in ("fuzzy", "learned"), ("interpolation",)),
        'position is neither "conditional" nor "global_local"': (
            values["position"] not in ("conditional", "global_local"),
            ("placement",),
        ),
        'position is not "rotary"': (values["position"] != "rotary", ("rescale",)),
        'merger is "none"': (values["merger"] == "none", ("cells", "grid_shape")),
        'merger is not "grid_attention"': (
            values["merger"] != "grid_attention",
            ("padding", "scale_query", "learned_levels"),
        ),
        'merger is not "pyramid"': (values["merger"] != "pyramid", ("full_levels",)),
        "full_levels is None": (values["full_levels"] is None, ("deep_weight",)),
        'merger is neither "grid_attention" nor "pyramid"': (
            values["merger"] not in ("grid_attention", "pyramid"),
            ("last_pass", "extra_passes", "start"),
        ),
        'merger is not "none"': (values["merger"] != "none", ("tome",)),
        "window is 0": (not values["window"], ("global_blocks",)),
        "cells are fixed": (values["cells"] in ("1x1", "2x2"), ("last_pass", "grid_shape", "full_levels")),
        'cells are "1x1"': (values["cells"] == "1x1", ("padding", "learned_levels", "scale_query")),
        "learned_levels is 0": (values["learned_levels"] == 0, ("padding", "scale_query")),
    }
    return {
        name: reason
        for reason, (applies, names) in table.items()
        for name in names
        if applies and values[name] != default_of(name, ViTARConfig)
    }


FIELDS = tuple(field.name for field in fields(ViTARConfig))


def override(preset: ViTARConfig, overrides: Mapping[str, Any], name: str) -> ViTARConfig:
    """A named model's configuration with some fields replaced; what that leaves without effect goes to its default.

    Raises:
        ValueError: unknown field (the nearest names are suggested), or an impossible value.
    """
    for key in overrides:
        if key not in FIELDS:
            raise unknown(f"option of {name}", key, FIELDS)
    values = {field: getattr(preset, field) for field in FIELDS} | dict(overrides)
    kept = {key: value for key, value in values.items() if key in overrides or key not in idle_fields(values)}
    return ViTARConfig(**kept)
