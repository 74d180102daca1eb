"""Optimiser and learning rate: timm's AdamW groups, and its schedulers used as pure functions of the step."""

from __future__ import annotations

from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler, PolyLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import nn

from anyres.errors import check_choice
from anyres.training.config import RunConfig

WARMUP_START = 1e-3
"""The warm-up starts at this fraction of the learning rate (DeiT: 1e-6 for 1e-3)."""


def make_optimizer(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    """AdamW over the model's parameters.

    Matrices decay; biases, norms and `model.no_weight_decay()` do not. With `layer_decay` every group carries
    an `lr_scale` from `model.group_matcher` (BEiT's scheme, as in timm).
    """
    return create_optimizer_v2(
        model,
        opt="adamw",
        lr=config.lr,
        weight_decay=config.weight_decay,
        layer_decay=getattr(config, "layer_decay", None),  # pre-training has none
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


def check_schedule(config: RunConfig) -> None:
    """ValueError for a schedule of the learning rate that cannot be."""
    check_choice("lr_schedule", config.lr_schedule, ("cosine", "poly", "step"))
    if config.warmup_steps >= config.steps:
        raise ValueError(
            f"warmup_steps is {config.warmup_steps} of {config.steps} steps; allowed: 0 to {config.steps - 1}; "
            f"nearest: {config.steps - 1}; usual: {config.steps // 20}"
        )
    if config.min_lr > config.lr:
        raise ValueError(f"min_lr is {config.min_lr:g}, above lr {config.lr:g}; allowed: 0 to {config.lr:g}")
    if config.lr_schedule == "step":
        _check_drops(config)


def _check_drops(config: RunConfig) -> None:
    drops, first, last = list(config.lr_drops), config.warmup_steps + 1, config.steps - 1
    inside = all(type(drop) is int and first <= drop <= last for drop in drops)
    if not drops or not inside or drops != sorted(set(drops)):
        usual = sorted({min(max(config.steps * part // 12, first), last) for part in (9, 11)})
        raise ValueError(
            f'lr_drops is {config.lr_drops} with lr_schedule "step"; allowed: rising whole numbers from {first} '
            f"(after the warm-up) to {last}; usual: {' '.join(map(str, usual))}"
        )


def idle_in_schedule(config: RunConfig) -> dict[str, str | None]:
    """Settings of the schedule, and why they have no effect; None if they have one."""
    kind = f"lr_schedule is {config.lr_schedule!r}"
    return {
        "min_lr": kind if config.lr_schedule == "step" else None,
        "lr_power": None if config.lr_schedule == "poly" else kind,
        "lr_drops": None if config.lr_schedule == "step" else kind,
    }


def current_lr(optimizer: torch.optim.Optimizer) -> float:
    """The learning rate of the topmost layer, which no layer decay reduces."""
    return max(group["lr"] / group.get("lr_scale", 1.0) for group in optimizer.param_groups)


def gradient_norm(model: nn.Module, clip: float | None) -> torch.Tensor:
    """Norm of all gradients together, before they are clipped in place to `clip` (None: left alone)."""
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    if clip is not None:
        return torch.nn.utils.clip_grad_norm_(parameters, clip)
    return torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
