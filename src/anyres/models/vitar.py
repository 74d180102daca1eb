"""ViTAR (arXiv 2403.18361): stem, fuzzy positions, adaptive token merger, transformer trunk, head.

An ordinary ViT (DeiT) is the same class with `merger="none"`, `position="learned"` and a class token; ResFormer is that
with `position="global_local"`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn

from anyres.errors import check_choice
from anyres.layers.merge_plan import MergePlan, token_grid
from anyres.layers.merging import AdaptiveTokenMerger
from anyres.layers.pieces import PieceMerger
from anyres.layers.pyramid_merger import PyramidMerger
from anyres.layers.shares import merge_with_shares
from anyres.models.bases import covered, fitted, make_bases
from anyres.models.config import ViTARConfig
from anyres.models.features import Features
from anyres.models.images import Images, check_images
from anyres.models.mixed_sizes import forward_list, merge_list
from anyres.models.parts import (
    PositionBefore,
    TokenMerger,
    init_linear_and_norms,
    make_merger,
    make_position,
    make_stem,
)
from anyres.models.piecewise import is_merged_in_pieces, make_pieces, merge_piecewise
from anyres.models.random_passes import with_random_passes
from anyres.models.trunk import Trunk, as_output


class ViTAR(nn.Module):
    """A vision transformer for images of any height and width.

    Images are (B, C, H, W) floating-point tensors, already normalised (`config.mean`, `config.std`), or a list of
    (C, H_i, W_i) of different sizes. A side that is not a multiple of the patch size is completed by repeating the
    edge pixels. Each image of a list gives what it would give alone, up to rounding.
    """

    def __init__(self, config: ViTARConfig) -> None:
        super().__init__()
        self.config = config
        self.num_classes, self.num_prefix_tokens = config.num_classes, config.prefix_tokens
        self.num_features = self.embed_dim = self.head_hidden_size = config.width
        self.grad_pieces = self.is_frozen = False
        self.stem = make_stem(config)
        self.position: PositionBefore = make_position(config)  # before the merger; what acts in the trunk is there
        self.merger: TokenMerger | None = make_merger(config)
        self.trunk = self.make_trunk()
        self.head = nn.Linear(config.width, config.num_classes) if config.num_classes else nn.Identity()
        if not self.like.is_meta:
            self.init_weights()

    def make_trunk(self) -> Trunk:
        return Trunk(self.config)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialises every parameter, also after construction on the meta device and `to_empty`.

        Matrices as in the original ViT and in MAE (Glorot): at a width of 768 nearly DeiT's standard deviation of 0.02,
        but right for narrow models too, which learn far sooner with it (docs/log.md).
        """
        init_linear_and_norms(self)
        self.stem.init_weights()
        self.position.init_weights()
        if isinstance(self.merger, AdaptiveTokenMerger):
            self.merger.block.init_weights()
        self.trunk.init_weights()
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
        if not isinstance(images, Tensor):
            return forward_list(self, images, jitter_keys)
        tokens, plan = self.merge(images, jitter_keys)
        return self.forward_merged(tokens, plan, jitter_keys)

    def merge(self, images: Tensor, jitter_keys: Tensor | None = None) -> tuple[Tensor, MergePlan]:
        """Everything before the trunk: images (B, C, H, W) -> tokens of the plan's final grid, (B, rows, cols, D)."""
        check_images(images, 4, self.config.in_channels, self.dtype)
        height, width = images.shape[-2:]
        if is_merged_in_pieces(self, images, self.plan(height, width).size):
            return merge_piecewise(self, images, jitter_keys)
        tokens, plan, bases = self._patches(images, jitter_keys)
        if self.merger is None:
            return tokens, plan
        if isinstance(self.merger, PyramidMerger):
            return self.merger(tokens, plan, bases), plan
        return self.merger(tokens, plan), plan  # section 3.2, adaptive token merger

    def _patches(self, images: Tensor, jitter_keys: Tensor | None) -> tuple[Tensor, MergePlan, list[Tensor]]:
        """Patch tokens with positions (B, rows, cols, D), how they are to be merged, and the bases of a pyramid."""
        height, width = images.shape[-2:]
        is_pyramid = isinstance(self.merger, PyramidMerger)
        images = fitted(self, images)
        if is_pyramid and self.training and jitter_keys is None:
            jitter_keys = torch.randint(2**62, (len(images),), device=images.device)  # the same at all levels
        tokens = self.stem(images)  # (B, rows, cols, D): every patch becomes a token
        tokens = self.position(tokens, jitter_keys)  # section 3.3, fuzzy positional encoding
        plan = self.training_plan(height, width)  # its random passes are drawn after the jitter
        return tokens, plan, make_bases(self, images, tokens, plan, jitter_keys) if is_pyramid else []

    def forward_merged(self, tokens: Tensor, plan: MergePlan, jitter_keys: Tensor | None = None) -> Features:
        """Trunk and final norm of merged tokens (B, rows, cols, D), such as those of `grid_tokens` or `pieces`."""
        grid, prefix = self.trunk(tokens, jitter_keys)
        return self.features_of(grid, prefix, plan)

    def features_of(self, tokens: Any, prefix: Tensor, plan: MergePlan | Sequence[MergePlan]) -> Features:
        """Of what leaves the trunk: grid tokens (B, rows, cols, D), or a list of them with their plans."""
        return Features.of(tokens, prefix, plan, self.config.pool)

    def forward_head(self, features: Features, pre_logits: bool = False) -> Tensor:
        """Logits (B, num_classes) of pooled features, or the pooled features themselves."""
        return features.pooled if pre_logits else self.head(features.pooled)

    def plan(self, height: int, width: int) -> MergePlan:
        """How the patches of an image of this many pixels are merged in evaluation."""
        if height < 1 or width < 1:
            raise ValueError(f"an image of {height}x{width} pixels has no patches; both sides must be at least 1.")
        return self.config.plan(token_grid(height, width, self.config.patch_size))

    def covered(self, height: int, width: int) -> tuple[int, int]:
        """Pixels of an image, with what completes it, that the patches of its plan lie over, evenly.

        Whole patches, but an axis that a pyramid enlarges to its final grid stays as long as it is.
        """
        return covered(self.config, height, width)

    @property
    def has_pieces(self) -> bool:
        """Whether images can be embedded and merged piece by piece."""
        return self.merger is not None

    def training_plan(self, height: int, width: int) -> MergePlan:
        """`plan`, in training with random extra passes if the model is to have them."""
        plan, most = self.plan(height, width), self.config.extra_passes
        return with_random_passes(plan, most) if most and self.training else plan

    # Parts of that way, for those who bring or take tokens.

    def grid_tokens(self, images: Images, jitter_keys: Tensor | None = None) -> Tensor | list[Tensor]:
        """Merged tokens before the trunk: (B, rows, cols, D), or for a list of images a list of (rows_i, cols_i, D)."""
        if isinstance(images, Tensor):
            return self.merge(images, jitter_keys)[0]
        return [tokens for tokens, _ in merge_list(self, images, jitter_keys)[0]]

    def forward_patches(self, images: Tensor, jitter_keys: Tensor | None = None) -> tuple[Features, Tensor, Tensor]:
        """Features, the patch tokens before merging (B, rows, cols, D), and the share of each in its cell.

        The shares (B, rows, cols) are float32 and add up to 1 in a cell, to less where zeros complete it: the merger's
        own attention (`layers.shares`); without a merger they are 1. A pyramid's patches are those of the image that it
        sees, enlarged to the final grid or completed to whole cells (`covered`).
        """
        check_images(images, 4, self.config.in_channels, self.dtype)
        patches, plan, bases = self._patches(images, jitter_keys)
        tokens, shares = merge_with_shares(self.merger, patches, plan, bases)
        return self.forward_merged(tokens, plan, jitter_keys), patches, shares

    def forward_sets(
        self, tokens: Sequence[Tensor], centres: Sequence[Tensor] | None = None, jitter_keys: Tensor | None = None
    ) -> Tensor:
        """Trunk and final norm of merged tokens that form no grid, such as images' visible cells: see `Trunk`."""
        return self.trunk.forward_sets(tokens, centres, jitter_keys)

    def pieces(
        self, height: int, width: int, *, batch: int = 1, keys: Tensor | None = None, positions: int | None = None
    ) -> PieceMerger:
        """What embeds and merges an image piece by piece; its result is `grid_tokens`. See `piecewise.make_pieces`."""
        return make_pieces(self, height, width, batch=batch, keys=keys, positions=positions)

    # What timm users expect.

    @property
    def like(self) -> Tensor:
        """A parameter with the device and precision of the model: one that nobody replaces by layers of their own."""
        return self.trunk.norm.weight

    @property
    def device(self) -> torch.device:
        return self.like.device

    @property
    def dtype(self) -> torch.dtype:
        return self.like.dtype

    def forward_intermediates(
        self,
        images: Tensor,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: Literal["NCHW", "NLC"] = "NCHW",
        intermediates_only: bool = False,
        jitter_keys: Tensor | None = None,
    ) -> Any:
        """Features, and a list of the outputs of chosen trunk blocks, with timm's arguments and jitter keys.

        Args:
            images: (B, C, H, W).
            indices: the last n blocks if a number, these blocks if a sequence, all if None.
            return_prefix_tokens: gives pairs of (grid tokens, prefix tokens).
            norm: applies the final norm to the outputs.
            stop_early: does not run blocks after the last one asked for; `.tokens` is then that block's, normalised.
            output_fmt: "NCHW" for (B, D, rows, cols), "NLC" for (B, N, D).
            intermediates_only: gives the list alone.
            jitter_keys: (B,) int64, see `forward`.
        """
        check_choice("output_fmt", output_fmt, ("NCHW", "NLC"))
        if not isinstance(images, Tensor):
            raise ValueError("forward_intermediates takes one (B, C, H, W) tensor; call it once for each image size.")
        chosen = self.trunk.choose(indices, stop_early=stop_early)
        tokens, plan = self.merge(images, jitter_keys)
        final, pairs = self.trunk.forward_intermediates(tokens, *chosen, jitter_keys, norm=norm)
        found: list[Any] = [(as_output(grid, output_fmt), prefix) for grid, prefix in pairs]
        if not (return_prefix_tokens and self.num_prefix_tokens):
            found = [grid for grid, _ in found]
        return found if intermediates_only else (self.features_of(*final, plan), found)

    def reset_classifier(self, num_classes: int, global_pool: Literal["mean", "avg", "token"] | None = None) -> None:
        """A fresh head for `num_classes` classes (0: none), and optionally another pooling; "avg" is timm's "mean"."""
        pool = "mean" if global_pool == "avg" else global_pool or self.config.pool
        self.config = replace(self.config, num_classes=num_classes, pool=pool)
        self.num_classes = num_classes
        self.head = nn.Identity()
        if num_classes:
            self.head = nn.Linear(self.config.width, num_classes, device=self.device, dtype=self.dtype)
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
            "stem": r"^stem|^position|^trunk\.prefix|^trunk\.norm_pre",
            "blocks": [(r"^merger", (-1,)), (r"^trunk\.blocks\.(\d+)", None), (r"^trunk\.norm\.", (99999,))],
        }

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes merger passes and trunk blocks in the backward pass instead of keeping their activations."""
        self.trunk.grad_checkpointing = enable
        if isinstance(self.merger, AdaptiveTokenMerger):
            self.merger.grad_checkpointing = enable

    def freeze_features(self, enable: bool = True) -> None:
        """Leaves the head alone to be learned: what is below it gets no gradient and stays in evaluation, whatever
        `train` is told."""
        self.is_frozen = enable
        self.requires_grad_(not enable)
        self.head.requires_grad_(True)
        self.train(self.training)

    def train(self, mode: bool = True) -> "ViTAR":
        super().train(mode and not self.is_frozen)
        self.head.train(mode)
        return self

    def set_grad_pieces(self, enable: bool = True) -> None:
        """In training, merges in pieces that are computed again in the backward pass (`layers.recompute`)."""
        if enable and self.merger is None:
            raise ValueError('merger is "none", so there is nothing to do piece by piece; use set_grad_checkpointing.')
        self.grad_pieces = enable

    def compile_parts(self, **options: Any) -> None:
        """Compiles one merging pass and the trunk's blocks for any size of image, with options of `torch.compile`.

        Compiling the whole would begin anew with every size. Here tokens are taken apart outside, and what is compiled
        sees the number of cells as a symbol: a handful of graphs serves all sizes. Copies of a model are not compiled.
        """
        if isinstance(self.merger, AdaptiveTokenMerger):
            self.merger.block.compile_cells(dynamic=True, **options)
        for trunk_block in self.trunk.blocks:
            trunk_block.compile(dynamic=True, **options)
