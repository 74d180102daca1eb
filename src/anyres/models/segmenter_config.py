"""The configuration of a segmenter: its backbone and what makes labels of pixels from it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from anyres.errors import check_choice
from anyres.layers.options import doublings
from anyres.models.config import ViTARConfig
from anyres.settings import default_of

Decoder = Literal["upernet", "unmerge", "bilinear"]


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig:
    """Everything that defines a segmenter. The head's defaults are those of UperNet on BEiT and DeiT."""

    backbone: ViTARConfig
    """A ViTAR; for "upernet" with cells of "1x1" or "2x2" patches or without a merger. Its own head is left out."""
    num_classes: int = 150
    """Classes to tell apart; ADE20K has 150."""
    decoder: Decoder = "upernet"
    """"upernet": four maps of the trunk under UperNet; "unmerge": the final cells' tokens, whatever the cells, carried
    back to every patch (`layers.unmerge`) under a light head; "bilinear": the same head on the grid's plain
    interpolation. The last two are not in the paper."""
    skip: bool = True
    """"unmerge" and "bilinear": patches also get what they were before merging."""
    neighbours: bool = False
    """"unmerge": patches also attend to the 3x3 nearest cells."""
    taps: tuple[int, ...] = (2, 5, 8, 11)
    """Blocks of the trunk, counted from 0, whose outputs the head reads; the first becomes the finest map."""
    scales: tuple[float, ...] = (4, 2, 1, 0.5)
    """Size of each map relative to the backbone's; with cells of "2x2", (8, 4, 2, 1) keeps strides of 4 to 32."""
    head_channels: int = 512
    """Channels of the head."""
    auxiliary_channels: int = 256
    """Channels of the auxiliary head, which helps training; 0 leaves it out."""
    auxiliary_tap: int = 2
    """Which of the maps the auxiliary head reads, counted from 0."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "backbone", replace(self.backbone, num_classes=0))
        lowest = {"num_classes": 2, "head_channels": 1, "auxiliary_channels": 0, "auxiliary_tap": 0}
        for name, least in lowest.items():
            given = getattr(self, name)
            if isinstance(given, bool) or not isinstance(given, int) or given < least:
                raise ValueError(f"{name} is {given!r}; it must be a whole number from {least} up.")
        for name in ("taps", "scales"):
            if not isinstance(getattr(self, name), Sequence):
                near = default_of(name, SegmenterConfig)
                raise ValueError(f"{name} is {getattr(self, name)!r}; give a tuple of numbers, such as {near}.")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_choice("decoder", self.decoder, get_args(Decoder))
        for name in ("skip", "neighbours"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: True, False.")
        self._check_idle()
        if self.backbone.in_channels not in (1, 3):
            raise ValueError(f"in_channels is {self.backbone.in_channels}; image files have 1 or 3.")
        if self.decoder != "upernet":
            object.__setattr__(self, "auxiliary_channels", 0)
            return
        self._check_taps()
        if not self.backbone.keeps_shape:
            raise ValueError(
                f"cells are {self.backbone.cells!r}, whose grid does not keep the image's shape; allowed in "
                'segmentation by UperNet: cells="1x1" or "2x2", or merger="none"; other cells need decoder="unmerge".'
            )

    def _check_idle(self) -> None:
        """ValueError for a setting that the decoder leaves without effect."""
        of_others = {"upernet": ("skip", "neighbours"), "bilinear": ("neighbours",)}.get(self.decoder, ())
        idle = of_others if self.decoder == "upernet" else (*of_others, "taps", "scales", "auxiliary_tap")
        for name in idle:
            if getattr(self, name) != default_of(name, SegmenterConfig):
                raise ValueError(f'{name}={getattr(self, name)!r} has no effect because decoder is "{self.decoder}".')
        usual = default_of("auxiliary_channels", SegmenterConfig)
        if self.decoder != "upernet" and self.auxiliary_channels not in (0, usual):
            raise ValueError(
                f'auxiliary_channels={self.auxiliary_channels} has no effect because decoder is "{self.decoder}".'
            )

    def _check_taps(self) -> None:
        depth, count = self.backbone.depth, len(self.taps)
        fits = count >= 2 and all(isinstance(tap, int) and 0 <= tap < depth for tap in self.taps)
        if not fits or list(self.taps) != sorted(set(self.taps)):
            nearest = sorted({max(depth * (i + 1) // 4 - 1, 0) for i in range(4)})
            raise ValueError(
                f"taps are {self.taps}; allowed: rising numbers of two or more blocks from 0 to {depth - 1}; "
                f"usual: {tuple(nearest)}."
            )
        if len(self.scales) != count:
            raise ValueError(f"scales are {self.scales} for {count} taps; give as many, the largest first.")
        for scale in self.scales:
            if isinstance(scale, bool) or not isinstance(scale, int | float):
                raise ValueError(f"scales are {self.scales}; allowed: powers of two, such as (4, 2, 1, 0.5).")
            doublings(scale)
        if list(self.scales) != sorted(self.scales, reverse=True):
            raise ValueError(f"scales are {self.scales}; the first map is the finest: give the largest scale first.")
        if self.auxiliary_tap >= count:
            raise ValueError(f"auxiliary_tap is {self.auxiliary_tap}; allowed: 0 to {count - 1}, the place of a tap.")
        if not self.auxiliary_channels and self.auxiliary_tap != default_of("auxiliary_tap", SegmenterConfig):
            raise ValueError(f"auxiliary_tap={self.auxiliary_tap} has no effect because auxiliary_channels is 0.")

    @property
    def tapped_blocks(self) -> int | None:
        """How many blocks of the trunk are run, where the last tap is what is read of it; None: all and the norm."""
        return max(self.taps) + 1 if self.decoder == "upernet" else None

    @property
    def stride(self) -> int:
        """Pixels per token of what is decoded: of the backbone's grid, or a patch where the grid is carried back."""
        return self.backbone.stride if self.decoder == "upernet" else self.backbone.patch_size
