"""Every classifier of anyres in timm's registry, for `timm.create_model` and scripts that are written for timm.

    import timm
    import anyres.integrations.timm  # registers them

    model = timm.create_model("anyres_base_patch16", num_classes=10)
    maps = timm.create_model("anyres_base_patch16", features_only=True)  # gives (B, D, H / 16, W / 16) for each block

They have the parameters, names and answers of `anyres.create_model`, so that weights go from one to the other.
`forward_features` gives a tensor here, as everywhere in timm. There are no published weights yet to download.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from anyres.models.architectures import VITAR
from anyres.models.config import ViTARConfig
from anyres.models.features import Features
from anyres.models.images import Images
from anyres.models.presets import CLASSIFIERS
from anyres.models.vitar import ViTAR

_POOLS = {"avg": "mean", "token": "token", "": "mean"}


class TimmViTAR(ViTAR):
    """A `ViTAR` with timm's conventions: `forward_features` gives all tokens, (B, P + N, D), prefix tokens first.

    Args:
        config: of the model.
        drop_rate: dropout before the classifier, in training.
        pooled: False leaves the tokens unpooled (timm's `global_pool=""`).
    """

    def __init__(self, config: ViTARConfig, drop_rate: float = 0.0, pooled: bool = True) -> None:
        super().__init__(config)
        self.head_drop = nn.Dropout(drop_rate)
        self.is_pooled = pooled
        self.feature_info = [
            {"module": f"trunk.blocks.{index}", "num_chs": config.width, "reduction": config.stride}
            for index in range(config.depth)
        ]

    def forward_features(self, images: Tensor, jitter_keys: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """(B, P + N, D) after the final norm: prefix tokens, and the merged grid row by row."""
        return _tokens(super().forward_features(images, jitter_keys))

    def forward(self, images: Images, jitter_keys: Tensor | None = None) -> Tensor:
        """Logits (B, num_classes) of (B, C, H, W), or of a list of (C, H_i, W_i)."""
        if isinstance(images, Tensor):
            return self.forward_head(self.forward_features(images, jitter_keys))
        if not self.is_pooled:
            raise ValueError('global_pool is "", but tokens of a list of sizes are no tensor; give one (B, C, H, W).')
        return self.head(self.head_drop(ViTAR.forward_features(self, images, jitter_keys).pooled))

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:  # type: ignore[override]
        """Logits (B, num_classes) of what `forward_features` gave, or with `pre_logits` the pooled (B, D)."""
        pooled = features
        if self.is_pooled:
            is_token = self.config.pool == "token"
            pooled = features[:, 0] if is_token else features[:, self.num_prefix_tokens :].mean(1)
        pooled = self.head_drop(pooled)
        return pooled if pre_logits else self.head(pooled)

    def forward_intermediates(self, images: Tensor, *args: Any, **options: Any) -> Any:
        """As `ViTAR.forward_intermediates`, with what `forward_features` gives in front of the list."""
        found = super().forward_intermediates(images, *args, **options)
        return found if isinstance(found, list) else (_tokens(found[0]), found[1])

    @property
    def like(self) -> Tensor:
        return next(self.trunk.blocks.parameters())  # the final norm can be pruned

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Removes blocks behind the last one of `indices`, and norm and head if told to. Gives the indices from 0."""
        taken, last = self.trunk.choose(indices, stop_early=True)
        self.trunk.blocks = self.trunk.blocks[: last + 1]
        self.config = replace(self.config, depth=last + 1)
        if prune_norm:
            self.trunk.norm = nn.Identity()  # type: ignore[assignment]
        if prune_head:
            self.reset_classifier(0, "")
        return taken

    def reset_classifier(
        self, num_classes: int, global_pool: Literal["mean", "avg", "token", ""] | None = None
    ) -> None:
        """A fresh head; `global_pool` "" leaves the tokens unpooled."""
        if global_pool is not None:
            self.is_pooled = global_pool != ""
        super().reset_classifier(num_classes, global_pool or None)


def _tokens(features: Features) -> Tensor:
    if not isinstance(features.tokens, Tensor):
        raise ValueError(
            "forward_features takes one (B, C, H, W) tensor in timm's models; for a list of sizes call the model "
            "itself, or use anyres.create_model, which has the same weights."
        )
    return torch.cat([features.prefix, features.tokens.flatten(1, 2)], dim=1)


def _make(
    name: str,
    in_chans: int = 3,
    drop_rate: float = 0.0,
    global_pool: str | None = None,
    is_for_maps: bool = False,
    **options: Any,
) -> TimmViTAR:
    """The model of a name with timm's arguments, or any that `anyres.create_model` takes."""
    if is_for_maps and CLASSIFIERS[name].merger != "none":  # a grid with the shape of the image
        options = {"cells": "1x1", **options}
    if global_pool is not None:
        if global_pool not in _POOLS:
            raise ValueError(f"global_pool is {global_pool!r}; allowed: {', '.join(map(repr, _POOLS))}")
        options["pool"] = _POOLS[global_pool]
    config = VITAR.get_config(name, in_channels=in_chans, **options)
    if is_for_maps and not config.keeps_shape:
        raise ValueError(
            f"features_only asks for maps with as many pixels a token at every size, but cells are {config.cells!r}; "
            'allowed: cells="1x1" (the default) or "2x2"'
        )
    return TimmViTAR(config, drop_rate, pooled=global_pool != "")


def _entry(name: str) -> Callable[..., nn.Module]:
    def create(pretrained: bool = False, **options: Any) -> nn.Module:
        is_for_maps = bool(options.get("features_only"))
        make = partial(_make, name, is_for_maps=is_for_maps)
        features = {"out_indices": 3, "feature_cls": "getter"}
        return build_model_with_cfg(make, name, pretrained, feature_cfg=features, **options)

    create.__name__ = create.__qualname__ = name
    create.__module__ = __name__
    create.__doc__ = f"`anyres.create_model({name!r})` with timm's arguments."
    return create


def _default_cfg(config: ViTARConfig) -> dict[str, Any]:
    """What timm's data pipeline reads; the input size is only what its scripts take if none is given."""
    return {
        "url": "", "num_classes": config.num_classes, "input_size": (3, 224, 224), "pool_size": None,
        "crop_pct": 0.875, "interpolation": "bicubic", "mean": config.mean, "std": config.std,
        "fixed_input_size": False, "first_conv": "stem.proj" if config.stem == "patch" else "stem.convs.0",
        "classifier": "head",
    }  # fmt: skip


default_cfgs = generate_default_cfgs({name: _default_cfg(config) for name, config in CLASSIFIERS.items()})
for _name in CLASSIFIERS:
    globals()[_name] = register_model(_entry(_name))
