"""Range checks of a training configuration: every message says what was given, what is allowed and what is nearest."""

from __future__ import annotations

import math
from typing import Any

from anyres.data.schedule import SideRange, Size
from anyres.data.transforms import train_transform
from anyres.errors import check_choice
from anyres.models.presets import get_config
from anyres.training.config import TrainConfig, default_of

# name -> lowest
_INTEGERS: dict[str, int] = {
    "steps": 1, "batch_size": 1, "accumulate": 1, "warmup_steps": 0, "seed": 0, "num_workers": 0, "threads": 1,
    "checkpoint_every": 1, "log_every": 1, "validate_every": 0, "validate_limit": 1, "cache_bytes": 1, "repeats": 1,
}  # fmt: skip
# name -> lowest, highest, and in brackets whether they are allowed themselves
_NUMBERS: dict[str, tuple[float, float, str]] = {
    "lr": (0.0, math.inf, "()"),
    "min_lr": (0.0, math.inf, "[)"),
    "weight_decay": (0.0, math.inf, "[)"),
    "layer_decay": (0.0, 1.0, "(]"),
    "clip_grad": (0.0, math.inf, "()"),
    "mixup": (0.0, math.inf, "[)"),
    "cutmix": (0.0, math.inf, "[)"),
    "mixup_prob": (0.0, 1.0, "[]"),
    "mixup_switch_prob": (0.0, 1.0, "[]"),
    "smoothing": (0.0, 1.0, "[)"),
    "ema": (0.0, 1.0, "()"),
    "validate_crop_ratio": (0.0, 1.0, "(]"),
    "consistency": (0.0, math.inf, "[)"),
}


# what a head that is trained on records leaves without effect
_OF_IMAGES = (
    "data", "model", "model_options", "sizes", "size_weights", "aspect", "replicas", "consistency", "repeats",
    "layer_decay", "augmentation", "mixup", "cutmix", "mixup_prob", "mixup_switch_prob", "grad_checkpointing",
    "grad_pieces", "num_workers", "cache", "cache_bytes", "validate_limit", "validate_crop_ratio", "strict",
    "max_pixels",
)  # fmt: skip


def check_config(config: TrainConfig) -> None:
    """ValueError for the first field that is out of range, contradicts another or has no effect."""
    for name, lowest in _INTEGERS.items():
        if not _is_left_out(config, name):
            _check_integer(name, getattr(config, name), lowest)
    for name, (low, high, ends) in _NUMBERS.items():
        if not _is_left_out(config, name):
            _check_number(name, getattr(config, name), low, high, ends)
    for beta in config.betas:
        _check_number("betas", beta, 0.0, 1.0, "[)")
    check_choice("precision", config.precision, ("float32", "bfloat16"))
    config.torch_device()
    _check_sizes(config)
    _check_schedule(config)
    _check_mixing(config)
    _check_idle(config)
    model = get_config(config.model, **config.overrides())
    if config.grad_pieces and model.merger == "none":
        raise ValueError(
            f"grad_pieces is set and {config.model} has no merger; allowed: grad_checkpointing, or a ViTAR"
        )
    try:
        train_transform(config.parsed_sizes()[0], config.augmentation, model.mean, model.std)
    except (AssertionError, KeyError, ValueError, IndexError) as error:
        given = config.augmentation.auto_augment
        raise ValueError(
            f"augmentation.auto_augment is {given!r}, which timm does not understand ({error}); allowed: None, "
            "original, v0, or settings that begin with rand-, augmix- or 3a, such as rand-m9-mstd0.5-inc1"
        ) from error


def _is_left_out(config: TrainConfig, name: str) -> bool:
    """None in a field that may be None."""
    return getattr(config, name) is None and default_of(name) is None


def _check_integer(name: str, given: Any, lowest: int) -> None:
    if isinstance(given, bool) or not isinstance(given, int) or given < lowest:
        raise ValueError(f"{name} is {given!r}; allowed: whole numbers from {lowest} up; nearest: {lowest}")


def _check_number(name: str, given: Any, low: float, high: float, ends: str) -> None:
    inside = isinstance(given, int | float) and low <= given <= high
    inside = inside and (ends[0] == "[" or given > low) and (ends[1] == "]" or given < high)
    if not inside:
        above = f"{'from' if ends[0] == '[' else 'above'} {low:g}"
        below = "" if high == math.inf else f" {'up to' if ends[1] == ']' else 'to below'} {high:g}"
        raise ValueError(f"{name} is {given!r}; allowed: {above}{below}; the default is {default_of(name)}")


