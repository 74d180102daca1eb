"""Latency of a function: warmed up, median and 95th percentile, within a budget of seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch


class Latency(NamedTuple):
    """Milliseconds per call over `runs` timed calls."""

    p50: float
    p95: float
    runs: int


def percentile(values: list[float], percent: float) -> float:
    """The `percent`-th percentile (0 to 100) of at least one value, with linear interpolation between neighbours."""
    if not values or not 0 <= percent <= 100:
        raise ValueError(f"percentile of {len(values)} values at {percent}; allowed: 1 value or more, 0 to 100")
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def synchronise(device: torch.device) -> None:
    """Waits until the device has done what it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def latency(
    function: Callable[[], object],
    runs: int = 20,
    warmup: int = 3,
    budget_seconds: float = 10.0,
    *,
    device: torch.device | str = "cpu",
) -> Latency:
    """Times `function()` up to `runs` times after up to `warmup` calls that are not counted.

    A slow function would make a sweep endless, so warming up stops after a third of `budget_seconds` and timing stops
    when the budget is spent; at least one call of each kind is made (no warm-up call if `warmup` is 0), and `.runs`
    says how many were timed. On an accelerator every call is bracketed by a synchronisation.
    """
    if runs < 1 or warmup < 0 or not budget_seconds > 0:
        raise ValueError(
            f"runs={runs}, warmup={warmup}, budget_seconds={budget_seconds}; "
            "allowed: runs 1 or more, warmup 0 or more, a budget above 0 seconds"
        )
    device = torch.device(device)

    def call() -> float:
        synchronise(device)
        start = time.perf_counter()
        function()
        synchronise(device)
        return time.perf_counter() - start

    spent = 0.0
    for _ in range(warmup):
        spent += call()
        if spent > budget_seconds / 3:
            break
    seconds: list[float] = []
    while len(seconds) < runs and (not seconds or spent < budget_seconds):
        seconds.append(call())
        spent += seconds[-1]
    return Latency(1e3 * percentile(seconds, 50), 1e3 * percentile(seconds, 95), len(seconds))
