"""Masked auto-encoding at any resolution (MAE, arXiv 2111.06377; ViTAR, section 4.4).

Cells of the final grid are hidden, and only the patches of visible ones are embedded, merged and encoded. Everything
before the trunk is local to a cell, so this is exactly what the whole image would give there; a pyramid's averages are
where every level halves, and its images are first brought to such a size. A small decoder then fills the hidden cells
of the grid in: one square of pixels for each, whatever the size of the cell.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from anyres.layers.averaged import resize_to
from anyres.layers.cells import to_patches
from anyres.layers.masking import hidden_cells
from anyres.layers.merge_plan import Boundaries, MergePlan
from anyres.layers.merging import AdaptiveTokenMerger
from anyres.layers.position import at_visible, grid_centres
from anyres.layers.pyramid_merger import PyramidMerger
from anyres.layers.region import Region
from anyres.layers.resize import paint_cells, resize_cells
from anyres.layers.sincos import SinCosPosition
from anyres.layers.visible import merge_visible
from anyres.models.around_backbone import AroundBackbone
from anyres.models.bases import embed, fitted, make_bases
from anyres.models.images import Images, check_images, group_by
from anyres.models.mae_config import MAEConfig
from anyres.models.parts import init_linear_and_norms, layer_norm
from anyres.models.vitar import ViTAR

_EPSILON = 1e-6  # added to the variance of a cell's pixels (MAE)


@dataclass(frozen=True)
class Reconstruction:
    """What became of images: pictures (B, C, H, W), normalised as the images are, of the size that they are seen at."""

    images: Tensor
    """The images as they are seen."""
    masked: Tensor
    """The images with hidden cells grey."""
    output: Tensor
    """The images with hidden cells as the decoder restores them."""
    is_hidden: Tensor
    """(B, R, C) bool, the final cells that the decoder filled in."""
    loss: Tensor
    """(B,) float32."""


@dataclass(frozen=True)
class _Masked:
    """What is hidden of images of one size, and how their patches are merged."""

    plan: MergePlan
    is_visible: Tensor
    """(B, rows, cols) bool, patches."""
    weights: Tensor
    """(B, R, C, 1 or pixels), how much of each cell, or of each pixel of its square, is hidden."""


class MaskedAutoencoder(AroundBackbone, nn.Module):
    """A ViTAR, or an ordinary ViT, that learns from images without labels by restoring what is hidden of them.

    Images are those of `ViTAR`: (B, C, H, W), or a list of (C, H_i, W_i). Hidden cells are drawn for each image from
    its key. After pre-training `backbone` is an ordinary model without a head.
    """

    def __init__(self, config: MAEConfig) -> None:
        super().__init__()
        self.config = config = replace(config, backbone=replace(config.backbone, num_classes=0))
        self.backbone = ViTAR(config.backbone)
        width, pixels = config.decoder_width, config.backbone.in_channels * config.backbone.patch_size**2
        self.decoder_embed = nn.Linear(config.backbone.width, width)
        self.mask_token = nn.Parameter(torch.empty(width))
        self.decoder_position = SinCosPosition(width, config.backbone.grid)
        self.decoder_blocks = nn.ModuleList(
            Block(width, config.decoder_heads, qkv_bias=True, norm_layer=layer_norm)  # type: ignore[arg-type]
            for _ in range(config.decoder_depth)
        )
        self.decoder_norm = layer_norm(width)
        self.decoder_pred = nn.Linear(width, pixels)
        self.decoder_pred_large = nn.Linear(width, 4 * pixels) if config.large_target else None
        self.grad_checkpointing = False
        if not self.mask_token.is_meta:
            self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialises every parameter, also after construction on the meta device and `to_empty`, as MAE does."""
        init_linear_and_norms(self)
        nn.init.normal_(self.mask_token, std=0.02)
        self.backbone.init_weights()

    def forward(self, images: Images, keys: Tensor | None = None, is_hidden: Tensor | None = None) -> Tensor:
        """The mean over the images of the mean squared error over what is hidden: a float32 scalar.

        Args:
            images: (B, C, H, W), or a list of (C, H_i, W_i).
            keys: (B,) int64, from which each image's mask and, in training, its fuzzy or rotary positions are drawn.
                None draws keys from torch's generator.
            is_hidden: (B, R, C) bool, the final cells to hide, some of each image; with masking "patches" the patches.
                Of a tensor of images only; None draws them.

        Raises:
            ValueError: as `ViTAR`, and for images that leave no cell visible or none hidden.
        """
        if isinstance(images, Tensor):
            return self._run(images, keys, is_hidden)[0].mean()
        if not isinstance(images, Sequence) or not images or is_hidden is not None:
            raise ValueError("give a (B, C, H, W) tensor, or a list of (C, H, W) tensors and no is_hidden.")
        for image in images:
            check_images(image, 3, self.config.backbone.in_channels, self.mask_token.dtype)
        keys = self._keys(keys, len(images), images[0].device)
        losses, images = [], [self.seen(image[None])[0] for image in images]  # a pyramid's then share few shapes
        for members in group_by(tuple(image.shape) for image in images):
            index = torch.tensor(members, device=keys.device)
            losses.append(self._run(torch.stack([images[i] for i in members]), keys[index], None)[0])
        return torch.cat(losses).mean()

    @torch.no_grad()
    def reconstruct(self, images: Tensor, keys: Tensor | None = None) -> Reconstruction:
        """What the model makes of images (B, C, H, W): pictures with hidden cells grey, and with them restored."""
        losses, prediction, masked = self._run(images, keys, None)
        images = self.seen(images)
        side = self.config.side(masked.plan)
        if self.config.norm_target:
            target = self._squares(images, masked.plan, side)
            prediction = prediction * _deviation(target) + target.mean(-1, keepdim=True)
        prediction = prediction.unflatten(-1, (side, side, -1)).permute(0, 1, 2, 5, 3, 4)  # (B, R, C', C, side, side)
        seen = self._pixels(masked.is_visible, images)  # (B, 1, H, W)
        restored = paint_cells(prediction, *self._edges(masked.plan, images)).to(images)
        is_hidden = masked.weights.sum(-1) > 0
        return Reconstruction(images, images * seen, torch.where(seen, images, restored), is_hidden, losses)

    def _run(self, images: Tensor, keys: Tensor | None, is_hidden: Tensor | None) -> tuple[Tensor, Tensor, _Masked]:
        """Loss of each image (B,), what is predicted of every cell (B, R, C, pixels), and what was hidden."""
        check_images(images, 4, self.config.backbone.in_channels, self.mask_token.dtype)
        keys = self._keys(keys, len(images), images.device)
        self.config.visible(*images.shape[-2:])
        images = self.seen(images)
        masked = self._mask(images, keys, is_hidden)
        latent, is_cell = self.forward_encoder(images, masked.is_visible, masked.plan, keys)
        prediction = self.forward_decoder(latent, is_cell, self.config.side(masked.plan)).float()
        return self.forward_loss(images, prediction, masked), prediction, masked

    # The way of an image.

    def seen(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) of the size that they are looked at and restored at, see `MAEConfig.seen`."""
        size = self.config.seen(*images.shape[-2:])
        return images if images.shape[-2:] == size else resize_to(images, *size).to(images.dtype)

    def forward_encoder(
        self, images: Tensor, is_visible: Tensor, plan: MergePlan, keys: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What the encoder makes of the visible patches of images alone.

        Args:
            images: (B, C, H, W), as they are `seen`.
            is_visible: (B, rows, cols) bool, patches.
            plan: how they are merged, `backbone.plan(H, W)`.
            keys: (B,) int64, for fuzzy and rotary positions in training.

        Returns:
            (B, P + n, D), prefix tokens and those of the n visible cells in the grid's order, padded to the most of
            any image; and which cells those are, (B, R, C) bool.
        """
        images, merger = fitted(self.backbone, images), self.backbone.merger
        if keys is None and self.training:
            keys = self._keys(None, len(images), images.device)  # the same at all levels
        x = embed(self.backbone, images, keys, is_visible)  # (all visible patches, D)
        is_cell, bases = is_visible, []
        if isinstance(merger, PyramidMerger):
            bases = make_bases(self.backbone, images, x, plan, keys, is_visible)
        if isinstance(merger, AdaptiveTokenMerger):
            x, is_cell = merge_visible(merger, x, is_visible, plan, bases)
        counts: list[int] = is_cell.flatten(1).sum(1).tolist()
        centres = at_visible(grid_centres(Region.whole(plan.grid), x.device), is_cell)  # (n of all images, 2)
        return self.backbone.forward_sets(x.split(counts), centres.split(counts), keys), is_cell

    def forward_decoder(self, latent: Tensor, is_cell: Tensor, side: int) -> Tensor:
        """Fills the grid up with mask tokens and predicts a square of `side` pixels for every cell.

        Args:
            latent: (B, P + n, D), from `forward_encoder`.
            is_cell: (B, R, C) bool, the cells that the n tokens belong to.

        Returns:
            (B, R, C', side * side * channels), channels last (as MAE orders them).
        """
        x, first = self.decoder_embed(latent), self.backbone.num_prefix_tokens
        counts = is_cell.flatten(1).sum(1)[:, None]
        known = x[:, first:][torch.arange(x.shape[1] - first, device=x.device) < counts]
        grid = self.mask_token.to(x.dtype).expand(*is_cell.shape, -1)
        grid = self.decoder_position(grid.index_put(is_cell.nonzero(as_tuple=True), known))  # (B, R, C, d)
        x = torch.cat([x[:, :first], grid.flatten(1, 2)], dim=1)
        for block in self.decoder_blocks:
            checkpoints = self.grad_checkpointing and torch.is_grad_enabled()
            x = checkpoint(block, x, use_reentrant=False) if checkpoints else block(x)
        x = self.decoder_norm(x[:, first:]).unflatten(1, is_cell.shape[1:])
        large = self.decoder_pred_large
        predict = self.decoder_pred if large is None or side == self.config.backbone.patch_size else large
        return predict(x)

    def forward_loss(self, images: Tensor, prediction: Tensor, masked: _Masked) -> Tensor:
        """Mean squared error over what is hidden of each image, (B,) float32."""
        target = self._squares(images, masked.plan, self.config.side(masked.plan))
        if self.config.norm_target:
            target = (target - target.mean(-1, keepdim=True)) / _deviation(target)
        errors = (prediction - target).square() * masked.weights  # (B, R, C, pixels)
        return errors.sum((1, 2, 3)) / masked.weights.expand_as(errors).sum((1, 2, 3))

    # What is hidden, and what is to be restored.

    def _keys(self, keys: Tensor | None, count: int, device: torch.device) -> Tensor:
        if keys is None:
            return torch.randint(2**62, (count,), device=device)
        if keys.shape != (count,) or keys.dtype != torch.int64:
            raise ValueError(f"keys are {keys.dtype} of shape {tuple(keys.shape)}; give one int64 for each image.")
        return keys

    def _mask(self, images: Tensor, keys: Tensor, is_hidden: Tensor | None) -> _Masked:
        config, plan = self.config, self.backbone.training_plan(*images.shape[-2:])
        grid = plan.grid if config.masking == "cells" else plan.size
        if is_hidden is None:
            is_hidden = hidden_cells(keys, grid, config.mask_ratio)
        elif is_hidden.shape != (len(images), *grid) or is_hidden.dtype != torch.bool:
            given = f"{is_hidden.dtype} of shape {tuple(is_hidden.shape)}"
            raise ValueError(f"is_hidden is {given}; needed is bool of shape {(len(images), *grid)}.")
        hidden = is_hidden.flatten(1).sum(1)
        if hidden.min() < 1 or hidden.max() >= grid[0] * grid[1]:
            raise ValueError("is_hidden hides nothing or all of an image; allowed: some of each.")
        if config.masking == "cells":
            return _Masked(plan, to_patches(~is_hidden, plan), is_hidden[..., None].float())
        hidden = self._pixels(is_hidden, images).float().expand(-1, images.shape[1], -1, -1)
        return _Masked(plan, ~is_hidden, self._squares(hidden, plan, self.config.side(plan)))

    def _pixels(self, of_patches: Tensor, images: Tensor) -> Tensor:
        """What is known of patches (B, rows, cols), for each pixel of images (B, C, H, W): (B, 1, H, W)."""
        patch, (height, width) = self.config.backbone.patch_size, images.shape[-2:]
        return of_patches.repeat_interleave(patch, 1).repeat_interleave(patch, 2)[:, None, :height, :width]

    def _edges(self, plan: MergePlan, images: Tensor) -> tuple[Boundaries, Boundaries]:
        """Boundaries of the final cells in pixels; the last cells end with the image."""
        patch, (height, width) = self.config.backbone.patch_size, images.shape[-2:]
        rows = tuple(min(edge * patch, height) for edge in plan.cell_rows)
        return rows, tuple(min(edge * patch, width) for edge in plan.cell_cols)

    def _squares(self, images: Tensor, plan: MergePlan, side: int) -> Tensor:
        """Every cell's own pixels, resized to a square: (B, R, C', side * side * channels) float32."""
        return resize_cells(images.float(), *self._edges(plan, images), side).flatten(3)

    # What the engine expects.

    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay: the backbone's, and the mask token."""
        return {"mask_token", *super().no_weight_decay()}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes merger passes and blocks in the backward pass instead of keeping their activations."""
        super().set_grad_checkpointing(enable)
        self.grad_checkpointing = enable


def _deviation(target: Tensor) -> Tensor:
    """(..., pixels) -> (..., 1)"""
    return (target.var(-1, keepdim=True) + _EPSILON).sqrt()
