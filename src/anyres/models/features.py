"""What a model knows of its images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anyres.layers.merge_plan import MergePlan
from anyres.models.config import Pool


@dataclass(frozen=True)
class Features:
    """What a model knows of its images. For a list of images `tokens` and `plan` are lists, one entry an image."""

    tokens: Tensor | list[Tensor]
    """Grid tokens after trunk and final norm: (B, rows, cols, D), or a list of (rows_i, cols_i, D)."""
    pooled: Tensor
    """(B, D): the mean of the grid tokens, or the class token."""
    prefix: Tensor
    """Prefix tokens after trunk and final norm: (B, P, D)."""
    plan: MergePlan | list[MergePlan]
    """How the patches were merged."""
    counts: Tensor | None = None
    """Where patches were skipped (`anyres.stream`): how many were not, in each final cell, (rows, cols)."""

    @classmethod
    def of(cls, tokens: Any, prefix: Tensor, plan: MergePlan | Sequence[MergePlan], pool: Pool) -> "Features":
        """Of what leaves the trunk: one batch of grid tokens, or a list of them with their plans."""
        if pool == "token":
            pooled = prefix[:, 0]
        elif isinstance(tokens, Tensor):
            pooled = tokens.mean((1, 2))
        else:
            pooled = torch.stack([grid.mean((0, 1)) for grid in tokens])
        return cls(tokens, pooled, prefix, plan if isinstance(plan, MergePlan) else list(plan))
