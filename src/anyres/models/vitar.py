"""ViTAR (arXiv 2403.18361): stem, fuzzy positions, adaptive token merger, transformer trunk, head.

An ordinary ViT (DeiT) is the same class with `merger="none"`, `position="learned"` and a class token; ResFormer is that
with `position="global_local"`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from timm.layers import trunc_normal_
from timm.models import checkpoint
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from anyres.errors import check_choice
from anyres.layers.grid_attention import GridAttention
from anyres.layers.merge_plan import Grid, MergePlan, token_grid
from anyres.layers.merging import AdaptiveTokenMerger
from anyres.layers.pieces import PieceMerger, merge_in_pieces, piece_positions, pixels_of
from anyres.layers.recompute import merge_recomputing
from anyres.layers.shares import merge_with_shares
from anyres.layers.token_merging import Merged
from anyres.models.config import ViTARConfig
from anyres.models.images import Images, check_images, group_by
from anyres.models.parts import (
    PositionBefore,
    TokenMerger,
    layer_norm,
    make_blocks,
    make_merger,
    make_position,
    make_rotary,
    make_stem,
)
from anyres.models.trunk import TrunkBlock

_PADDING = 1.5  # times the tokens of a list that a padded batch may have: beyond that, batches of equal grids


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


class ViTAR(nn.Module):
    """A vision transformer for images of any height and width.

    Images are (B, C, H, W) floating-point tensors, already normalised (`config.mean`, `config.std`), or a list of
    (C, H_i, W_i) of different sizes. A side that is not a multiple of the patch size is completed by repeating the
    edge pixels. Each image of a list gives what it would give alone, up to rounding.
    """

    prefix: nn.Parameter | None
    position: PositionBefore
    merger: TokenMerger | None

    def __init__(self, config: ViTARConfig) -> None:
        super().__init__()
        self.config = config
        self.num_classes = config.num_classes
        self.num_features = self.embed_dim = self.head_hidden_size = config.width
        self.num_prefix_tokens = config.prefix_tokens
        self.grad_checkpointing = self.grad_pieces = False

        self.stem = make_stem(config)
        self.position = make_position(config)  # acts before the merger; what acts in the trunk is in its blocks
        self.merger = make_merger(config)
        prefix = nn.Parameter(torch.empty(config.prefix_tokens, config.width)) if config.prefix_tokens else None
        self.register_parameter("prefix", prefix)  # (P, D)
        self.rotary = make_rotary(config)
        self.blocks = make_blocks(config)
        self.norm = layer_norm(config.width)
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
        for module in (*self.blocks, *([] if self.merger is None else self.merger.modules())):
            if isinstance(module, TrunkBlock | GridAttention):
                module.init_weights()
        if self.prefix is not None:
            nn.init.normal_(self.prefix, std=0.02)
        if isinstance(self.head, nn.Linear):
            trunc_normal_(self.head.weight, std=0.02)

    # The way of an image, in the order of the paper's figure 2.

    def forward(self, images: Images, jitter_keys: Tensor | None = None) -> Tensor:
        """Logits (B, num_classes).

        Args:
            images: (B, C, H, W), or a list of (C, H_i, W_i).
            jitter_keys: (B,) int64; the fuzzy offsets or the rotary factor of an image in training are a pure function
                of its key. None draws keys from torch's generator.

        Raises:
            ValueError: images of the wrong rank, dtype or channel count, of zero size, or none at all.
        """
        return self.forward_head(self.forward_features(images, jitter_keys))

    def forward_features(self, images: Images, jitter_keys: Tensor | None = None) -> Features:
        """Stem, positions, merger, trunk and final norm. A list goes through the trunk as one padded batch, or once
        per distinct final grid where the trunk needs the grid or padding would be most of it."""
        if isinstance(images, Tensor):
            return self.forward_merged(*self._merged(images, jitter_keys), jitter_keys)
        merged, keys = self._merged_list(images, jitter_keys)
        found: list[Any] = [None] * len(merged)
        grids_of = [plan.grid for _, plan in merged]
        if self._pads(grids_of):
            outputs = self.norm(self._padded_trunk([tokens for tokens, _ in merged]))  # (B, P + N, D)
            for i, (grid, x) in enumerate(zip(grids_of, outputs, strict=True)):
                tokens, prefix = self._split(x[None, : self.num_prefix_tokens + grid[0] * grid[1]], grid)
                found[i] = (tokens[0], prefix[0])
        for members in [] if found[0] is not None else group_by(grids_of):
            batch = torch.stack([merged[i][0] for i in members])  # (b, rows, cols, D)
            x = self.norm(self._trunk(batch, _take(keys, members)))
            tokens, prefix = self._split(x, (batch.shape[1], batch.shape[2]))
            for place, i in enumerate(members):
                found[i] = (tokens[place], prefix[place])
        grids = [tokens for tokens, _ in found]
        prefixes = torch.stack([prefix for _, prefix in found])  # (B, P, D)
        return self._features(grids, prefixes, [plan for _, plan in merged])

    def forward_patches(self, images: Tensor, jitter_keys: Tensor | None = None) -> tuple[Features, Tensor, Tensor]:
        """Features, the patch tokens before merging (B, rows, cols, D), and the share of each in its cell.

        The shares (B, rows, cols) are float32 and add up to 1 in a cell, to less where zeros complete it: the merger's
        own attention (`layers.shares`); without a merger they are 1.
        """
        check_images(images, 4, self.config.in_channels, self.norm.weight.dtype)
        height, width = images.shape[-2:]
        plan, patches = self.plan(height, width), self.position(self.stem(images), jitter_keys)
        tokens, shares = patches, patches.new_ones(patches.shape[:3], dtype=torch.float32)
        if self.merger is not None:
            plan = self._deepened(plan)
            tokens, shares = merge_with_shares(self.merger, patches, plan)
        return self.forward_merged(tokens, plan, jitter_keys), patches, shares

    def forward_merged(self, tokens: Tensor, plan: MergePlan, jitter_keys: Tensor | None = None) -> Features:
        """Trunk and final norm of merged tokens (B, rows, cols, D), such as those of `grid_tokens` or `pieces`."""
        return self._features(*self._split(self.norm(self._trunk(tokens, jitter_keys)), plan.grid), plan)

    def forward_sets(self, tokens: Sequence[Tensor]) -> Tensor:
        """Trunk and final norm of sets of merged tokens (n_i, D) that form no grid, such as images' visible cells.

        Returns:
            (B, P + most n_i, D), the prefix tokens first; what stands behind the n_i-th is padding.
        """
        return self.norm(self._padded_trunk([each[:, None] for each in tokens]))

    def grid_tokens(self, images: Images, jitter_keys: Tensor | None = None) -> Tensor | list[Tensor]:
        """Merged tokens before the trunk: (B, rows, cols, D), or for a list of images a list of (rows_i, cols_i, D)."""
        if isinstance(images, Tensor):
            return self._merged(images, jitter_keys)[0]
        return [tokens for tokens, _ in self._merged_list(images, jitter_keys)[0]]

    def forward_head(self, features: Features, pre_logits: bool = False) -> Tensor:
        """Logits (B, num_classes) of pooled features, or the pooled features themselves."""
        return features.pooled if pre_logits else self.head(features.pooled)

    def plan(self, height: int, width: int) -> MergePlan:
        """How the patches of an image of this many pixels are merged in evaluation."""
        if height < 1 or width < 1:
            raise ValueError(f"an image of {height}x{width} pixels has no patches; both sides must be at least 1.")
        return self.config.plan(token_grid(height, width, self.config.patch_size))

    def training_plan(self, height: int, width: int) -> MergePlan:
        """`plan`, in training with random extra passes if the model is to have them."""
        return self._deepened(self.plan(height, width))

    def _merged(self, images: Tensor, keys: Tensor | None) -> tuple[Tensor, MergePlan]:
        """Everything before the trunk: images (B, C, H, W) -> (B, rows, cols, D)."""
        check_images(images, 4, self.config.in_channels, self.norm.weight.dtype)
        height, width = images.shape[-2:]
        plan = self.plan(height, width)
        recomputes = self.grad_pieces and self.training and torch.is_grad_enabled()
        if recomputes or self._is_large(images, plan):
            merging = self.pieces(height, width, batch=len(images), keys=keys)
            merge = merge_recomputing if recomputes else merge_in_pieces
            return merge(merging, lambda regions: (pixels_of(images, region) for region in regions)), merging.plan
        tokens = self.position(self.stem(images), keys)  # (B, rows, cols, D)
        if self.merger is None:
            return tokens, plan
        plan = self._deepened(plan)
        return self.merger(tokens, plan), plan

    def pieces(
        self, height: int, width: int, *, batch: int = 1, keys: Tensor | None = None, positions: int | None = None
    ) -> PieceMerger:
        """What embeds and merges an image of this many pixels piece by piece; its result is `grid_tokens`.

        Args:
            height, width: of the image, in pixels.
            batch: images of this size that are merged side by side.
            keys: (B,) int64 jitter keys, in training; drawn if not given.
            positions: patches of one image in a piece; by default as many as stay in cache.

        Raises:
            ValueError: a model without a merger, whose trunk would get all the patches.
        """
        if self.merger is None:
            raise ValueError(
                f'merger is "none", so nothing makes {height}x{width} pixels fit; allowed: a model with a merger.'
            )
        if positions is None:
            positions = max(piece_positions(self.config.width, self.norm.weight) // batch, 1)
        if positions < 1:
            raise ValueError(f"a piece of {positions} patches was asked for; allowed: 1 and more, or None.")
        plan = self._deepened(self.plan(height, width))
        if self.training and keys is None:  # all pieces of an image must have the same
            keys = torch.randint(2**62, (batch,), device=self.norm.weight.device)
        return PieceMerger(self.stem, self.position, self.merger, plan, (height, width), positions=positions, keys=keys)

    def _is_large(self, images: Tensor, plan: MergePlan) -> bool:
        """Whether merging in pieces, which gives the same, is faster or needs far less memory."""
        if self.merger is None or self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return False
        fits = piece_positions(self.config.width, self.norm.weight)
        return images.device.type in ("cpu", "cuda") and len(images) * plan.size[0] * plan.size[1] > fits

    def _merged_list(
        self, images: Sequence[Tensor], keys: Tensor | None
    ) -> tuple[list[tuple[Tensor, MergePlan]], Tensor | None]:
        """`_merged` for images of different sizes, those of one size together: (rows_i, cols_i, D) and plan of each.

        Also the images' keys, drawn if this is training and none are given.
        """
        if not isinstance(images, Sequence) or not images:
            raise ValueError(f"images are {images!r:.60}; give a (B, C, H, W) tensor, or a list of (C, H, W) tensors.")
        for image in images:
            check_images(image, 3, self.config.in_channels, self.norm.weight.dtype)
        if keys is None and self.training:
            keys = torch.randint(2**62, (len(images),), device=images[0].device)
        if keys is not None and len(keys) != len(images):
            raise ValueError(f"there are {len(keys)} jitter keys for {len(images)} images; give one for each.")
        merged: list[Any] = [None] * len(images)
        for members in group_by(tuple(image.shape) for image in images):
            tokens, plan = self._merged(torch.stack([images[i] for i in members]), _take(keys, members))
            for place, i in enumerate(members):
                merged[i] = (tokens[place], plan)
        return merged, keys

    def _trunk(self, tokens: Tensor, keys: Tensor | None = None) -> Tensor:
        """Prefix tokens and transformer blocks: (B, rows, cols, D) -> (B, P + rows * cols, D)."""
        x, places = self._start(tokens, keys)
        for block in self.blocks:
            x = self._run_block(block, x, *places)
        return _unmerged(x)

    def _pads(self, grids: Sequence[Grid]) -> bool:
        """Whether images of these final grids go through the trunk together: no block may need the grid itself."""
        counts = [rows * cols for rows, cols in grids]
        config = self.config
        knows_grid = config.position in ("rotary", "relative_bias") or config.local_placement == "trunk"
        if len(set(grids)) == 1 or knows_grid or config.tome or config.window:
            return False
        return len(grids) * max(counts) <= _PADDING * sum(counts)

    def _padded_trunk(self, tokens: Sequence[Tensor]) -> Tensor:
        """Images' tokens (rows_i, cols_i, D) as one batch (B, P + N, D), whose padding is never a key."""
        rows = [self._row(grid) for grid in tokens]
        lengths = [len(row) for row in rows]
        x, mask = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), None
        if min(lengths) < max(lengths):
            places = torch.arange(x.shape[1], device=x.device)
            is_padding = places >= torch.tensor(lengths, device=x.device)[:, None]  # (B, P + N)
            mask = torch.zeros_like(is_padding, dtype=x.dtype).masked_fill(is_padding, float("-inf"))[:, None, None]
        for block in self.blocks:
            x = self._run_block(block, x, (0, 0), None, mask)
        return x

    def _row(self, tokens: Tensor) -> Tensor:
        """One image's prefix and grid tokens, (P + N, D)."""
        flat = tokens.flatten(0, 1)
        return flat if self.prefix is None else torch.cat([self.prefix.to(flat.dtype), flat])

    def _start(self, tokens: Tensor, keys: Tensor | None) -> tuple[Tensor | Merged, tuple[Grid, Tensor | None]]:
        """What the first block gets: prefix and grid tokens (B, P + N, D), and the places that all blocks are told."""
        rotation = None if self.rotary is None else self.rotary(tokens, keys)
        x = tokens.flatten(1, 2)  # (B, N, D)
        if self.prefix is not None:
            x = torch.cat([self.prefix.to(x.dtype).expand(len(x), -1, -1), x], dim=1)
        return Merged(x) if self.config.tome else x, ((tokens.shape[1], tokens.shape[2]), rotation)

    def _run_block(
        self, block: nn.Module, x: Tensor | Merged, grid: Grid, rotation: Tensor | None, mask: Tensor | None = None
    ) -> Any:
        arguments = (x,) if isinstance(x, Merged) else (x, grid, rotation, mask)
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *arguments)
        return block(*arguments)

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
        x, places = self._start(tokens, None)
        found: list[Any] = []
        for index, block in enumerate(self.blocks[: last + 1] if stop_early else self.blocks):
            x = self._run_block(block, x, *places)
            if index in take:
                tokens = _unmerged(x)  # (B, P + N, D)
                grid, prefix = self._split(self.norm(tokens) if norm else tokens, plan.grid)
                grid = grid.permute(0, 3, 1, 2).contiguous() if output_fmt == "NCHW" else grid.flatten(1, 2)
                found.append((grid, prefix) if return_prefix_tokens and self.num_prefix_tokens else grid)
        if intermediates_only:
            return found
        return self._features(*self._split(self.norm(_unmerged(x)), plan.grid), plan), found

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
        """Names of parameters without weight decay: prefix tokens and all that encodes positions, also in the trunk."""
        return {name for name, _ in self.named_parameters() if {"position", "prefix"} & set(name.split("."))}

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

    def set_grad_pieces(self, enable: bool = True) -> None:
        """In training, merges piece by piece and computes the pieces again in the backward pass.

        The same gradients, up to rounding, in memory that hardly grows with the images (`layers.recompute`). Images
        themselves get no gradient.
        """
        if enable and self.merger is None:
            raise ValueError('merger is "none", so there is nothing to do piece by piece; use set_grad_checkpointing.')
        self.grad_pieces = enable

    def compile_parts(self, **options: Any) -> None:
        """Compiles what computes, for any size of image: one merging pass and the trunk's blocks.

        Compiling the model as a whole would begin anew with every size. Here the tokens of a pass are taken apart
        outside, and what is compiled sees the number of cells as a symbol: a handful of graphs serves all sizes.

        Copies of the model are not compiled.

        Args:
            options: of `torch.compile`, such as `mode` or `backend`.
        """
        if isinstance(self.merger, AdaptiveTokenMerger):
            self.merger.block.compile_cells(dynamic=True, **options)
        for trunk_block in self.blocks:
            trunk_block.compile(dynamic=True, **options)

    def _deepened(self, plan: MergePlan) -> MergePlan:
        """The plan as it is, or in training with random extra passes."""
        extra = self.config.extra_passes if self.training else 0
        return _deepened(plan, extra) if extra else plan


def _deepened(plan: MergePlan, most: int) -> MergePlan:
    """The plan with up to `most` extra 1x1 passes at the end and, with probability 1/2, one after each other level."""
    if not plan.levels:  # no last pass, and an image no larger than the grid
        return plan
    draws = torch.randint(0, 2, (len(plan.levels),), device="cpu").tolist()
    draws[-1] = int(torch.randint(0, most + 1, (), device="cpu"))
    return plan.with_extra_passes(draws)


def _unmerged(x: Tensor | Merged) -> Tensor:
    """One token for each place of the grid, also where blocks have merged some: (B, P + N, D)."""
    return x.unmerged() if isinstance(x, Merged) else x


def _take(keys: Tensor | None, members: list[int]) -> Tensor | None:
    """The keys of some images."""
    return None if keys is None else keys[torch.tensor(members, device=keys.device)]
