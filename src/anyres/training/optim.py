"""Optimiser and learning rate: timm's AdamW groups, and its schedulers used as pure functions of the step."""

from __future__ import annotations

from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler, PolyLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import nn

from anyres.training.config import RunConfig

WARMUP_START = 1e-3
"""The warm-up starts at this fraction of the learning rate (DeiT: 1e-6 for 1e-3)."""


def make_optimizer(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    """AdamW over the model's parameters.

    Matrices decay; biases, norms and `model.no_weight_decay()` do not. Where the rate falls from layer to layer every
    group carries an `lr_scale` from `model.group_matcher` (BEiT's scheme, as in timm).
    """
    return create_optimizer_v2(
        model,
        opt="adamw",
        lr=config.lr,
        weight_decay=config.weight_decay,
        layer_decay=config.rate_from_layer_to_layer(),
        betas=config.betas,
    )


def make_schedule(optimizer: torch.optim.Optimizer, config: RunConfig) -> Scheduler:
    """Linear warm-up, then what `lr_schedule` says. `step_update(done)` sets the rates of the next step.

    `done` is the number of steps already taken, so nothing about the schedule needs saving: 0 gives the
    start of the warm-up, `warmup_steps` gives `lr`, `steps` would give `min_lr`, and with lr_schedule "step" every
    entry of `lr_drops` a tenth of what was before.
    """
    common: dict[str, Any] = {
        "warmup_t": config.warmup_steps,
        "warmup_lr_init": config.lr * WARMUP_START,
        "t_in_epochs": False,
    }
    if config.lr_schedule == "step":
        drops = [done + 1 for done in config.lr_drops]  # timm's come one step earlier than they are called
        return MultiStepLRScheduler(optimizer, decay_t=drops, decay_rate=0.1, warmup_prefix=False, **common)
    common |= {"t_initial": config.steps - config.warmup_steps, "lr_min": config.min_lr, "warmup_prefix": True}
    if config.lr_schedule == "poly":
        return PolyLRScheduler(optimizer, power=config.lr_power, **common)
    return CosineLRScheduler(optimizer, **common)


def current_lr(optimizer: torch.optim.Optimizer) -> float:
    """The learning rate of the topmost layer, which no layer decay reduces."""
    return max(group["lr"] / group.get("lr_scale", 1.0) for group in optimizer.param_groups)


def gradient_norm(model: nn.Module, clip: float | None) -> torch.Tensor:
    """Norm of all gradients together, before they are clipped in place to `clip` (None: left alone)."""
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    if clip is not None:
        return torch.nn.utils.clip_grad_norm_(parameters, clip)
    return torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
