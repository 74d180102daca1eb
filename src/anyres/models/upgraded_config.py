"""The configuration of a plain ViT that was made a model for any size (`anyres.upgrade`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from anyres.models.config import ViTARConfig


@dataclass(frozen=True, kw_only=True)
class UpgradedConfig(ViTARConfig):
    """That of a ViTAR, of which `grid` is the ViT's own, and what its blocks, prefix tokens and pooling are."""

    vit: Mapping[str, Any] = field(hash=False)
    """Arguments of timm's `VisionTransformer` beyond the fields of a `ViTARConfig`; classes by their names."""
    source: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Where it comes from, as far as timm knows: architecture, and input size, interpolation and crop of its data."""

    @property
    def own_size(self) -> tuple[int, int]:
        """(height, width) in pixels at which it is the old model, patch for patch."""
        return self.grid[0] * self.patch_size, self.grid[1] * self.patch_size
