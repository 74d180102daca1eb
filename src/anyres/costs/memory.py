"""Memory: how many bytes of tensors are alive at once while a function runs, and what it looks like to have too few.

Counting works on any device, the meta device included.
"""

import re
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from anyres.costs.timing import synchronise

_OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "out of memory",
)


class _LiveTensors(TorchDispatchMode):
    """Adds a storage when an operator first returns it and takes it off when the last tensor that uses it is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, torch.Tensor):  # what existed before is not counted, nor are views of it
                self._track(leaf, counted=False)
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._track(leaf, counted=True)
        return result

    def _track(self, tensor: torch.Tensor, *, counted: bool) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.seen:
            return
        size = storage.nbytes() if counted else 0
        self.seen.add(key)
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.alive -= size


def peak_tensor_bytes(function: Callable[[], Any]) -> int:
    """The most bytes of tensors alive at once while `function()` runs, beyond those that existed before.

    Counts the results of operators; scratch memory inside a kernel is not seen.
    """
    with _LiveTensors() as mode:
        result = function()
    del result
    return mode.peak


def cuda_peak_bytes(function: Callable[[], Any], device: torch.device) -> int:
    """The most bytes that torch's allocator hands out on a GPU while `function()` runs, beyond those before."""
    synchronise(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    function()
    synchronise(device)
    return torch.cuda.max_memory_allocated(device) - before


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that something found no room in memory, on any device.

    PyTorch has an exception of its own for this on CUDA only; elsewhere it is known by its words.
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def what_found_no_room(error: BaseException) -> str:
    """An error of `is_out_of_memory` on one line, with what was asked for if it says so."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    known = [line for line in lines if any(words in line for words in _OUT_OF_MEMORY)]
    line = (known or lines[-1:] or ["no room"])[0]  # a process that loads images tells a traceback, which ends with it
    line = re.sub(r".*DefaultCPUAllocator: ", "", line).split(" Error code ")[0]
    return line if "out of memory" in line else f"out of memory: {line}"
