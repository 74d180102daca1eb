"""The configuration of a masked auto-encoder: its encoder, its decoder, what is hidden and what is to be restored."""

from dataclasses import dataclass
from typing import Literal, get_args

from anyres.errors import check_choice
from anyres.layers.merge_plan import MergePlan, token_grid
from anyres.layers.options import visible_count
from anyres.models.config import Position, ViTARConfig
from anyres.sizes import Size

Masking = Literal["cells", "patches"]

_POSITIONS = ("fuzzy", "learned", "sincos", "rotary", "none")
_MERGERS = ("grid_attention", "pyramid", "none")


@dataclass(frozen=True, kw_only=True)
class MAEConfig:
    """Everything that defines a masked auto-encoder; the decoder's defaults are those of MAE (arXiv 2111.06377)."""

    backbone: ViTARConfig
    """The model that is pre-trained; its head is left out."""
    decoder_width: int = 512
    """Length of a token in the decoder."""
    decoder_depth: int = 8
    """Number of transformer blocks in the decoder."""
    decoder_heads: int = 16
    """Attention heads of the decoder; must divide its width."""
    mask_ratio: float = 0.75
    """Share of each image that is hidden."""
    masking: Masking = "cells"
    """What is hidden: whole cells of the final grid, or "patches" anywhere, which then are missing inside the cells. An
    ablation: where cells hold many patches hardly a cell is hidden, so the trunk sees nearly all of the image."""
    large_target: bool = False
    """Where every cell holds 2x2 patches or more (from 448 pixels), restores a square of twice the patch's side."""
    norm_target: bool = True
    """Restores pixels normalised to the mean and deviation of their own cell."""

    def __post_init__(self) -> None:
        check_choice("masking", self.masking, get_args(Masking))
        for name in ("decoder_width", "decoder_depth", "decoder_heads"):
            given = getattr(self, name)
            if isinstance(given, bool) or not isinstance(given, int) or given < 1:
                raise ValueError(f"{name} is {given!r}; it must be a whole number from 1 up.")
        if self.decoder_width % 4 or self.decoder_width % self.decoder_heads:
            raise ValueError(
                f"decoder_width is {self.decoder_width}, decoder_heads is {self.decoder_heads}; the width must be "
                "divisible by 4 and by the heads."
            )
        for name in ("large_target", "norm_target"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: True, False.")
        if isinstance(self.mask_ratio, bool) or not isinstance(self.mask_ratio, int | float):
            raise ValueError(f"mask_ratio is {self.mask_ratio!r}; it must be a number, such as 0.75.")
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio is {self.mask_ratio}; allowed: above 0 and below 1, such as 0.75.")
        if self.backbone.merger == "none":
            for name, default in (("masking", "cells"), ("large_target", False)):
                if getattr(self, name) != default:
                    raise ValueError(f'{name}={getattr(self, name)!r} has no effect because merger is "none".')
        self._check_backbone()

    def _check_backbone(self) -> None:
        """What is hidden must not be seen through its neighbours, and the trunk gets tokens that form no grid."""
        backbone = self.backbone
        leaks = "looks beyond its own patch, so that hidden cells would leak into visible ones"
        if backbone.stem != "patch":
            raise ValueError(f'stem is "{backbone.stem}", which {leaks}; allowed in pre-training: stem="patch".')
        if backbone.position not in _POSITIONS:
            check_choice("position", backbone.position, get_args(Position))
            local = backbone.position in ("conditional", "global_local")
            reason = leaks if local else "needs the whole grid in the trunk, which sees visible cells only"
            allowed = ", ".join(_POSITIONS)
            raise ValueError(f'position is "{backbone.position}", which {reason}; allowed in pre-training: {allowed}.')
        if backbone.merger not in _MERGERS:
            allowed = ", ".join(_MERGERS)
            raise ValueError(f'merger is "{backbone.merger}"; allowed in pre-training: {allowed}.')
        if backbone.merger == "pyramid" and self.masking == "patches":
            raise ValueError(
                'masking is "patches" and merger is "pyramid", whose bases are averages over all patches of a cell, so '
                'that hidden ones would be seen; allowed with a pyramid: masking="cells".'
            )
        if backbone.padding != "masked":
            raise ValueError(f'padding is "{backbone.padding}"; allowed in pre-training: masked.')
        if backbone.pool != "mean":
            raise ValueError(f'pool is "{backbone.pool}", which has no effect in pre-training; leave it out.')
        if backbone.tome:
            raise ValueError(f"tome is {backbone.tome}; allowed in pre-training: 0, since merged tokens have no place.")
        if backbone.window:
            raise ValueError(
                f"window is {backbone.window}; allowed in pre-training: 0, since visible cells form no grid."
            )

    def visible(self, height: int, width: int) -> int:
        """How many final cells (with masking "patches": how many patches) of an image of this size stay visible.

        Raises:
            ValueError: fewer than four cells, or none that stays visible or none that is hidden.
        """
        plan = self.plan(height, width)
        try:
            visible_count(plan.grid, self.mask_ratio)
            return visible_count(plan.size if self.masking == "patches" else plan.grid, self.mask_ratio)
        except ValueError as error:
            raise ValueError(f"at {height}x{width} pixels {error}") from None

    def seen(self, height: int, width: int) -> Size:
        """(height, width) in pixels that an image is brought to before a part of it is hidden.

        A pyramid looks at averages of the whole image, and only where every level halves do these stay inside the
        cells. So both sides become 2^k times those of a final grid, the nearest in ratio and never less than it; with
        `grid_shape` "aspect" as often for both, which keeps the shape.
        """
        backbone, patch = self.backbone, self.backbone.patch_size
        if backbone.merger != "pyramid" or backbone.keeps_shape:
            return height, width
        grid = backbone.final_grid(token_grid(height, width, patch))  # which is also that of an image of its shape
        rows, cols = grid[0] * patch, grid[1] * patch
        if backbone.grid_shape == "aspect":
            times = _nearest_power(height * width, rows * cols)
            return rows * times, cols * times
        return rows * _nearest_power(height**2, rows**2), cols * _nearest_power(width**2, cols**2)

    def plan(self, height: int, width: int) -> MergePlan:
        """How the patches of an image of this many pixels are merged, once it is as it is `seen`."""
        return self.backbone.plan(token_grid(*self.seen(height, width), self.backbone.patch_size))

    def side(self, plan: MergePlan) -> int:
        """Side in pixels of the square that is restored of each final cell of a plan."""
        patch = self.backbone.patch_size
        (rows, cols), (cell_rows, cell_cols) = plan.size, plan.grid
        return 2 * patch if self.large_target and rows >= 2 * cell_rows and cols >= 2 * cell_cols else patch


def _nearest_power(area: int, own: int) -> int:
    """The power of two, at least 1, that is nearest in ratio to sqrt(area / own)."""
    times = 1
    while area >= 2 * own * times**2:
        times *= 2
    return times
