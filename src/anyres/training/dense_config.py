"""What runs of segmentation and of detection have in common: a backbone that may start from weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from anyres.training.checks import idle_in_any_run
from anyres.training.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class DenseConfig(RunConfig):
    """A run of a model with a backbone and heads on it."""

    init: Path | None = None
    """Start the backbone from these weights instead of random ones: folder of a run of `anyres pretrain` or `anyres
    train` of any task, or a ViT or MAE of timm or transformers (.safetensors, .pth)."""
    init_resize: bool = False
    """Read the position table of init bilinearly at the model's grid, where that is another."""
    layer_decay: float | None = None
    """Factor on the learning rate from each layer of the backbone to the one below it (ViTDet, base: 0.7); what stands
    on the backbone has the whole rate. The same for all layers if not given."""


def idle_in_dense_runs(config: DenseConfig, task: str) -> dict[str, str | None]:
    """Settings, and why they have no effect; None if they have one."""
    return idle_in_any_run(config) | {
        "cache": f"{task} reads its files anew",
        "cache_bytes": "there is no cache",
        "repeats": f"{task} shows every image once in an epoch",
        "init_resize": "there is no init" if config.init is None else None,
    }
