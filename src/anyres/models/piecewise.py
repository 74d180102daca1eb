"""Images too large to be embedded and merged at once: the same in pieces, faster or in far less memory.

How an image is cut up and put together is `layers.pieces`; here is when a model does so, and with which settings.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from anyres.layers.merge_plan import Grid, MergePlan
from anyres.layers.pieces import PieceMerger, merge_in_pieces, piece_positions, pixels_of
from anyres.layers.recompute import merge_recomputing
from anyres.models.config import ViTARConfig

if TYPE_CHECKING:
    from anyres.models.vitar import ViTAR


def exceeds_a_piece(config: ViTARConfig, batch: int, grid: Grid, positions: int) -> bool:
    """Whether images of this grid of patches are merged in pieces of so many patches, where that can be."""
    return config.merger != "none" and batch * grid[0] * grid[1] > positions


def is_merged_in_pieces(model: "ViTAR", images: Tensor, grid: Grid) -> bool:
    """Whether images (B, C, H, W) of this grid of patches go through a model piece by piece."""
    if not model.has_pieces:
        return False
    if _recomputes(model):
        return True
    if model.training or torch.is_grad_enabled() or torch.compiler.is_compiling():  # pieces would have to be kept
        return False
    fits = piece_positions(model.config.width, model.like)
    return images.device.type in ("cpu", "cuda") and exceeds_a_piece(model.config, len(images), grid, fits)


def merge_piecewise(model: "ViTAR", images: Tensor, keys: Tensor | None) -> tuple[Tensor, MergePlan]:
    """`ViTAR.merge` piece by piece: images (B, C, H, W) -> (B, rows, cols, D)."""
    merging = make_pieces(model, *images.shape[-2:], batch=len(images), keys=keys)
    merge = merge_recomputing if _recomputes(model) else merge_in_pieces
    return merge(merging, lambda regions: (pixels_of(images, region) for region in regions)), merging.plan


def make_pieces(
    model: "ViTAR", height: int, width: int, *, batch: int, keys: Tensor | None, positions: int | None = None
) -> PieceMerger:
    """What embeds and merges an image of this many pixels piece by piece; its result is `ViTAR.grid_tokens`.

    Args:
        model: with a merger.
        height, width: of the image, in pixels.
        batch: images of this size that are merged side by side.
        keys: (B,) int64 jitter keys, in training; drawn if not given.
        positions: patches of one image in a piece; by default as many as stay in cache.

    Raises:
        ValueError: a model without a merger, whose trunk would get all the patches.
    """
    if model.merger is None:
        raise ValueError(
            f'merger is "none", so nothing makes {height}x{width} pixels fit; allowed: a model with a merger.'
        )
    if not model.has_pieces:
        raise ValueError(
            'base_filter is "bicubic", which looks at the whole image; allowed for streams and pieces: "area".'
        )
    if positions is None:
        positions = max(piece_positions(model.config.width, model.like) // batch, 1)
    if positions < 1:
        raise ValueError(f"a piece of {positions} patches was asked for; allowed: 1 and more, or None.")
    plan = model.training_plan(height, width)
    if model.training and keys is None:  # all pieces of an image must have the same
        keys = torch.randint(2**62, (batch,), device=model.device)
    return PieceMerger(
        model.stem, model.position, model.merger, plan, (height, width),
        positions=positions, keys=keys, enlarges=not model.config.keeps_shape,
    )  # fmt: skip


def _recomputes(model: "ViTAR") -> bool:
    """Whether every piece is computed again in the backward pass instead of being kept."""
    return model.grad_pieces and model.training and torch.is_grad_enabled()
