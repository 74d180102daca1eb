"""Names of devices: one vocabulary for training, evaluation and prediction; and what the processor is fast in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from anyres.errors import unknown

if TYPE_CHECKING:
    import torch


def check_device(text: str) -> None:
    """Raises ValueError, with the nearest names, for the name of a device that there is not, or not on this machine.

    What every machine has is known without torch, which takes seconds to import.
    """
    if text not in ("auto", "cpu"):
        resolve_device(text)


def resolve_device(text: str) -> torch.device:
    """The device meant by a name: "auto" (cuda where there is one, else cpu), "cpu", "cuda", "cuda:N" or "mps".

    Raises ValueError, with the nearest names, for anything else and for a device that this machine lacks.
    """
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if text == "auto":
        return torch.device("cuda" if gpus else "cpu")
    allowed = ["auto", "cpu"]
    allowed += ["cuda", *(f"cuda:{index}" for index in range(gpus))] if gpus else []
    allowed += ["mps"] if torch.backends.mps.is_available() else []
    if text not in allowed:
        raise unknown("device", text, allowed)
    return torch.device(text)


def fast_precision() -> Literal["bfloat16", "float32"]:
    """bfloat16 where the processor computes in it, else float32."""
    import torch

    return "bfloat16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "float32"
