"""The printed numbers of the ViTAR paper (arXiv 2403.18361v2) that a report puts beside its own.

Costs are multiply-accumulates in 1e9 per image, as printed (rounded to a whole number); accuracy is ImageNet-1k top-1
in percent. `None` stands where the paper prints a dash or "OOM".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

SOURCE = "ViTAR, arXiv 2403.18361v2, Table 1"

RESOLUTIONS: tuple[int, ...] = (224, 448, 512, 640, 896, 1120, 1792, 2240, 2800, 3360, 4032)


@dataclass(frozen=True, kw_only=True)
class PaperModel:
    """One model of Table 1.

    `preset` is the model of this project whose cost in the paper's convention is to be held against the printed one,
    or None; the column printed for DeiT is ResFormer's cost, to the digit. `giga_macs` and `top1` have one entry per
    side of `RESOLUTIONS`; `giga_macs` is None where no costs are printed.
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
        preset="resformer_small_patch16",
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
        preset="resformer_base_patch16",
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


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A table of ImageNet-1k top-1 in percent: name of a row -> one entry per side of `resolutions`."""

    title: str
    resolutions: tuple[int, ...]
    rows: Mapping[str, tuple[float | None, ...]]

    def row(self, name: str) -> dict[int, float | None]:
        """Side in pixels -> printed accuracy. KeyError for a row that the table does not have."""
        return dict(zip(self.resolutions, self.rows[name], strict=True))


TABLE_1_SMALL = PaperTable(
    title="Table 1, size S, trained on 224, 448, 672, 896, 1120 (ViTAR), 224 (DeiT), 128, 160, 224 (ResFormer)",
    resolutions=RESOLUTIONS,
    rows={model.title: model.top1 for model in TABLE_1 if model.size == "S"},
)
TABLE_6 = PaperTable(
    title="Tables 6 and 8, pre-trained by MAE for 300 epochs (ViT: 1600), fine-tuned for 100, size B",
    resolutions=(224, 448, 1120, 2240, 4032),
    rows={
        "ViT + MAE": (83.6, 77.5, 38.6, None, None),
        "ViTAR + MAE (FPE)": (82.5, 83.3, 83.5, 83.3, 82.0),
        "ViTAR + MAE (APE)": (82.0, 82.5, 82.5, 80.6, 77.4),
    },
)
TABLE_7 = PaperTable(
    title="Table 7, mergers, size S",
    resolutions=(224, 448, 896, 1120, 2240, 4032),
    rows={
        "average pooling": (79.8, 80.1, 79.6, 79.7, 76.3, 71.0),
        "adaptive token merger": (80.3, 82.6, 83.0, 83.1, 82.3, 78.6),
    },
)
TABLE_8 = PaperTable(
    title="Table 8, positional encodings, size S",
    resolutions=(224, 448, 1120, 2240, 4032),
    rows={
        "sin-cos absolute (APE)": (80.0, 81.5, 81.2, 76.1, 70.6),
        "conditional (CPE)": (80.4, 81.8, 81.6, 78.2, 72.0),
        "relative bias (RPB)": (80.3, 81.6, 81.2, 75.8, 69.8),
        "global-local (GLPE)": (80.8, 82.5, 82.8, 80.0, 74.1),
        "fuzzy (FPE)": (80.3, 82.6, 83.1, 82.3, 78.6),
    },
)
TABLE_9 = PaperTable(
    title="Table 9, training resolutions, size S",
    resolutions=(224, 448, 1120, 2240, 4032),
    rows={
        "224, 448, 672, 896, 1120": (80.3, 82.6, 83.1, 82.3, 78.6),
        "224, 448, 672, 896": (80.4, 82.6, 83.1, 82.1, 78.0),
        "224, 448, 672": (80.6, 82.6, 83.3, 81.6, 76.8),
        "224, 448": (80.7, 82.8, 82.2, 80.2, 73.7),
    },
)
