"""The printed numbers of the ViTAR paper (arXiv 2403.18361v2) that a report puts beside its own.

Costs are multiply-accumulates in 1e9 per image, as printed (rounded to a whole number); accuracy is ImageNet-1k top-1
in percent. `None` stands where the paper prints a dash or "OOM".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SOURCE = "ViTAR, arXiv 2403.18361v2, Table 1"

RESOLUTIONS: tuple[int, ...] = (224, 448, 512, 640, 896, 1120, 1792, 2240, 2800, 3360, 4032)


@dataclass(frozen=True, kw_only=True)
class PaperModel:
    """One model of Table 1.

    `preset` is the model of this project whose cost in the paper's convention is to be held against the printed one,
    or None; `giga_macs` and `top1` have one entry per side of `RESOLUTIONS`; `giga_macs` is None where no costs are
    printed.
    """

    title: str
    size: Literal["S", "B"]
    preset: str | None
    giga_macs: tuple[int | None, ...] | None
    top1: tuple[float | None, ...]

    def printed_costs(self) -> dict[int, int]:
        """Side in pixels -> printed cost in 1e9 multiply-accumulates, without the sides that have none."""
        return {side: cost for side, cost in zip(RESOLUTIONS, self.giga_macs or (), strict=False) if cost is not None}

    def out_of_memory(self) -> tuple[int, ...]:
        """The sides at which the paper prints "OOM" instead of a cost."""
        return tuple(side for side, cost in zip(RESOLUTIONS, self.giga_macs or (), strict=False) if cost is None)


TABLE_1: tuple[PaperModel, ...] = (
    PaperModel(
        title="ViTAR-S",
        size="S",
        preset="vitar_small_conv16",
        giga_macs=(5, 6, 7, 7, 9, 13, 24, 35, 52, 72, 102),
        top1=(80.3, 82.6, 82.7, 82.7, 83.0, 83.1, 82.8, 82.3, 81.3, 80.0, 78.6),
    ),
    PaperModel(
        title="ViTAR-B",
        size="B",
        preset="vitar_base_conv16",
        giga_macs=(19, 23, 26, 29, 37, 49, 93, 137, 203, 282, 399),
        top1=(81.9, 83.2, 83.2, 83.0, 83.4, 83.3, 83.2, 82.8, 81.9, 81.3, 80.4),
    ),
    PaperModel(
        title="DeiT-S",
        size="S",
        preset="deit_small_patch16",
        giga_macs=(5, 23, 32, 58, 159, 327, 1722, 3965, None, None, None),
        top1=(79.8, 75.9, 72.6, 63.9, 41.6, 16.4, 3.5, 1.5, None, None, None),
    ),
    PaperModel(
        title="ResFormer-S",
        size="S",
        preset=None,
        giga_macs=None,
        top1=(82.2, 82.5, 82.0, 80.7, 70.8, 62.7, 30.8, 16.1, None, None, None),
    ),
    PaperModel(
        title="DeiT-B",
        size="B",
        preset="deit_base_patch16",
        giga_macs=(18, 79, 107, 184, 450, 863, 3976, None, None, None, None),
        top1=(81.8, 79.8, 78.2, 74.2, 64.2, 50.1, 29.6, None, None, None, None),
    ),
    PaperModel(
        title="ResFormer-B",
        size="B",
        preset=None,
        giga_macs=None,
        top1=(82.7, 82.9, 82.6, 81.7, 75.5, 68.6, 45.5, None, None, None, None),
    ),
)

# The two costs that only Figure 1 prints.
FIGURE_1_VITAR_B: dict[int, int] = {384: 22, 672: 30}
