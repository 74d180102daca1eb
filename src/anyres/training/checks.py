"""Range checks of a configuration: every message says what was given, what is allowed and what is nearest."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from anyres.data.transforms import train_transform
from anyres.errors import check_choice
from anyres.layers.merge_plan import token_grid
from anyres.models.architectures import AUTOENCODER, VITAR
from anyres.models.config import ViTARConfig
from anyres.models.presets import AUTOENCODERS, CLASSIFIERS
from anyres.settings import default_of
from anyres.sizes import MOST_ASPECT, SideRange, Size, stretched, whole_patch_size
from anyres.training.classification.config import TrainConfig
from anyres.training.config import RunConfig
from anyres.training.optim import check_schedule, idle_in_schedule
from anyres.training.pretraining.config import PretrainConfig

# name -> lowest
_INTEGERS: dict[str, int] = {
    "steps": 1, "batch_size": 1, "accumulate": 1, "warmup_steps": 0, "seed": 0, "num_workers": 0, "threads": 1,
    "checkpoint_every": 1, "log_every": 1, "validate_every": 0, "validate_limit": 1, "cache_bytes": 1, "repeats": 1,
    "draw_images": 0,
}  # fmt: skip
# name -> lowest, highest, and in brackets whether they are allowed themselves
_NUMBERS: dict[str, tuple[float, float, str]] = {
    "lr": (0.0, math.inf, "()"),
    "min_lr": (0.0, math.inf, "[)"),
    "lr_power": (0.0, math.inf, "()"),
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
    "label_share": (0.0, 1.0, "(]"),
}


# what a head that is trained on records leaves without effect
_OF_IMAGES = (
    "data", "model", "model_options", "sizes", "size_weights", "aspect", "replicas", "consistency", "repeats",
    "layer_decay", "augmentation", "mixup", "cutmix", "mixup_prob", "mixup_switch_prob", "grad_checkpointing",
    "grad_pieces", "num_workers", "cache", "cache_bytes", "validate_limit", "validate_crop_ratio", "strict",
    "max_pixels", "init_resize", "linear_probe", "label_share",
)  # fmt: skip
# what frozen features leave without effect, and options of a model that act while it learns
_OF_TRUNK = ("layer_decay", "grad_checkpointing", "grad_pieces", "consistency")
_WHILE_LEARNING = ("drop_path_rate", "extra_passes", "jitter", "rescale")


def check_config(config: TrainConfig) -> None:
    """ValueError for the first field that is out of range, contradicts another or has no effect."""
    check_run(config)
    _check_mixing(config)
    check_idle(config, _idle_in_training(config))
    if config.model in AUTOENCODERS:
        nearest = _nearest(config.model.removeprefix("mae_").replace("vit_", "deit_"), CLASSIFIERS)
        raise ValueError(
            f"model is {config.model!r}, a masked auto-encoder; allowed: `anyres pretrain` with it, or to train "
            f"another from what that wrote, with init; nearest: {nearest!r}"
        )
    model = VITAR.get_config(config.model, **config.model_options)
    if config.linear_probe:
        _check_probe(config, model)
    if config.grad_pieces and model.merger == "none":
        raise ValueError(
            f"grad_pieces is set and {config.model} has no merger; allowed: grad_checkpointing, or a ViTAR"
        )
    _check_augmentation(config, model)


def _check_probe(config: TrainConfig, model: ViTARConfig) -> None:
    """A probe needs features worth reading, and a model that is never trained has no use for what regularises it."""
    if config.init is None:
        raise ValueError(
            "linear_probe without init would be a probe of random features; give the weights to probe as init"
        )
    usual = VITAR.get_config(config.model)
    for name in _WHILE_LEARNING:
        given, default = getattr(model, name), getattr(usual, name)
        if name in config.model_options and given != default:
            raise ValueError(
                f"model option {name} is {given} but has no effect, because linear_probe trains the head alone; "
                "leave it out"
            )


def check_pretraining(config: PretrainConfig) -> None:
    """ValueError for the first field that is out of range, has no effect, or leaves nothing to see or to predict."""
    check_run(config)
    check_idle(config, _idle_in_pretraining(config))
    if config.model in CLASSIFIERS:
        nearest = _nearest(f"mae_{config.model}", AUTOENCODERS)
        raise ValueError(
            f"model is {config.model!r}, which is no masked auto-encoder; allowed: {', '.join(AUTOENCODERS)}; "
            f"nearest: {nearest!r}"
        )
    model = AUTOENCODER.get_config(config.model, **config.model_options)
    sizes = list(_extreme_sizes(config, model.backbone.patch_size))
    for size in sizes:
        model.visible(*size)
    patch = model.backbone.patch_size
    if model.large_target and all(model.side(model.backbone.plan(token_grid(*size, patch))) == patch for size in sizes):
        rows, cols = (2 * patch * side for side in model.backbone.grid)
        raise ValueError(
            f"large_target is set, but no training size has cells of 2x2 patches; allowed: a size from {rows}x{cols} up"
        )
    _check_augmentation(config, model.backbone)


def _nearest(name: str, names: Iterable[str]) -> str:
    return difflib.get_close_matches(name, list(names), n=1, cutoff=0.0)[0]


def check_run(config: RunConfig) -> None:
    """What every kind of run shares."""
    for name, lowest in _INTEGERS.items():
        if hasattr(config, name) and not _is_left_out(config, name):
            _check_integer(name, getattr(config, name), lowest)
    for name, (low, high, ends) in _NUMBERS.items():
        if hasattr(config, name) and not _is_left_out(config, name):
            _check_number(config, name, getattr(config, name), low, high, ends)
    for beta in config.betas:
        _check_number(config, "betas", beta, 0.0, 1.0, "[)")
    check_choice("precision", config.precision, ("float32", "bfloat16"))
    config.torch_device()
    _check_options(config)
    _check_sizes(config)
    check_schedule(config)
    _check_pieces(config)


def _check_options(config: RunConfig) -> None:
    if not isinstance(config.model_options, Mapping):
        raise ValueError(f'model_options is {config.model_options!r}; allowed: a mapping, such as {{"width": 96}}')
    if "num_classes" in config.model_options:
        classes = "the number of classes is that of the data folder, and pre-training has none"
        raise ValueError(f"model option 'num_classes' is not allowed: {classes}")


def _check_augmentation(config: RunConfig, model: ViTARConfig) -> None:
    try:
        train_transform(config.parsed_sizes()[0], config.augmentation, model.mean, model.std)
    except (AssertionError, KeyError, ValueError, IndexError) as error:
        given = config.augmentation.auto_augment
        raise ValueError(
            f"augmentation.auto_augment is {given!r}, which timm does not understand ({error}); allowed: None, "
            "original, v0, or settings that begin with rand-, augmix- or 3a, such as rand-m9-mstd0.5-inc1"
        ) from error


def _is_left_out(config: RunConfig, name: str) -> bool:
    """None in a field that may be None."""
    return getattr(config, name) is None and default_of(name, type(config)) is None


def _check_integer(name: str, given: Any, lowest: int) -> None:
    if isinstance(given, bool) or not isinstance(given, int) or given < lowest:
        raise ValueError(f"{name} is {given!r}; allowed: whole numbers from {lowest} up; nearest: {lowest}")


def _check_number(config: RunConfig, name: str, given: Any, low: float, high: float, ends: str) -> None:
    inside = isinstance(given, int | float) and low <= given <= high
    inside = inside and (ends[0] == "[" or given > low) and (ends[1] == "]" or given < high)
    if not inside:
        above = f"{'from' if ends[0] == '[' else 'above'} {low:g}"
        default = default_of(name, type(config))
        below = "" if high == math.inf else f" {'up to' if ends[1] == ']' else 'to below'} {high:g}"
        raise ValueError(f"{name} is {given!r}; allowed: {above}{below}; the default is {default}")


def _check_sizes(config: RunConfig) -> None:
    if not config.sizes:
        raise ValueError('sizes is empty; give at least one training size, for example "224" or "224x320"')
    entries = config.size_entries()
    repeated = [entry for entry in entries if entries.count(entry) > 1]
    if repeated:
        raise ValueError(f"sizes names {_text(repeated[0])} twice; use size_weights to draw one of them more often")
    if isinstance(config, TrainConfig) and config.replicas:
        _check_replicas(config)
    if isinstance(config, PretrainConfig) and config.own_aspect:
        _check_areas(config)
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


def _check_areas(config: PretrainConfig) -> None:
    """With `own_aspect` a size says no more than how many pixels."""
    for entry in config.size_entries():
        if not isinstance(entry, SideRange) and entry[0] != entry[1]:
            side = round(math.sqrt(entry[0] * entry[1]))
            raise ValueError(
                f"sizes names {_text(entry)}, but with own_aspect a size is an area, whose shape has no effect; "
                f"allowed: squares; nearest: {side}"
            )


def _extreme_sizes(config: PretrainConfig, patch_size: int) -> list[Size]:
    """The sizes with the fewest cells among all that images can have; larger ones have no fewer."""
    sizes = config.parsed_sizes()
    if config.own_aspect:
        shapes = (1, 1), (1, MOST_ASPECT), (MOST_ASPECT, 1)
        return [whole_patch_size(size, shape, patch_size) for size in sizes for shape in shapes]
    return [stretched(size, factor) for size in sizes for factor in (1.0, *config.aspect)]


def check_idle(config: RunConfig, idle: dict[str, str | None]) -> None:
    """ValueError for a setting that differs from its default although another leaves it without effect."""
    for name, reason in idle.items():
        given, default = getattr(config, name), default_of(name, type(config))
        if reason is not None and given != default:
            raise ValueError(f"{name} is {given} but has no effect, because {reason}; leave it at {default}")


def _idle_in_training(config: TrainConfig) -> dict[str, str | None]:
    unmixed = not (config.mixup or config.cutmix)
    switched_off = next((name for name in ("mixup_prob", "mixup", "cutmix") if not getattr(config, name)), None)
    idle = idle_in_any_run(config) | {
        "mixup_prob": "mixup and cutmix are 0" if unmixed else None,
        "mixup": "mixup_prob is 0" if not config.mixup_prob else None,
        "cutmix": "mixup_prob is 0" if not config.mixup_prob else None,
        "mixup_switch_prob": f"{switched_off} is 0" if switched_off else None,
        "aspect": "replicas are shown at fixed sizes" if config.replicas else None,
        "consistency": None if config.replicas else "there are no replicas",
        "init_resize": "there is no init" if config.init is None else None,
    }
    if config.linear_probe:
        idle |= dict.fromkeys(_OF_TRUNK, "linear_probe trains the head alone")
    if config.from_records is not None:
        idle |= dict.fromkeys(_OF_IMAGES, "a head on records sees no images")
    return idle


def _idle_in_pretraining(config: PretrainConfig) -> dict[str, str | None]:
    return idle_in_any_run(config) | {"aspect": "images keep their own" if config.own_aspect else None}


def idle_in_any_run(config: RunConfig) -> dict[str, str | None]:
    """Settings, and why they have no effect; None if they have one."""
    return idle_in_schedule(config) | {
        "save_ema": "there is no running average without ema" if config.ema is None else None,
        "cache_bytes": None if config.cache else "there is no cache",
        "size_weights": _why_unweighted(config),
    }


def _why_unweighted(config: RunConfig) -> str | None:
    if isinstance(config, TrainConfig) and config.replicas:
        return "replicas are shown at every size"
    return "there is one size" if len(config.sizes) == 1 else None


def _check_pieces(config: RunConfig) -> None:
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
