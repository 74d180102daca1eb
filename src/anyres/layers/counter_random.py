"""Random numbers that are a pure function of (key, row, column), so that they do not depend on how work is divided."""

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 2**64 / golden ratio, as a signed 64-bit integer


def _mix(value: Tensor) -> Tensor:
    """The finaliser of splitmix64 (Steele et al. 2014, "Fast splittable pseudorandom number generators")."""
    value = (value ^ _shift(value, 30)) * -4658895280553007687
    value = (value ^ _shift(value, 27)) * -7723592293110705685
    return value ^ _shift(value, 31)


def _shift(value: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch's own is arithmetic."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def derived_keys(keys: Tensor, number: int) -> Tensor:
    """Keys (B,) int64 of something else about the same images, by its number."""
    return _mix(keys + _mix(torch.full_like(keys, number)))


def counter_uniform(keys: Tensor, size: tuple[int, int], *, start: tuple[int, int] = (0, 0)) -> Tensor:
    """Two uniform numbers in [0, 1) for each image and position.

    Args:
        keys: (B,) int64, one key for each image.
        size: rows and columns of the region to fill.
        start: position of the region's first row and column; a region equals the same part of the whole.

    Returns:
        (B, rows, cols, 2) float32.
    """
    rows = torch.arange(start[0], start[0] + size[0], device=keys.device)
    cols = torch.arange(start[1], start[1] + size[1], device=keys.device)
    counter = ((rows[:, None] << 32) + cols)[..., None] * 2 + torch.arange(2, device=keys.device)  # (rows, cols, 2)
    bits = _mix(_mix(keys)[:, None, None, None] + counter * _GOLDEN)
    return _shift(bits, 40).float() * 2.0**-24
