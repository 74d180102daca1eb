"""One optimiser step, and the state that makes the next one: weights, optimiser, average, step count."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import nn

from anyres.seeds import key
from anyres.training.config import RunConfig
from anyres.training.optim import current_lr, gradient_norm, make_optimizer, make_schedule
from anyres.training.parallel import mean, rank
from anyres.training.sharding import SharedLoss, load_states, model_state, optimizer_state, whole
from anyres.training.task import Step, Task

_STEP = 0x53544550  # keeps the draws of drop path and depth apart from all others


@dataclass(frozen=True)
class StepResult:
    """What one step reports."""

    loss: float
    grad_norm: float
    """Before clipping."""
    lr: float


class Trainer:
    """Holds the state of a run; `update` is the only thing that changes it.

    At most two copies of the weights besides the optimiser: the model and, with `ema`, its average.
    """

    def __init__(self, config: RunConfig, task: Task, device: torch.device) -> None:
        self.config, self.task, self.device = config, task, device
        self.model = task.model.to(device)  # before the optimiser, which would hold the parameters left behind
        if device.type == "cpu":
            use_plain_attention(self.model)
        config.save_memory(self.model)
        self.ema = None
        if config.ema is not None:
            self.ema = ModelEmaV3(self.model, decay=config.ema, use_warmup=True)
        self._whole = copy.deepcopy(self.model).cpu() if config.shard else None  # to validate and to save
        # before the optimiser, which would else hold whole parameters
        self.loss = SharedLoss(task, device, shards=config.shard)
        self.optimizer = make_optimizer(self.model, config)
        self.schedule = make_schedule(self.optimizer, config)
        self.step = 0
        """Steps done."""

    def update(self, batch: Step) -> StepResult:
        """One optimiser step on one batch.

        FloatingPointError, before any weight changes, if loss or gradient is not finite.
        """
        self.model.train()
        self.schedule.step_update(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._backward(batch)
        norm = whole(gradient_norm(self.model, self.config.clip_grad)).item() if math.isfinite(loss) else math.nan
        for name, value in (("loss", loss), ("gradient norm", norm)):
            if not math.isfinite(value):
                height, width = batch.size
                raise FloatingPointError(
                    f"the {name} is {value} at step {self.step + 1} of {self.config.steps}, size {height}x{width}"
                )
        self.optimizer.step()
        self.step += 1
        if self.ema is not None:
            self.ema.update(self.model, step=self.step)
        return StepResult(loss, norm, current_lr(self.optimizer))

    def _backward(self, batch: Step) -> float:
        """Gradients of the mean loss of the batch, piece by piece; returns that loss."""
        prepared = self.task.prepare(batch, self.device)
        count = len(batch.labels)
        total = torch.zeros((), device=self.device)
        parts = pieces(count, self.config.accumulate)
        for piece, rows in enumerate(parts):
            # What a model draws for itself follows from seed and step, so that a resumed run draws the same again.
            torch.manual_seed(key(self.config.seed, _STEP, self.step, rank() * len(parts) + piece))
            with self.autocast():
                # Weighted, so that the sum over pieces of unequal length is the mean over the batch.
                loss = self.loss(prepared, rows, is_last=piece == len(parts) - 1)
                loss = loss * ((rows.stop - rows.start) / count)
            loss.backward()
            total += loss.detach()
        return mean(total).item()

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of forward passes."""
        if self.config.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def final_model(self) -> nn.Module:
        """The weights to measure and to keep: the average, if there is one and it is asked for.

        All processes call it together; a sharded model is whole in the first alone.
        """
        if self._whole is not None:
            state = model_state(self.model)
            if state:
                self._whole.load_state_dict(state)
            return self._whole
        return self.ema.module if self.ema is not None and self.config.save_ema else self.model

    def validate(self, model: nn.Module) -> list[dict[str, Any]]:
        """What the task measures of `final_model`."""
        with self.autocast():
            return self.task.validate(model.to(self.device), self.device, self.step)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on. Random states are none of it: they follow from seed and step."""
        return {
            "step": self.step,
            "model": model_state(self.model),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "optimizer": optimizer_state(self.model, self.optimizer),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """ValueError if the tensors are not those of this model."""
        try:
            load_states(self.model, self.optimizer, state["model"], state["optimizer"])
            if self.ema is not None:
                self.ema.module.load_state_dict(state["ema"])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"the checkpoint does not fit this model: {error}") from error
        self.step = state["step"]


def pieces(count: int, parts: int) -> list[slice]:
    """`count` rows as `parts` neighbouring slices whose lengths differ by at most one; none is empty."""
    parts = min(parts, count)
    ends = [count * i // parts for i in range(parts + 1)]
    return [slice(start, stop) for start, stop in zip(ends, ends[1:], strict=False)]


def use_plain_attention(model: nn.Module) -> None:
    """Replaces timm's fused attention by plain matrix products, whose backward pass is much faster on a CPU."""
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            setattr(module, "fused_attn", False)  # noqa: B010 (the attribute is not the class Module's)


@contextmanager
def torch_settings(config: RunConfig, device: torch.device) -> Iterator[None]:
    """Threads, determinism and random states as the run wants them; the caller's own are put back afterwards."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            if config.threads is not None:
                torch.set_num_threads(config.threads)
            if config.deterministic:
                os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS demands it
                torch.use_deterministic_algorithms(True)
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic)
