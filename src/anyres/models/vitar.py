"""ViTAR (arXiv 2403.18361): stem, fuzzy positions, adaptive token merger, transformer trunk, head.

An ordinary ViT (DeiT) is the same class with `merger="none"`, `position="learned"` and a class token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from timm.layers import trunc_normal_
from timm.models import checkpoint
from timm.models._features import feature_take_indices
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from anyres.errors import check_choice
from anyres.layers.merge_plan import Grid, MergePlan
from anyres.layers.merging import AdaptiveTokenMerger, AveragePoolMerger, Padding
from anyres.layers.position import FuzzyPositionalEncoding, Interpolation, NoPosition
from anyres.layers.stem import ConvStem, PatchStem, token_grid

Images = Tensor | Sequence[Tensor]
Stem = Literal["patch", "conv"]
Position = Literal["fuzzy", "learned", "none"]
Merger = Literal["grid_attention", "average", "none"]
Cells = Literal["halving", "balanced", "1x1", "2x2"]
Pool = Literal["mean", "token"]


@dataclass(frozen=True, kw_only=True)
class ViTARConfig:
    """Everything that defines a model. Unknown names, impossible values and settings without effect are errors."""

    patch_size: int = 16
    """Side of a patch in pixels."""
    grid: Grid = (14, 14)
    """Rows and columns of tokens that the merger leaves, and of the position table; one number means a square."""
    width: int = 768
    """D, the length of a token."""
    depth: int = 12
    """Number of transformer blocks in the trunk."""
    heads: int = 12
    """Attention heads of trunk and merger; must divide the width."""
    mlp_ratio: float = 4.0
    """Hidden width of the feed-forward networks divided by the width."""
    in_channels: int = 3
    """Channels of an image."""
    num_classes: int = 1000
    """Number of classes; 0 leaves the head out, so that the model returns pooled features."""
    stem: Stem = "patch"
    """"patch": one linear layer, as the paper writes; "conv": convolutions, as its printed costs need."""
    position: Position = "fuzzy"
    """"fuzzy" (jittered while training), "learned" (fuzzy without jitter) or "none"."""
    jitter: float = 0.5
    """Largest fuzzy offset, in tokens of the current grid."""
    interpolation: Interpolation = "bilinear"
    """How the position table is read at other grids than its own, without jitter."""
    merger: Merger = "grid_attention"
    """"grid_attention" (the paper's), "average" (its ablation) or "none" (an ordinary ViT)."""
    cells: Cells | None = None
    """"halving" (the paper's schedule), "balanced" (equal cells), or cells of "1x1" or "2x2" patches in one pass; None
    is "halving" for grid attention and "balanced" for average pooling."""
    padding: Padding = "masked"
    """"masked": padding changes nothing; "zeros": the paper's literal zero tokens."""
    last_pass: bool = True
    """One last pass of the merger with 1x1 cells, at every resolution."""
    extra_passes: int = 0
    """While training, up to this many random extra passes with 1x1 cells, so that depth is not memorised."""
    prefix_tokens: int = 0
    """Learned tokens in front of the grid tokens; they bypass the merger. The first is the class token."""
    pool: Pool = "mean"
    """What the head reads: the mean of the grid tokens, or the first prefix token."""
    drop_path_rate: float = 0.0
    """Stochastic depth of the last trunk block; it grows linearly from 0 at the first."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Mean of each channel on a scale of 0 to 1, subtracted by whoever prepares images (ImageNet's by default)."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """Standard deviation of each channel."""

    def __post_init__(self) -> None:
        grid = (self.grid, self.grid) if isinstance(self.grid, int) else tuple(self.grid)
        object.__setattr__(self, "grid", grid)
        for name in ("mean", "std"):
            given = getattr(self, name)
            values = tuple(float(value) for value in (given if isinstance(given, Sequence) else (given,)))
            if self.in_channels != 3 and values == _default(name):  # ImageNet's fit colour images only
                values = (0.5,) * self.in_channels
            object.__setattr__(self, name, values)
        self._check_numbers()
        self._check_choices()

    def _check_numbers(self) -> None:
        for field in fields(self):
            value, default = getattr(self, field.name), field.default
            numbers = int if type(default) is int else (int, float)
            if type(default) in (int, float) and (isinstance(value, bool) or not isinstance(value, numbers)):
                kind = "whole number" if numbers is int else "number"
                raise ValueError(f"{field.name} is {value!r}; it must be a {kind}, such as {default}.")
        if len(self.grid) != 2 or not all(isinstance(side, int) and side > 0 for side in self.grid):
            raise ValueError(f"grid is {self.grid}; give one positive number or (rows, cols).")
        for name in ("patch_size", "width", "depth", "heads", "in_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("num_classes", "extra_passes", "prefix_tokens", "jitter"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more.")
        if self.width % self.heads:
            divisors = [n for n in range(1, self.width + 1) if self.width % n == 0]
            nearest = min(divisors, key=lambda n: abs(n - self.heads))
            raise ValueError(
                f"heads is {self.heads}, which does not divide the width {self.width}; nearest: {nearest}."
            )
        if self.mlp_ratio <= 0 or min(self.std) <= 0:
            raise ValueError(f"mlp_ratio is {self.mlp_ratio}, std is {self.std}; both must be above 0.")
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate is {self.drop_path_rate}; it must be at least 0 and below 1.")
        for name in ("mean", "std"):
            if len(getattr(self, name)) != self.in_channels:
                raise ValueError(f"{name} has {len(getattr(self, name))} values for {self.in_channels} channels.")

    def _check_choices(self) -> None:
        literals = {"stem": Stem, "position": Position, "merger": Merger, "cells": Cells, "pool": Pool}
        literals |= {"padding": Padding, "interpolation": Interpolation}
        for name, literal in literals.items():
            if getattr(self, name) is not None:
                check_choice(name, getattr(self, name), get_args(literal))
        if self.pool == "token" and not self.prefix_tokens:
            raise ValueError('pool is "token" but prefix_tokens is 0; give at least one prefix token.')
        for name, reason in idle_fields({field.name: getattr(self, field.name) for field in fields(self)}).items():
            raise ValueError(f"{name}={getattr(self, name)!r} has no effect because {reason}; leave it out.")

    def plan(self, size: Grid) -> MergePlan:
        """The merge plan for a grid of patch tokens (rows, cols)."""
        if self.merger == "none":
            return MergePlan(size, ())
        if self.cells in ("1x1", "2x2"):
            return MergePlan.fixed(size, int(self.cells[0]))
        if self.merger == "average":
            make = MergePlan.halving if self.cells == "halving" else MergePlan.balanced
            return make(size, self.grid, last_pass=False)
        make = MergePlan.balanced if self.cells == "balanced" else MergePlan.halving
        return make(size, self.grid, last_pass=self.last_pass)


def idle_fields(values: Mapping[str, Any]) -> dict[str, str]:
    """Fields that are not at their default although others leave them without effect, and why."""
    table: dict[str, tuple[bool, tuple[str, ...]]] = {
        'position is not "fuzzy"': (values["position"] != "fuzzy", ("jitter",)),
        'position is "none"': (values["position"] == "none", ("interpolation",)),
        'merger is "none"': (values["merger"] == "none", ("cells",)),
        'merger is not "grid_attention"': (
            values["merger"] != "grid_attention",
            ("padding", "last_pass", "extra_passes"),
        ),
        "cells are fixed": (values["cells"] in ("1x1", "2x2"), ("last_pass",)),
    }
    return {
        name: reason
        for reason, (applies, names) in table.items()
        for name in names
        if applies and values[name] != _default(name)
    }


def _default(name: str) -> Any:
    return next(field.default for field in fields(ViTARConfig) if field.name == name)


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


class ViTAR(nn.Module):
    """A vision transformer for images of any height and width.

    Images are (B, C, H, W) floating-point tensors, already normalised (`config.mean`, `config.std`), or a list of
    (C, H_i, W_i) of different sizes. A side that is not a multiple of the patch size is completed by repeating the
    edge pixels. Each image of a list gives what it would give alone, up to rounding.
    """

    prefix: nn.Parameter | None
    position: FuzzyPositionalEncoding | NoPosition
    merger: AdaptiveTokenMerger | AveragePoolMerger | None

    def __init__(self, config: ViTARConfig) -> None:
        super().__init__()
        self.config = config
        self.num_classes = config.num_classes
        self.num_features = self.embed_dim = self.head_hidden_size = config.width
        self.num_prefix_tokens = config.prefix_tokens
        self.grad_checkpointing = False

        make_stem = PatchStem if config.stem == "patch" else ConvStem
        self.stem = make_stem(config.in_channels, config.width, config.patch_size)
        self.position = _make_position(config)
        self.merger = _make_merger(config)
        prefix = nn.Parameter(torch.empty(config.prefix_tokens, config.width)) if config.prefix_tokens else None
        self.register_parameter("prefix", prefix)  # (P, D)
        rates = [config.drop_path_rate * i / max(config.depth - 1, 1) for i in range(config.depth)]
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.mlp_ratio, qkv_bias=True, drop_path=rate, norm_layer=norm)  # type: ignore[arg-type]
            for rate in rates
        )
        self.norm = norm(config.width)
        self.head = nn.Linear(config.width, config.num_classes) if config.num_classes else nn.Identity()
        if not self.norm.weight.is_meta:
            self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialises every parameter, also after construction on the meta device and `to_empty`.

        Matrices as in the original ViT and in MAE (Glorot): at a width of 768 nearly DeiT's standard deviation of 0.02,
        but right for narrow models too, which learn far sooner with it (docs/log.md).
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        self.stem.init_weights()
        self.position.init_weights()
        if self.prefix is not None:
            nn.init.normal_(self.prefix, std=0.02)
        if isinstance(self.head, nn.Linear):
            trunc_normal_(self.head.weight, std=0.02)

    # The way of an image, in the order of the paper's figure 2.

    def forward(self, images: Images, jitter_keys: Tensor | None = None) -> Tensor:
        """Logits (B, num_classes).

        Args:
            images: (B, C, H, W), or a list of (C, H_i, W_i).
            jitter_keys: (B,) int64; the fuzzy offsets of an image in training are a pure function of its key. None
                draws keys from torch's generator.

        Raises:
            ValueError: images of the wrong rank, dtype or channel count, of zero size, or none at all.
        """
        return self.forward_head(self.forward_features(images, jitter_keys))

    def forward_features(self, images: Images, jitter_keys: Tensor | None = None) -> Features:
        """Stem, positions, merger, trunk and final norm. For a list the trunk runs once per distinct final grid."""
        if isinstance(images, Tensor):
            tokens, plan = self._merged(images, jitter_keys)
            return self._features(*self._split(self.norm(self._trunk(tokens)), plan.grid), plan)
        merged = self._merged_list(images, jitter_keys)
        found: list[Any] = [None] * len(merged)
        for members in _group_by(tuple(tokens.shape) for tokens, _ in merged):
            batch = torch.stack([merged[i][0] for i in members])  # (b, rows, cols, D)
            tokens, prefix = self._split(self.norm(self._trunk(batch)), (batch.shape[1], batch.shape[2]))
            for place, i in enumerate(members):
                found[i] = (tokens[place], prefix[place])
        grids = [tokens for tokens, _ in found]
        prefixes = torch.stack([prefix for _, prefix in found])  # (B, P, D)
        return self._features(grids, prefixes, [plan for _, plan in merged])

    def grid_tokens(self, images: Images, jitter_keys: Tensor | None = None) -> Tensor | list[Tensor]:
        """Merged tokens before the trunk: (B, rows, cols, D), or for a list of images a list of (rows_i, cols_i, D)."""
        if isinstance(images, Tensor):
            return self._merged(images, jitter_keys)[0]
        return [tokens for tokens, _ in self._merged_list(images, jitter_keys)]

    def forward_head(self, features: Features, pre_logits: bool = False) -> Tensor:
        """Logits (B, num_classes) of pooled features, or the pooled features themselves."""
        return features.pooled if pre_logits else self.head(features.pooled)

    def plan(self, height: int, width: int) -> MergePlan:
        """How the patches of an image of this many pixels are merged in evaluation."""
        if height < 1 or width < 1:
            raise ValueError(f"an image of {height}x{width} pixels has no patches; both sides must be at least 1.")
        return self.config.plan(token_grid(height, width, self.config.patch_size))

    def _merged(self, images: Tensor, keys: Tensor | None) -> tuple[Tensor, MergePlan]:
        """Everything before the trunk: images (B, C, H, W) -> (B, rows, cols, D)."""
        self._check(images, 4)
        tokens = self.position(self.stem(images), keys)  # (B, rows, cols, D)
        plan = self.config.plan((tokens.shape[1], tokens.shape[2]))
        if self.merger is None:
            return tokens, plan
        if self.training and self.config.extra_passes:
            plan = _deepened(plan, self.config.extra_passes)
        return self.merger(tokens, plan), plan

    def _merged_list(self, images: Sequence[Tensor], keys: Tensor | None) -> list[tuple[Tensor, MergePlan]]:
        """`_merged` for images of different sizes, those of one size together: (rows_i, cols_i, D) and plan of each."""
        if not isinstance(images, Sequence) or not images:
            raise ValueError(f"images are {images!r:.60}; give a (B, C, H, W) tensor, or a list of (C, H, W) tensors.")
        for image in images:
            self._check(image, 3)
        if keys is None and self.training:
            keys = torch.randint(2**62, (len(images),), device=images[0].device)
        if keys is not None and len(keys) != len(images):
            raise ValueError(f"there are {len(keys)} jitter keys for {len(images)} images; give one for each.")
        merged: list[Any] = [None] * len(images)
        for members in _group_by(tuple(image.shape) for image in images):
            some_keys = None if keys is None else keys[torch.tensor(members, device=keys.device)]
            tokens, plan = self._merged(torch.stack([images[i] for i in members]), some_keys)
            for place, i in enumerate(members):
                merged[i] = (tokens[place], plan)
        return merged

    def _trunk(self, tokens: Tensor) -> Tensor:
        """Prefix tokens and transformer blocks: (B, rows, cols, D) -> (B, P + rows * cols, D)."""
        x = self._with_prefix(tokens)
        for block in self.blocks:
            x = self._run_block(block, x)
        return x

    def _with_prefix(self, tokens: Tensor) -> Tensor:
        x = tokens.flatten(1, 2)  # (B, N, D)
        if self.prefix is None:
            return x
        return torch.cat([self.prefix.to(x.dtype).expand(len(x), -1, -1), x], dim=1)

    def _run_block(self, block: nn.Module, x: Tensor) -> Tensor:
        return checkpoint(block, x) if self.grad_checkpointing and torch.is_grad_enabled() else block(x)

    def _split(self, x: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        """(B, P + N, D) -> grid tokens (B, rows, cols, D) and prefix tokens (B, P, D)."""
        prefix, tokens = x[:, : self.num_prefix_tokens], x[:, self.num_prefix_tokens :]
        return tokens.unflatten(1, grid), prefix

    def _features(self, tokens: Any, prefix: Tensor, plan: Any) -> Features:
        if self.config.pool == "token":
            pooled = prefix[:, 0]
        elif isinstance(tokens, Tensor):
            pooled = tokens.mean((1, 2))
        else:
            pooled = torch.stack([grid.mean((0, 1)) for grid in tokens])
        return Features(tokens, pooled, prefix, plan)

    def _check(self, images: Tensor, rank: int) -> None:
        """Refuses what is not a batch (rank 4) or a single image (rank 3) for this model."""
        layout = "(B, C, H, W)" if rank == 4 else "(C, H, W)"
        allowed = "give a (B, C, H, W) tensor, or a list of (C, H, W) tensors."
        if not isinstance(images, Tensor):
            raise ValueError(f"an image is given as {type(images).__name__}; {allowed}")
        if images.ndim != rank:
            raise ValueError(f"images have shape {tuple(images.shape)} where {layout} is expected; {allowed}")
        if not images.is_floating_point():
            raise ValueError(f"images are {images.dtype}; give floating point, scaled to 0..1 and normalised.")
        if 0 in images.shape:
            raise ValueError(f"images have shape {tuple(images.shape)}; every side of {layout} must be at least 1.")
        channels = images.shape[rank - 3]
        if channels != self.config.in_channels:
            raise ValueError(f"images have {channels} channels; this model takes {self.config.in_channels} ({layout}).")
        dtype = self.norm.weight.dtype
        if images.dtype != dtype and not torch.is_autocast_enabled(images.device.type):
            raise ValueError(f"images are {images.dtype} but the model is {dtype}; use images.to({dtype}) or autocast.")

    # What timm users expect.

    def forward_intermediates(
        self,
        images: Tensor,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: Literal["NCHW", "NLC"] = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Features and the outputs of chosen trunk blocks, with timm's arguments.

        Args:
            images: (B, C, H, W).
            indices: the last n blocks if a number, these blocks if a sequence, all if None.
            return_prefix_tokens: gives pairs of (grid tokens, prefix tokens).
            norm: applies the final norm to the outputs.
            stop_early: does not run blocks after the last one asked for; `.tokens` is then that block's, normalised.
            output_fmt: "NCHW" for (B, D, rows, cols), "NLC" for (B, N, D).
            intermediates_only: leaves the features out.

        Returns:
            (Features, list of outputs), or the list alone.
        """
        check_choice("output_fmt", output_fmt, ("NCHW", "NLC"))
        if not isinstance(images, Tensor):
            raise ValueError("forward_intermediates takes one (B, C, H, W) tensor; call it once for each image size.")
        try:
            take, last = feature_take_indices(len(self.blocks), indices)  # type: ignore[arg-type]
        except AssertionError as error:
            raise ValueError(f"indices are {indices}; the trunk has blocks 0 to {len(self.blocks) - 1}.") from error
        tokens, plan = self._merged(images, None)
        x, found = self._with_prefix(tokens), []
        for index, block in enumerate(self.blocks[: last + 1] if stop_early else self.blocks):
            x = self._run_block(block, x)
            if index in take:
                grid, prefix = self._split(self.norm(x) if norm else x, plan.grid)
                grid = grid.permute(0, 3, 1, 2).contiguous() if output_fmt == "NCHW" else grid.flatten(1, 2)
                found.append((grid, prefix) if return_prefix_tokens and self.num_prefix_tokens else grid)
        if intermediates_only:
            return found
        return self._features(*self._split(self.norm(x), plan.grid), plan), found

    def reset_classifier(self, num_classes: int, global_pool: Literal["mean", "avg", "token"] | None = None) -> None:
        """A fresh head for `num_classes` classes (0: none), and optionally another pooling; "avg" is timm's "mean"."""
        pool = "mean" if global_pool == "avg" else global_pool or self.config.pool
        self.config = replace(self.config, num_classes=num_classes, pool=pool)
        self.num_classes = num_classes
        if not num_classes:
            self.head = nn.Identity()
            return
        like = self.norm.weight
        self.head = nn.Linear(self.config.width, num_classes, device=like.device, dtype=like.dtype)
        trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def get_classifier(self) -> nn.Module:
        return self.head

    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay: the position table and the prefix tokens."""
        return {"position.table", "prefix"} & {name for name, _ in self.named_parameters()}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers for layer-wise learning rates: the merger has a slot between embedding and first block."""
        return {
            "stem": r"^stem|^position|^prefix",
            "blocks": [(r"^merger", (-1,)), (r"^blocks\.(\d+)", None), (r"^norm", (99999,))],
        }

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes merger passes and trunk blocks in the backward pass instead of keeping their activations."""
        self.grad_checkpointing = enable
        if isinstance(self.merger, AdaptiveTokenMerger):
            self.merger.grad_checkpointing = enable


def _make_position(config: ViTARConfig) -> FuzzyPositionalEncoding | NoPosition:
    if config.position == "none":
        return NoPosition()
    jitter = config.jitter if config.position == "fuzzy" else 0.0
    return FuzzyPositionalEncoding(config.width, config.grid, jitter=jitter, interpolation=config.interpolation)


def _make_merger(config: ViTARConfig) -> AdaptiveTokenMerger | AveragePoolMerger | None:
    if config.merger == "none":
        return None
    if config.merger == "average":
        return AveragePoolMerger()
    return AdaptiveTokenMerger(config.width, config.heads, config.mlp_ratio, padding=config.padding)


def _deepened(plan: MergePlan, most: int) -> MergePlan:
    """The plan with up to `most` extra 1x1 passes at the end and, with probability 1/2, one after each other level."""
    if not plan.levels:  # no last pass, and an image no larger than the grid
        return plan
    draws = torch.randint(0, 2, (len(plan.levels),), device="cpu").tolist()
    draws[-1] = int(torch.randint(0, most + 1, (), device="cpu"))
    return plan.with_extra_passes(draws)


def _group_by(shapes: Any) -> list[list[int]]:
    """Indices of equal shapes together, in the order of their first appearance."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, shape in enumerate(shapes):
        groups.setdefault(shape, []).append(index)
    return list(groups.values())