def _check_sizes(config: TrainConfig) -> None:
    if not config.sizes:
        raise ValueError('sizes is empty; give at least one training size, for example "224" or "224x320"')
    entries = config.size_entries()
    repeated = [entry for entry in entries if entries.count(entry) > 1]
    if repeated:
        raise ValueError(f"sizes names {_text(repeated[0])} twice; use size_weights to draw one of them more often")
    if config.replicas:
        _check_replicas(config)
    config.schedule()


def _text(entry: Size | SideRange) -> str:
    return f"{entry.low}-{entry.high}" if isinstance(entry, SideRange) else f"{entry[0]}x{entry[1]}"


def _check_replicas(config: TrainConfig) -> None:
    """Replicas are shown at all the sizes of every step, so there must be several, and nothing is drawn."""
    ranges = [entry for entry in config.size_entries() if isinstance(entry, SideRange)]
    if ranges:
        low, high = ranges[0].low, ranges[0].high
        raise ValueError(f"sizes holds the range {low}-{high}, but replicas need fixed sizes; nearest: {low} {high}")
    if len(config.sizes) < 2:
        raise ValueError(f"replicas at the one size {config.sizes[0]} would be no replicas; give two sizes or more")


def _check_idle(config: TrainConfig) -> None:
    """ValueError for a setting that differs from its default although another leaves it without effect."""
    unmixed = not (config.mixup or config.cutmix)
    switched_off = next((name for name in ("mixup_prob", "mixup", "cutmix") if not getattr(config, name)), None)
    idle: dict[str, str | None] = {
        "save_ema": "there is no running average without ema" if config.ema is None else None,
        "mixup_prob": "mixup and cutmix are 0" if unmixed else None,
        "mixup": "mixup_prob is 0" if not config.mixup_prob else None,
        "cutmix": "mixup_prob is 0" if not config.mixup_prob else None,
        "mixup_switch_prob": f"{switched_off} is 0" if switched_off else None,
        "cache_bytes": None if config.cache else "there is no cache",
        "size_weights": _why_unweighted(config),
        "aspect": "replicas are shown at fixed sizes" if config.replicas else None,
        "consistency": None if config.replicas else "there are no replicas",
        "init": "it is for from_records" if config.from_records is None else None,
    }
    if config.from_records is not None:
        idle |= dict.fromkeys(_OF_IMAGES, "a head on records sees no images")
    for name, reason in idle.items():
        given, default = getattr(config, name), default_of(name)
        if reason is not None and given != default:
            raise ValueError(f"{name} is {given} but has no effect, because {reason}; leave it at {default}")


def _why_unweighted(config: TrainConfig) -> str | None:
    if config.replicas:
        return "replicas are shown at every size"
    return "there is one size" if len(config.sizes) == 1 else None


def _check_schedule(config: TrainConfig) -> None:
    if config.warmup_steps >= config.steps:
        raise ValueError(
            f"warmup_steps is {config.warmup_steps} of {config.steps} steps; allowed: 0 to {config.steps - 1}; "
            f"nearest: {config.steps - 1}; usual: {config.steps // 20}"
        )
    if config.min_lr > config.lr:
        raise ValueError(f"min_lr is {config.min_lr:g}, above lr {config.lr:g}; allowed: 0 to {config.lr:g}")
    if config.accumulate > config.batch_size:
        raise ValueError(
            f"accumulate is {config.accumulate} for a batch of {config.batch_size}; a piece needs an image: "
            f"allowed: 1 to {config.batch_size}"
        )


def _check_mixing(config: TrainConfig) -> None:
    if is_mixing(config) and config.batch_size % 2:
        raise ValueError(
            f"batch_size is {config.batch_size}, but mixup and cutmix mix pairs and need an even number; "
            f"nearest: {config.batch_size + 1}; or set mixup and cutmix to 0"
        )


def is_mixing(config: TrainConfig) -> bool:
    """Whether any batch of the run can be mixed."""
    return config.from_records is None and config.mixup_prob > 0 and (config.mixup > 0 or config.cutmix > 0)
