"""What a run is made of: what every kind of run shares, and its form on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from anyres.data.augment import TrainAugment
from anyres.data.cache import DEFAULT_BYTES
from anyres.data.decode import MAX_PIXELS
from anyres.data.schedule import EverySize, ResolutionSchedule
from anyres.devices import resolve_device
from anyres.settings import defaults, plain
from anyres.sizes import SideRange, Size, parse_entry
from anyres.training.model_options import parse_options

if TYPE_CHECKING:
    from anyres.training.task import Task

# Fields that may change between two starts of one run: they say how it is carried out, not what comes out of it.
# (`data` and the like may move; that they still hold the same is checked by the task's identity.)
OPERATIONAL = frozenset(
    {"data", "from_records", "init", "out", "num_workers", "threads", "device", "deterministic", "checkpoint_every"}
    | {"log_every", "validate_every", "validate_limit", "validate_crop_ratio", "strict", "tensorboard", "progress"}
    | {"cache_bytes", "draw_images"}
)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What engine, data and schedule need to know of a run, whatever is learned."""

    data: Path
    """Folder of images."""
    out: Path
    """Run folder. A run that is already there with the same settings goes on where it stopped."""
    model: str
    """Name of the model; `anyres models` lists them."""
    model_options: Mapping[str, Any] = field(default_factory=dict)
    """Changes to the model: keyword arguments of `create_model`, on the command line written key=value, such as
    grid=7x7 width=96 position=learned drop_path_rate=0.1"""
    sizes: tuple[str, ...] = ("224",)
    """Training sizes in pixels; every step draws one. "224", "224x320" (height x width), or a range of squares "32-96",
    log-uniform over every whole number in it."""
    size_weights: tuple[float, ...] | None = None
    """How often each size is drawn, relative to the others; all alike if not given."""
    aspect: tuple[float, float] = (1.0, 1.0)
    """Factor on each step's width / height, log-uniform in this interval; the area stays that of the size drawn."""
    repeats: int = 1
    """How often in a row an image is shown, augmented anew each time (DeiT: 3); an epoch stays as long as without."""
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
    augmentation: TrainAugment = TrainAugment()
    """What is done to each training image."""
    ema: float | None = None
    """Decay of the running average of the weights (timm's ModelEmaV3 with its warm-up), e.g. 0.9999."""
    save_ema: bool = True
    """Write the averaged weights, where there are any, as the final model; otherwise the last ones."""
    grad_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the forward pass (autocast); weights and optimiser stay in float32."""
    seed: int = 0
    """From which all randomness of the run follows."""
    num_workers: int = 0
    """Processes that decode images; the result does not depend on it."""
    cache: bool = False
    """Keep decoded images in memory, reduced as far as the largest training size and the smallest crop allow."""
    cache_bytes: int = DEFAULT_BYTES
    """Most memory that the cache may need; a run that would need more is refused at once."""
    threads: int | None = None
    """CPU threads of torch; its own choice if not given. Runs are bit-identical only for equal numbers."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, or auto: cuda where there is one, else cpu."""
    deterministic: bool = False
    """Forbid operations that are not bit-reproducible (needed for that on a GPU only; some then fail)."""
    checkpoint_every: int = 500
    """Steps between two checkpoints."""
    log_every: int = 1
    """Steps between two lines of the log."""
    validate_every: int = 0
    """Steps between two validations at every training size; 0: only at the end."""
    validate_limit: int | None = None
    """Images per validation, spread evenly over val/; all of them if not given."""
    strict: bool = False
    """Stop at the first unreadable image instead of skipping it."""
    max_pixels: int = MAX_PIXELS
    """Images with more pixels than this count as unreadable."""
    tensorboard: bool = True
    """Write TensorBoard event files too."""
    progress: bool = True
    """Show a progress bar on stderr."""

    def size_entries(self) -> list[Size | SideRange]:
        """The training sizes as (height, width), and ranges of them. ValueError for what is neither."""
        return [parse_entry(size) for size in self.sizes]

    def parsed_sizes(self) -> list[Size]:
        """The sizes to validate at and to record with the model: those of training, a range by its two ends.

        Each is there once, as (height, width), before any change of aspect.
        """
        entries = self.size_entries()
        ends = [entry.ends() if isinstance(entry, SideRange) else (entry,) for entry in entries]
        return list(dict.fromkeys(size for pair in ends for size in pair))

    def schedule(self) -> ResolutionSchedule | EverySize:
        """Which size each step has."""
        return ResolutionSchedule(self.size_entries(), self.seed, self.size_weights, self.aspect)

    def torch_device(self) -> torch.device:
        """The device meant by `device`. ValueError if this machine lacks it."""
        return resolve_device(self.device)

    def check(self) -> None:
        """ValueError for the first setting that is out of range or has no effect. Reads no files."""
        raise NotImplementedError

    def memory_advice(self) -> str:
        """What may help where a step finds no room in memory."""
        return "A larger accumulate or grad_checkpointing"

    def make_task(self) -> Task:
        """What the run learns: its model, data, loss and measure. Reads the data; ValueError for what cannot be used.

        Each kind of run imports its task in here and not above, so that a configuration needs no torch.
        """
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, as written to train.json."""
        settings: dict[str, Any] = plain(self)
        return settings


def with_defaults(old: dict[str, Any], new: dict[str, Any], kind: type[RunConfig]) -> dict[str, Any]:
    """Settings of a run (`to_json`), with the fields at their defaults that only `new` has: a later version's."""
    if isinstance(old.get("model_options"), list):  # the first version's
        old = old | {"model_options": plain(parse_options(old["model_options"]))}
    return {**{name: value for name, value in plain(defaults(kind)).items() if name in new}, **old}
