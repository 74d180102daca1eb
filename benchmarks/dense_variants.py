"""What `dense.py` compares, as data: backbones under Mask R-CNN and UperNet, and light heads on a merged grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Task = Literal["detection", "segmentation", "unmerge"]
"""The last is segmentation too, with a light head in place of UperNet."""

_PLAIN = {"merger": "none", "position": "learned"}
PATCHES, GLOBAL_BLOCKS = "(the patches of a side)", "(the blocks with global attention)"
"""Values of options that follow from the scale."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of the table."""

    task: Task
    name: str
    text: str
    """What it is, in a line."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Changes to the model beyond those that all variants of the task share."""
    cells: int = 1
    """Patches along one side of a cell that the trunk gets as one token."""
    equal_to: str | None = None
    """Shallower and narrower, so that it costs as many multiply-accumulates as the variant of this name."""

    @property
    def label(self) -> str:
        return f"{self.task}-{self.name}"


def _backbones(task: Task) -> tuple[Variant, ...]:
    return (
        Variant(
            task=task, name="vitar-1x1", text="ViTAR, cells of 1x1 patches: nothing is merged", options={"cells": "1x1"}
        ),
        Variant(
            task=task, name="rotary-1x1", text="the same with rotary positions in the trunk, not fuzzy ones",
            options={"cells": "1x1", "position": "rotary"},
        ),
        Variant(
            task=task, name="vitar-2x2", text="ViTAR, cells of 2x2 patches: a quarter of the tokens", cells=2,
            options={"cells": "2x2"},
        ),
        Variant(
            task=task, name="rotary-2x2", text="the same with rotary positions in the trunk, not fuzzy ones", cells=2,
            options={"cells": "2x2", "position": "rotary"},
        ),
        Variant(
            task=task, name="anyres-2x2", text="and every cell also seen from afar (merger pyramid)", cells=2,
            options={"cells": "2x2", "position": "rotary", "merger": "pyramid"},
        ),
        Variant(task=task, name="vit", text="an ordinary ViT, learned positions, global attention", options=_PLAIN),
        Variant(
            task=task, name="vitdet", text="the same, attention in windows of 6 tokens but for two blocks of six",
            options={**_PLAIN, "window": 6, "global_blocks": GLOBAL_BLOCKS},
        ),
        Variant(
            task=task, name="resformer", text="ResFormer: global-local positions, global attention",
            options={"merger": "none", "position": "global_local"},
        ),
    )  # fmt: skip


def _light(side: int) -> tuple[Variant, ...]:
    def made(name: str, text: str, **options: Any) -> Variant:
        changes = {"grid": (side, side), **options}
        return Variant(task="unmerge", name=f"{name}-{side}", text=f"{side}x{side} grid, {text}", options=changes)

    return (
        made("unmerge", "its cell's output back to each patch, and a skip", decoder="unmerge"),
        made("unmerge-near", "the same, and the 3x3 nearest grid tokens", decoder="unmerge", neighbours=True),
        made(
            "anyres", "with the skip, every cell also seen from afar (merger pyramid), rotary positions",
            decoder="unmerge", merger="pyramid", position="rotary",
        ),
        made("unmerge-alone", "without the skip", decoder="unmerge", skip=False),
        made("bilinear", "bilinear upsampling of the grid, and a skip", decoder="bilinear"),
        made("bilinear-alone", "without the skip", decoder="bilinear", skip=False),
        Variant(
            task="unmerge", name=f"plain-{side}", equal_to=f"unmerge-{side}",
            text=f"no merging, shallower and narrower: costs what unmerge-{side} does",
            options={**_PLAIN, "grid": PATCHES, "decoder": "bilinear"},
        ),
    )  # fmt: skip


VARIANTS: tuple[Variant, ...] = (*_backbones("detection"), *_backbones("segmentation"), *_light(8), *_light(16))
