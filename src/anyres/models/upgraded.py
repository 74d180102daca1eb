"""Any plain ViT as a model for images of any size, with exactly the answers that it had.

The old patch embedding, prefix tokens, blocks, norms and pooling are timm's own modules. Before them stands the pyramid
merger, whose final grid is the ViT's own and whose output projections start at zero: until it is trained, a cell is its
base, the patch of the image resized to the ViT's own size, and the model is "resize, then the old ViT" at every size.
Training can only add detail to that. Resizing is what the pyramid does (`layers.averaged`): the last patches are
completed by repeating the edge, then area means from level to level of the plan; fewer pixels are enlarged bilinearly.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import timm.layers
import torch
import torch.nn.functional as F
from timm.models import checkpoint, vision_transformer as timm_vit
from torch import Tensor, nn

from anyres.layers.merge_plan import MergePlan
from anyres.layers.places import Places
from anyres.layers.pyramid_merger import PyramidMerger
from anyres.models.bases import embed
from anyres.models.features import Features
from anyres.models.trunk import Trunk
from anyres.models.upgraded_config import UpgradedConfig
from anyres.models.vitar import ViTAR


class UpgradedViT(ViTAR):
    """A `ViTAR` with trunk and pooling of timm's `VisionTransformer`; `Features.pooled` is what its head reads.

    Use `anyres.upgrade` to make one with the weights of a ViT.
    """

    config: UpgradedConfig
    pooling: "Pooling"
    is_vit_frozen = False

    def make_trunk(self) -> Trunk:
        vit = make_vit(self.config)
        self.pooling = Pooling(vit)
        return UpgradedTrunk(vit)

    @property
    def like(self) -> Tensor:
        return next(self.trunk.parameters())  # some have no final norm

    @property
    def has_pieces(self) -> bool:
        return self.config.base_filter == "area"

    def _patches(self, images: Tensor, jitter_keys: Tensor | None) -> tuple[Tensor, MergePlan, list[Tensor]]:
        tokens, plan, bases = super()._patches(images, jitter_keys)
        if self.config.base_filter == "bicubic":
            own = F.interpolate(images.float(), self.config.own_size, mode="bicubic", antialias=True)
            base = embed(self, own.to(images.dtype), jitter_keys)
            bases = [
                base if level.output_grid == plan.grid else each for level, each in zip(plan.levels, bases, strict=True)
            ]
        return tokens, plan, bases

    def features_of(self, tokens: Any, prefix: Tensor, plan: MergePlan | Sequence[MergePlan]) -> Features:
        """The same for one batch of grid tokens or a list of them, whose grids are all alike."""
        found = Features.of(tokens, prefix, plan, self.config.pool)
        grid = tokens if isinstance(tokens, Tensor) else torch.stack(list(tokens))
        pooled = self.pooling(torch.cat([prefix, grid.flatten(1, 2)], dim=1))
        return Features(found.tokens, pooled, found.prefix, found.plan)

    def set_levels(self, full_levels: int | None, deep_weight: float) -> None:
        """How much deep levels of a pyramid count, see `ViTARConfig`."""
        self.config = replace(self.config, full_levels=full_levels, deep_weight=deep_weight)
        if isinstance(self.merger, PyramidMerger):
            self.merger.full_levels, self.merger.deep_weight = full_levels, deep_weight

    def freeze_vit(self, enable: bool = True) -> None:
        """Leaves merger and head alone to be learned: the old ViT gets no gradient and stays in evaluation."""
        self.is_vit_frozen = enable
        for part in self._vit_parts():
            part.requires_grad_(not enable)
        self.train(self.training)

    def train(self, mode: bool = True) -> "UpgradedViT":
        super().train(mode)
        if self.is_vit_frozen:
            for part in self._vit_parts():
                part.eval()
        return self

    def _vit_parts(self) -> list[nn.Module]:
        return [self.stem, self.position, self.trunk, self.pooling]

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh head for `num_classes` classes (0: none). ValueError for another pooling than the ViT's own."""
        if global_pool not in (None, self.config.vit["global_pool"]):
            raise ValueError(
                f"global_pool is {global_pool!r}; allowed: None, since the pooling is that of the old ViT, "
                f"{self.config.vit['global_pool']!r}."
            )
        super().reset_classifier(num_classes)


class UpgradedTrunk(Trunk):
    """Prefix tokens, the norm before the blocks, blocks and final norm of a timm ViT."""

    def __init__(self, vit: timm_vit.VisionTransformer) -> None:
        nn.Module.__init__(self)
        self.num_prefix_tokens = vit.num_prefix_tokens
        self.grad_checkpointing, self.rotary, self.needs_grid = False, None, False
        prefix = nn.Parameter(torch.empty(vit.num_prefix_tokens, vit.embed_dim)) if vit.num_prefix_tokens else None
        self.register_parameter("prefix", prefix)  # (P, D), with their positions
        self.dropout, self.norm_pre = vit.pos_drop, vit.norm_pre
        self.blocks = nn.ModuleList(vit.blocks)
        self.norm: nn.Module = vit.norm  # type: ignore[assignment]

    def with_prefix(self, x: Tensor) -> Tensor:
        return self.norm_pre(self.dropout(super().with_prefix(x)))

    def _run(self, block: nn.Module, x: Tensor, places: Places) -> tuple[Tensor, Places]:
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, x, places.mask), places
        return block(x, places.mask), places


class Pooling(nn.Module):
    """Tokens (B, P + N, D) -> what the head of a timm ViT reads, (B, D)."""

    def __init__(self, vit: timm_vit.VisionTransformer) -> None:
        super().__init__()
        self.kind, self.num_prefix_tokens = vit.global_pool, vit.num_prefix_tokens
        self.is_of_all = vit.pool_include_prefix
        self.attn_pool, self.fc_norm, self.head_drop = vit.attn_pool, vit.fc_norm, vit.head_drop

    def forward(self, x: Tensor) -> Tensor:
        if self.attn_pool is None:
            x = timm.layers.global_pool_nlc(
                x, self.kind, num_prefix_tokens=self.num_prefix_tokens, reduce_include_prefix=self.is_of_all
            )
        else:
            x = self.attn_pool(x if self.is_of_all else x[:, self.num_prefix_tokens :])
        return self.head_drop(self.fc_norm(x))


def make_vit(config: UpgradedConfig) -> timm_vit.VisionTransformer:
    """timm's model of a configuration, without weights and without a classifier."""
    given = dict(config.vit)
    norm = partial(_named(given.pop("norm")), eps=given.pop("norm_eps"))
    act = partial(_named(given.pop("act")), **given.pop("act_options", {}))
    mlp: Any = partial(_named(given.pop("mlp")), **given.pop("mlp_options", {}))
    return timm_vit.VisionTransformer(
        img_size=config.own_size, patch_size=config.patch_size, in_chans=config.in_channels, num_classes=0,
        embed_dim=config.width, depth=config.depth, num_heads=config.heads, norm_layer=norm, act_layer=act,
        mlp_layer=mlp, drop_path_rate=config.drop_path_rate, **given,
    )  # fmt: skip


def _named(name: str) -> Any:
    """A layer of timm or torch by its name. ValueError for what is none."""
    for place in (nn, timm.layers):
        found = getattr(place, str(name), None)
        if isinstance(found, type) and issubclass(found, nn.Module):
            return found
    raise ValueError(f"{name!r} is no layer of timm or torch.")
