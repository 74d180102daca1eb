"""Several processes that train together, and what they must agree on.

Processes are started by torchrun, or by anything that sets its variables (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR,
MASTER_PORT). Without them everything here does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from anyres.data.share import Share
from anyres.settings import differences
from anyres.training.config import RunConfig

Made = TypeVar("Made")

PATIENCE = timedelta(hours=2)
"""How long a process waits for the others, which may be validating or writing."""


def world() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def share() -> Share:
    """Which images of a batch this process makes."""
    return Share(rank(), world())


def is_first() -> bool:
    """Whether this is the process that writes and speaks."""
    return rank() == 0


@contextmanager
def process_group() -> Iterator[None]:
    """Joins the other processes if there are any."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def local_device(device: torch.device) -> torch.device:
    """This process' own of the devices of the machine, where several processes share it."""
    if world() > 1 and device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return device


def check_processes(config: RunConfig) -> None:
    """ValueError for what several processes cannot do."""
    share().positions(config.batch_size)
    if config.accumulate > config.batch_size // world():
        raise ValueError(
            f"accumulate is {config.accumulate} for {config.batch_size // world()} images in each of {world()} "
            f"processes; allowed: 1 to {config.batch_size // world()}"
        )
    if world() > 1 and config.device.startswith("cuda:"):
        raise ValueError(
            f"device is {config.device} for {world()} processes; allowed: cuda, of which each takes its own"
        )
    if config.shard and world() == 1:
        raise ValueError("shard is given but has no effect in a single process; start with torchrun, or leave it out")
    if config.shard and config.ema is not None:
        raise ValueError("shard and ema are given; allowed: one of them")


class Elsewhere(SystemExit):
    """Another process says what went wrong."""

    def __init__(self) -> None:
        super().__init__(1)


def together(make: Callable[[], Made]) -> Made:
    """What a call gives where it succeeds in all processes; else the first that failed raises, and the others end."""
    failed: Exception | None = None
    made: Any = None
    try:
        made = make()
    except Exception as error:
        failed = error
    first = next((number for number, each in enumerate(everyones(failed is not None)) if each), None)
    if first is None:
        return made
    if failed is not None and first == rank():
        raise failed
    raise Elsewhere from failed


def demand_alike(what: str, known: dict[str, Any]) -> None:
    """ValueError in the first process, naming the fields, if others know different things; those end."""
    first, *others = everyones(known)
    for number, other in enumerate(others, start=1):
        found = differences(first, other)
        if found and is_first():
            raise ValueError(f"process {number} has other {what} than process 0: {'; '.join(found)}")
        if found:
            raise Elsewhere


def everyones(value: Made) -> list[Made]:
    """Of all processes, in their order."""
    if world() == 1:
        return [value]
    found: list[Any] = [None] * world()
    dist.all_gather_object(found, value)
    return found


def mean(value: Tensor) -> Tensor:
    """Over all processes."""
    if world() > 1:
        value = value.clone()
        dist.all_reduce(value)
        value = value / world()
    return value


def any_of(is_true: bool) -> bool:
    """Whether it is true in any process."""
    if world() == 1:
        return is_true
    found = torch.tensor([is_true], dtype=torch.int32)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return bool(found)


def wait() -> None:
    """Until all processes are here."""
    if world() > 1:
        dist.barrier()
