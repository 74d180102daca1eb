"""The memory that one forward pass really takes, measured where nothing else disturbs it.

On a CPU: every size in a fresh process, the growth of whose resident memory is read from Linux. Allocators keep what
was freed, so a process that has done something else before would show less. On CUDA: the allocator's own peak.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from anyres.costs.memory import cuda_peak_bytes, peak_tensor_bytes
from anyres.costs.timing import synchronise
from anyres.models.config import ViTARConfig
from anyres.models.vitar import ViTAR

Shape = tuple[int, int, int]
"""(batch, height, width)."""

_WARM_UP = (32, 32)  # loads code and starts threads; too small to leave much in the allocator


def resident_is_measured() -> bool:
    """Whether this system shows the peak of a process's memory and lets it be set back: Linux does."""
    return os.access("/proc/self/clear_refs", os.W_OK) and hasattr(os, "fork")


def peak_bytes(model: ViTAR, shapes: Iterable[Shape]) -> Iterator[int]:
    """Bytes beyond the loaded model at the peak of a forward pass of (batch, height, width), images included.

    On a CPU of a system without /proc, only tensors are counted, not what the allocator and libraries hold besides.
    """
    if model.device.type == "cuda":
        return (_cuda_peak(model, shape) for shape in shapes)
    if model.device.type == "cpu" and resident_is_measured():
        return _resident_peaks(model.config, model.dtype, shapes)
    return (peak_tensor_bytes(lambda shape=shape: model(_images(model, shape))) for shape in shapes)  # type: ignore[misc]


def _images(model: ViTAR, shape: Shape) -> Tensor:
    batch, height, width = shape
    size = (batch, model.config.in_channels, height, width)
    return torch.full(size, 0.5, dtype=model.dtype, device=model.device)


@torch.inference_mode()
def _cuda_peak(model: ViTAR, shape: Shape) -> int:
    device = model.device
    model(_images(model, (1, *_WARM_UP)))  # workspaces that libraries allocate once belong to the loaded model
    synchronise(device)
    torch.cuda.empty_cache()
    return cuda_peak_bytes(lambda: model(_images(model, shape)), device)


def _resident_peaks(config: ViTARConfig, dtype: torch.dtype, shapes: Iterable[Shape]) -> Iterator[int]:
    """One process loads a model of this configuration and splits off a process for each shape."""
    # a fresh interpreter, since this one's allocator holds memory that a pass would use without growing; it forks for
    # each shape, so that torch is imported once
    call = [sys.executable, "-c", f"from {__name__} import serve; serve({torch.get_num_threads()})"]
    with subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            print(json.dumps([asdict(config), str(dtype).removeprefix("torch.")]), file=process.stdin)
            for shape in shapes:
                print(json.dumps(shape), file=process.stdin)
                answer = process.stdout.readline()
                if not answer.strip():
                    raise MemoryError(f"a forward pass of {_named(shape)} did not survive being measured.")
                yield int(answer)
        finally:
            process.kill()


def _named(shape: Shape) -> str:
    batch, height, width = shape
    return f"{height}x{width} pixels" + (f", {batch} at once" if batch > 1 else "")


def serve(threads: int) -> None:
    """Answers each shape on a line of stdin by a line of bytes; this process itself never computes in parallel."""
    torch.set_num_threads(1)
    settings, dtype = json.loads(sys.stdin.readline())
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in settings.items()}
    model = ViTAR(ViTARConfig(**values)).eval().to(getattr(torch, dtype))
    for line in sys.stdin:
        child = os.fork()  # before any thread was started
        if not child:
            try:
                torch.set_num_threads(threads)
                print(_resident_peak(model, tuple(json.loads(line))), flush=True)
                os._exit(0)
            finally:
                os._exit(1)  # an error must not bring the copy into the loop of the original
        if os.waitpid(child, 0)[1]:
            print(flush=True)


@torch.inference_mode()
def _resident_peak(model: ViTAR, shape: Shape) -> int:
    model(_images(model, (1, *_WARM_UP)))
    before = _status("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # sets the peak to what is resident now
    model(_images(model, shape))
    return max(_status("VmHWM") - before, 0)


def _status(name: str) -> int:
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(name + ":"))
