"""Configurations of our models as transformers saves them: config.json."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.backbone_utils import BackboneConfigMixin

from anyres.models.architectures import ARCHITECTURES, get_config
from anyres.models.config import ViTARConfig
from anyres.models.mae_config import MAEConfig
from anyres.models.weights.record import make_config


class AnyresConfig(BackboneConfigMixin, PreTrainedConfig):
    """Configuration of a model of ours.

    Args:
        settings: fields of its `ViTARConfig` (or `UpgradedConfig`); None for those of a default model.
        architecture: "ViTAR", or "UpgradedViT" for what `anyres.upgrade` made.
        out_features, out_indices: of a backbone: which of the stages "stem" (merged tokens), "stage1", ... (blocks).
    """

    model_type = "anyres"

    def __init__(
        self,
        settings: Mapping[str, Any] | None = None,
        architecture: str = "ViTAR",
        out_features: Sequence[str] | None = None,
        out_indices: Sequence[int] | None = None,
        **options: Any,
    ) -> None:
        given = asdict(get_config("anyres_small_patch16")) if settings is None else dict(settings)
        self.settings, self.architecture = {**given, "num_classes": 0}, architecture
        backbone = self.model_config()
        self.hidden_size, self.num_hidden_layers = backbone.width, backbone.depth
        self.num_attention_heads, self.patch_size = backbone.heads, backbone.patch_size
        self.num_channels = backbone.in_channels
        self.stage_names = ["stem", *(f"stage{number}" for number in range(1, backbone.depth + 1))]
        self.set_output_features_output_indices(
            out_features=None if out_features is None else list(out_features),
            out_indices=None if out_indices is None else list(out_indices),
        )
        super().__init__(**options)

    @classmethod
    def from_name(
        cls, name: str, num_labels: int = 2, out_indices: Sequence[int] | None = None, **overrides: Any
    ) -> "AnyresConfig":
        """That of a named model, with fields of `ViTARConfig` replaced."""
        return cls(asdict(get_config(name, **overrides)), num_labels=num_labels, out_indices=out_indices)

    def model_config(self) -> ViTARConfig:
        """Of the model without a classifier."""
        if self.architecture not in ("ViTAR", "UpgradedViT"):
            raise ValueError(f"architecture is {self.architecture!r}; allowed: ViTAR, UpgradedViT.")
        return make_config(ARCHITECTURES[self.architecture], self.settings, Path("config.json").parent)


class AnyresMAEConfig(AnyresConfig):
    """Configuration of a masked auto-encoder of ours: that of its encoder, and `pretraining`.

    Args:
        settings: of the encoder, see `AnyresConfig`; None for those of mae_anyres_small_patch16.
        pretraining: fields of `MAEConfig` but for its backbone: decoder, mask_ratio, ...; the rest has defaults.
    """

    model_type = "anyres_mae"

    def __init__(
        self,
        settings: Mapping[str, Any] | None = None,
        pretraining: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        given = asdict(get_config("mae_anyres_small_patch16").backbone) if settings is None else settings
        self.pretraining = dict(pretraining or {})
        super().__init__(given, **options)

    @classmethod
    def from_name(cls, name: str, **overrides: Any) -> "AnyresMAEConfig":  # type: ignore[override]
        """That of a named model, mae_*, with fields of `MAEConfig` and `ViTARConfig` replaced."""
        return cls.of(get_config(name, **overrides))

    @classmethod
    def of(cls, config: MAEConfig) -> "AnyresMAEConfig":
        own = {each.name: getattr(config, each.name) for each in fields(config) if each.name != "backbone"}
        return cls(asdict(config.backbone), own)

    def mae_config(self) -> MAEConfig:
        """Of the model. ValueError for settings that cannot be, or that another version has."""
        known = {each.name for each in fields(MAEConfig)}
        if unknown := sorted(set(self.pretraining) - known):
            raise ValueError(f"pretraining has no {', '.join(unknown)}; allowed: {', '.join(sorted(known))}.")
        return MAEConfig(backbone=self.model_config(), **self.pretraining)
