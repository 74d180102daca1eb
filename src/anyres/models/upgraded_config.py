"""The configuration of a plain ViT that was made a model for any size (`anyres.upgrade`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from anyres.errors import check_choice
from anyres.models.config import ViTARConfig

# what `vit` holds
REQUIRED = {
    "mlp", "mlp_ratio", "act", "norm", "norm_eps", "qkv_bias", "proj_bias", "qk_norm", "scale_attn_norm",
    "scale_mlp_norm", "init_values", "class_token", "reg_tokens", "pre_norm", "final_norm", "fc_norm", "global_pool",
    "pool_include_prefix",
}  # fmt: skip
OPTIONAL = {"act_options", "mlp_options"}
BaseFilter = Literal["area", "bicubic"]


@dataclass(frozen=True, kw_only=True)
class UpgradedConfig(ViTARConfig):
    """That of a ViTAR, of which `grid` is the ViT's own, and what its blocks, prefix tokens and pooling are."""

    vit: Mapping[str, Any] = field(hash=False)
    """Arguments of timm's `VisionTransformer` beyond the fields of a `ViTARConfig`; classes by their names."""
    source: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Where it comes from, as far as timm knows: architecture, and input size, interpolation and crop of its data."""

    base_filter: BaseFilter = "area"
    """How the image is resized to the ViT's own size for the base of the final cells. "area": means, as everywhere in
    the pyramid. "bicubic": bicubic with antialiasing, as most ViTs had their images; then nothing merges in pieces."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.vit, Mapping) or set(self.vit) - OPTIONAL != REQUIRED:
            raise ValueError(f"vit is {self.vit!r:.200}; needed are {', '.join(sorted(REQUIRED))}.")
        for name in ("vit", "source"):  # lists of JSON
            plain = {key: tuple(v) if isinstance(v, list) else v for key, v in getattr(self, name).items()}
            object.__setattr__(self, name, plain)
        check_choice("base_filter", self.base_filter, get_args(BaseFilter))
        if self.base_filter != "area" and self.merger != "pyramid":
            raise ValueError(
                f"base_filter={self.base_filter!r} has no effect because there is no base; leave it out, or give "
                'start="resized".'
            )

    @property
    def own_size(self) -> tuple[int, int]:
        """(height, width) in pixels at which it is the old model, patch for patch."""
        return self.grid[0] * self.patch_size, self.grid[1] * self.patch_size
