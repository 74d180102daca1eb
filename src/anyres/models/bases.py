"""What the pyramid merger gets beside patches: each cell as it looks in the image averaged down to its grid."""

from typing import TYPE_CHECKING

from torch import Tensor

from anyres.layers.fitted import AxisFit
from anyres.layers.merge_plan import MergePlan, token_grid
from anyres.layers.position import FuzzyPositionalEncoding, NoPosition
from anyres.layers.pyramid_merger import PyramidMerger, level_keys, reduced_images
from anyres.layers.sincos import SinCosPosition
from anyres.layers.stem import PatchStem
from anyres.layers.visible import visible_cells
from anyres.models.config import ViTARConfig
from anyres.sizes import Size

if TYPE_CHECKING:
    from anyres.models.vitar import ViTAR

LOCAL_POSITIONS = (FuzzyPositionalEncoding, SinCosPosition, NoPosition)


def fitted(model: "ViTAR", images: Tensor) -> Tensor:
    """Images (B, C, H, W) with as many pixels as their plan has patches; as they are where no bases are needed.

    An axis of fewer patches than the plan has is enlarged, but completed by its edge where cells are fixed.
    """
    if not isinstance(model.merger, PyramidMerger):
        return images
    for axis, fit in enumerate(_fits(model.config, *images.shape[-2:])):
        images = fit.apply(images, images.ndim - 2 + axis)
    return images


def covered(config: ViTARConfig, height: int, width: int) -> Size:
    """See `ViTAR.covered`."""
    rows, cols = (fit.target if fit.enlarging is None else fit.source for fit in _fits(config, height, width))
    return rows, cols


def _fits(config: ViTARConfig, height: int, width: int) -> list[AxisFit]:
    patches = config.plan(token_grid(height, width, config.patch_size)).size
    return [
        AxisFit(side, number, config.patch_size, enlarges=not config.keeps_shape)
        for side, number in zip((height, width), patches, strict=True)
    ]


def make_bases(
    model: "ViTAR",
    images: Tensor,
    tokens: Tensor,
    plan: MergePlan,
    keys: Tensor | None,
    is_visible: Tensor | None = None,
) -> list[Tensor]:
    """The base of every cell at each level of a plan, (B, R, C, D), or of those with visible patches alone, (m, D).

    Args:
        model: with a pyramid merger.
        images: (B, C, H, W), fitted.
        tokens: (B, rows, cols, D), their patches with positions; those that are visible, (n, D).
        plan: how they are merged.
        keys: (B,) int64 jitter keys, in training.
        is_visible: (B, rows, cols) bool, the patches that are looked at, if not all; of whole cells.
    """
    bases: list[Tensor] = []
    reductions = 0
    for level, image in zip(plan.levels, reduced_images(images, plan, model.config.patch_size), strict=True):
        if is_visible is not None:
            is_visible = visible_cells(is_visible, level)
        if image is None:
            bases.append(bases[-1] if bases else tokens)
            continue
        reductions += 1
        bases.append(embed(model, image.to(images.dtype), level_keys(keys, reductions), is_visible))
    return bases


def embed(model: "ViTAR", images: Tensor, keys: Tensor | None, is_visible: Tensor | None = None) -> Tensor:
    """Patches with positions, (B, rows, cols, D), or the visible ones alone, (n, D), at their cost alone."""
    if is_visible is None:
        return model.position(model.stem(images), keys)
    stem, position = model.stem, model.position
    assert isinstance(stem, PatchStem) and isinstance(position, LOCAL_POSITIONS)  # see MAEConfig
    return position.add_to_visible(stem(images, is_visible), is_visible, keys)
