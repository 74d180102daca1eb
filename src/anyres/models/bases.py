"""What the pyramid merger gets beside patches: each cell as it looks in the image averaged down to its grid."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from anyres.layers.averaged import AxisResize
from anyres.layers.merge_plan import MergePlan
from anyres.layers.pyramid_merger import PyramidMerger, level_keys, reduced_images
from anyres.layers.stem import complete_patches

if TYPE_CHECKING:
    from anyres.models.vitar import ViTAR


def fitted(model: "ViTAR", images: Tensor) -> Tensor:
    """Images (B, C, H, W) with as many pixels as their plan has patches; as they are where no bases are needed.

    An axis of fewer patches than the plan has is enlarged, but completed by its edge where cells are fixed.
    """
    if not isinstance(model.merger, PyramidMerger):
        return images
    patch, size = model.config.patch_size, model.plan(*images.shape[-2:]).size
    for dim, patches in zip((-2, -1), size, strict=True):
        is_short = images.shape[dim] <= (patches - 1) * patch
        if is_short and not model.config.keeps_shape:
            exact = images.to(torch.promote_types(images.dtype, torch.float32))
            images = AxisResize(images.shape[dim], patches * patch).apply(exact, images.ndim + dim).to(images.dtype)
    return complete_patches(images, patch, size)


def make_bases(model: "ViTAR", images: Tensor, tokens: Tensor, plan: MergePlan, keys: Tensor | None) -> list[Tensor]:
    """The base of every cell at each level of a plan, (B, R, C, D).

    Args:
        model: with a pyramid merger.
        images: (B, C, H, W), fitted.
        tokens: (B, rows, cols, D), their patches with positions.
        plan: how they are merged.
        keys: (B,) int64 jitter keys, in training.
    """
    bases: list[Tensor] = []
    reductions = 0
    for image in reduced_images(images, plan, model.config.patch_size):
        if image is None:
            bases.append(bases[-1] if bases else tokens)
            continue
        reductions += 1
        bases.append(model.position(model.stem(image.to(images.dtype)), level_keys(keys, reductions)))
    return bases
