"""What a model accepts as images, and how images of different sizes are gathered."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Images = Tensor | Sequence[Tensor]

Result = TypeVar("Result")


def check_images(images: Tensor, rank: int, channels: int, dtype: torch.dtype) -> None:
    """Refuses what is not a batch (rank 4) or a single image (rank 3) for a model of these channels and this type."""
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
    given = images.shape[rank - 3]
    if given != channels:
        raise ValueError(f"images have {given} channels; this model takes {channels} ({layout}).")
    if images.dtype != dtype and not torch.is_autocast_enabled(images.device.type):
        raise ValueError(f"images are {images.dtype} but the model is {dtype}; use images.to({dtype}) or autocast.")


def group_by(kinds: Iterable[Hashable]) -> list[list[int]]:
    """Indices of equal kinds, such as shapes, together, in the order of their first appearance."""
    groups: dict[Hashable, list[int]] = {}
    for index, kind in enumerate(kinds):
        groups.setdefault(kind, []).append(index)
    return list(groups.values())


def run_by_group(kinds: Iterable[Hashable], run: Callable[[list[int]], Iterable[Result]]) -> list[Result]:
    """Runs together what is of one kind; the results are in the order of what was given, as if run one by one.

    Args:
        kinds: of each thing, such as the shape of an image.
        run: gets the indices of all things of a kind; gives one result for each.
    """
    found: dict[int, Result] = {}
    for members in group_by(kinds):
        found.update(zip(members, run(members), strict=True))
    return [found[index] for index in sorted(found)]
