"""What a run is made of: what every kind of run shares, its checks, and its form on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_type_hints

from anyres.devices import resolve_device
from anyres.errors import check_choice
from anyres.settings import defaults, differences, plain
from anyres.training.run_checks import ABOVE_ZERO, FROM_ZERO, Range, check_idle, check_integers, check_numbers

if TYPE_CHECKING:
    import torch
    from torch import nn

    from anyres.training.task import Task

_OPERATIONAL = "says how a run is carried out, not what comes out of it"
Value = TypeVar("Value")
Operational = Annotated[Value, _OPERATIONAL]
"""Of a field that may change between two starts of one run. (Data may move: that they still hold the same is checked by
the task's identity.)"""

_INTEGERS = {
    "steps": 1, "batch_size": 1, "accumulate": 1, "warmup_steps": 0, "seed": 0, "threads": 1, "checkpoint_every": 1,
    "log_every": 1, "validate_every": 0,
}  # fmt: skip
_NUMBERS: dict[str, Range] = {
    "lr": ABOVE_ZERO, "min_lr": FROM_ZERO, "lr_power": ABOVE_ZERO, "weight_decay": FROM_ZERO, "clip_grad": ABOVE_ZERO,
    "ema": (0.0, 1.0, "()"), "betas": (0.0, 1.0, "[)"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What the engine needs to know of a run, whatever is learned."""

    out: Operational[Path]
    """Run folder. A run that is already there with the same settings goes on where it stopped."""
    steps: int = 10_000
    """Optimiser steps."""
    batch_size: int = 64
    """Images per optimiser step."""
    accumulate: int = 1
    """Pieces that a batch is cut into, to save memory; the gradient is that of the whole batch, up to rounding and to
    the draws of drop path and extra passes, which each piece makes for itself."""
    lr: float = 1e-3
    """Learning rate at the end of the warm-up."""
    min_lr: float = 1e-5
    """Learning rate that the cosine or polynomial ends at."""
    warmup_steps: int = 500
    """Steps of linear warm-up from a thousandth of the learning rate."""
    lr_schedule: Literal["cosine", "poly", "step"] = "cosine"
    """How the learning rate falls after the warm-up: along a half cosine, as a power of the share of steps still to
    come, or by a tenth at each of lr_drops."""
    lr_power: float = 1.0
    """Power of lr_schedule "poly"; 1 is a straight line."""
    lr_drops: tuple[int, ...] = ()
    """With lr_schedule "step": numbers of steps done after which the learning rate is divided by 10."""
    weight_decay: float = 0.05
    """AdamW's decay of matrices; biases, norms and the position table are left alone."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's two averages."""
    clip_grad: float | None = None
    """Largest gradient norm; longer gradients are scaled down to it. No clipping if not given."""
    ema: float | None = None
    """Decay of the running average of the weights (timm's ModelEmaV3 with its warm-up), e.g. 0.9999."""
    save_ema: bool = True
    """Write the averaged weights, where there are any, as the final model; otherwise the last ones."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the forward pass (autocast); weights and optimiser stay in float32."""
    seed: int = 0
    """From which all randomness of the run follows."""
    threads: Operational[int | None] = None
    """CPU threads of torch; its own choice if not given. Runs are bit-identical only for equal numbers."""
    device: Operational[str] = "auto"
    """cpu, cuda, cuda:1, mps, or auto: cuda where there is one, else cpu."""
    shard: Operational[bool] = False
    """With several processes (torchrun): each holds a part of weights, gradients and optimiser (FSDP2) instead of all
    of them (DDP). The result is the same."""
    deterministic: Operational[bool] = False
    """Forbid operations that are not bit-reproducible (needed for that on a GPU only; some then fail)."""
    checkpoint_every: Operational[int] = 500
    """Steps between two checkpoints."""
    log_every: Operational[int] = 1
    """Steps between two lines of the log."""
    validate_every: Operational[int] = 0
    """Steps between two validations at every training size; 0: only at the end."""
    tensorboard: Operational[bool] = True
    """Write TensorBoard event files too."""
    progress: Operational[bool] = True
    """Show a progress bar on stderr."""

    # What each kind of run says for itself.

    def make_task(self) -> Task:
        """What the run learns: its model, data, loss and measure. Reads the data; ValueError for what cannot be used.

        Each kind of run imports its task in here and not above, so that a configuration needs no torch; the task in
        turn imports its configuration for its type alone.
        """
        raise NotImplementedError

    def check(self) -> None:
        """ValueError for the first setting that is out of range or has no effect. Reads no files.

        Other kinds of runs check what they add after this.
        """
        check_integers(self, _INTEGERS)
        check_numbers(self, _NUMBERS)
        check_choice("precision", self.precision, ("float32", "bfloat16"))
        self.torch_device()
        _check_rates(self)
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"accumulate is {self.accumulate} for a batch of {self.batch_size}; a piece needs an image: "
                f"allowed: 1 to {self.batch_size}"
            )
        check_idle(self, self.idle())

    def idle(self) -> dict[str, str | None]:
        """Settings, and why others leave them without effect; None if they have one."""
        schedule = f"lr_schedule is {self.lr_schedule!r}"
        return {
            "min_lr": schedule if self.lr_schedule == "step" else None,
            "lr_power": None if self.lr_schedule == "poly" else schedule,
            "lr_drops": None if self.lr_schedule == "step" else schedule,
            "save_ema": "there is no running average without ema" if self.ema is None else None,
        }

    def rate_from_layer_to_layer(self) -> float | None:
        """Factor on the learning rate from each layer to the one below it; None: all layers have the same."""
        return None

    def save_memory(self, model: nn.Module) -> None:
        """Has a model keep less for the backward pass, as far as the settings say so."""

    def memory_advice(self) -> str:
        """What may help where a step finds no room in memory."""
        return "A larger accumulate"

    @classmethod
    def from_older(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """Settings that an older version may have written, in the form of today."""
        return settings

    # What follows from the fields.

    def torch_device(self) -> torch.device:
        """The device meant by `device`. ValueError if this machine lacks it."""
        return resolve_device(self.device)

    def to_json(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, as written to train.json."""
        settings: dict[str, Any] = plain(self)
        return settings


def operational(kind: type[RunConfig]) -> frozenset[str]:
    """The names of the `Operational` fields."""
    hints = get_type_hints(kind, include_extras=True)
    return frozenset(name for name, hint in hints.items() if _OPERATIONAL in getattr(hint, "__metadata__", ()))


def changed_settings(old: dict[str, Any], config: RunConfig) -> list[str]:
    """What makes a run on disk another one than the one that is asked for: lines of `differences`.

    Args:
        old: settings of the run on disk (`to_json`), maybe an older version's; fields that it did not know yet have
            their defaults.
    """
    kind = type(config)
    return differences({**plain(defaults(kind)), **kind.from_older(old)}, config.to_json(), operational(kind))


def _check_rates(config: RunConfig) -> None:
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
