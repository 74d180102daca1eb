"""Lists of images of different sizes: each gives what it would give alone, as much as possible done together."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from anyres.layers.merge_plan import Grid, MergePlan
from anyres.layers.position import grid_centres
from anyres.layers.region import Region
from anyres.models.features import Features
from anyres.models.images import check_images, run_by_group

if TYPE_CHECKING:
    from anyres.models.trunk import Trunk
    from anyres.models.vitar import ViTAR

_PADDING = 1.5  # times the tokens of a list that a padded batch may have: beyond that, batches of equal grids


def forward_list(model: "ViTAR", images: Sequence[Tensor], keys: Tensor | None) -> Features:
    """`ViTAR.forward_features` of images (C, H_i, W_i)."""
    merged, keys = merge_list(model, images, keys)
    tokens, plans = [each for each, _ in merged], [plan for _, plan in merged]
    grids = [plan.grid for plan in plans]
    if _pays_padding(model.trunk, grids):
        found = _padded(model.trunk, tokens, grids, keys)
    else:
        found = run_by_group(grids, lambda members: _alike(model.trunk, tokens, keys, members))
    prefix = torch.stack([each for _, each in found])  # (B, P, D)
    return model.features_of([grid for grid, _ in found], prefix, plans)


def merge_list(
    model: "ViTAR", images: Sequence[Tensor], keys: Tensor | None
) -> tuple[list[tuple[Tensor, MergePlan]], Tensor | None]:
    """`ViTAR.merge` of images (C, H_i, W_i), those of one size together: (rows_i, cols_i, D) and plan of each.

    Also the images' keys, drawn if this is training and none are given.
    """
    if not isinstance(images, Sequence) or not images:
        raise ValueError(f"images are {images!r:.60}; give a (B, C, H, W) tensor, or a list of (C, H, W) tensors.")
    for image in images:
        check_images(image, 3, model.config.in_channels, model.dtype)
    if keys is None and model.training:
        keys = torch.randint(2**62, (len(images),), device=images[0].device)
    if keys is not None and len(keys) != len(images):
        raise ValueError(f"there are {len(keys)} jitter keys for {len(images)} images; give one for each.")

    def merge(members: list[int]) -> list[tuple[Tensor, MergePlan]]:
        tokens, plan = model.merge(torch.stack([images[i] for i in members]), _take(keys, members))
        return [(each, plan) for each in tokens]

    return run_by_group((tuple(image.shape) for image in images), merge), keys


def _pays_padding(trunk: "Trunk", grids: Sequence[Grid]) -> bool:
    """Whether images of these final grids go through the trunk as one padded batch: no block may need the grid."""
    counts = [rows * cols for rows, cols in grids]
    if len(set(grids)) == 1 or trunk.needs_grid:
        return False
    return len(grids) * max(counts) <= _PADDING * sum(counts)


def _padded(
    trunk: "Trunk", tokens: Sequence[Tensor], grids: Sequence[Grid], keys: Tensor | None
) -> list[tuple[Tensor, Tensor]]:
    """Grid tokens (rows_i, cols_i, D) and prefix tokens (P, D) of each image, all in one batch."""
    centres = [grid_centres(Region.whole(grid), tokens[0].device).flatten(0, 1) for grid in grids]  # (N_i, 2) each
    outputs = trunk.forward_sets([each.flatten(0, 1) for each in tokens], centres, keys)  # (B, P + N, D)
    lengths = [trunk.num_prefix_tokens + rows * cols for rows, cols in grids]
    pairs = (trunk.split(x[None, :length], grid) for x, length, grid in zip(outputs, lengths, grids, strict=True))
    return [(grid[0], prefix[0]) for grid, prefix in pairs]


def _alike(
    trunk: "Trunk", tokens: Sequence[Tensor], keys: Tensor | None, members: list[int]
) -> list[tuple[Tensor, Tensor]]:
    """The same of some images of one grid."""
    batch = torch.stack([tokens[i] for i in members])  # (b, rows, cols, D)
    grids, prefixes = trunk(batch, _take(keys, members))
    return list(zip(grids, prefixes, strict=True))


def _take(keys: Tensor | None, members: list[int]) -> Tensor | None:
    """The keys of some images."""
    return None if keys is None else keys[torch.tensor(members, device=keys.device)]
