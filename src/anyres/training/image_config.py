"""What runs on images add: the data, the model, the sizes, and how images are read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyres.data.cache import DEFAULT_BYTES
from anyres.data.decode import MAX_PIXELS
from anyres.data.schedule import EverySize, ResolutionSchedule
from anyres.layers.merge_plan import token_grid
from anyres.settings import plain
from anyres.sizes import SideRange, Size, parse_entry, size_text
from anyres.training.config import Operational, RunConfig
from anyres.training.model_options import parse_options
from anyres.training.run_checks import check_integers

if TYPE_CHECKING:
    from torch import nn

    from anyres.data.augment import TrainAugment
    from anyres.models.config import ViTARConfig


@dataclass(frozen=True, kw_only=True)
class ImagesAndModel:
    """What learns from what: the settings that everybody gives. They are a class of their own and the last base of
    `ImageRunConfig`, because fields are collected from the last base on and the help should begin with these."""

    data: Operational[Path]
    """Folder of images."""
    model: str
    """Name of the model; `anyres models` lists them."""
    model_options: Mapping[str, Any] = field(default_factory=dict)
    """Changes to the model: keyword arguments of `create_model`, on the command line written key=value, such as
    grid=7x7 width=96 position=learned drop_path_rate=0.1"""
    sizes: tuple[str, ...] = ("224",)
    """Training sizes in pixels; every step draws one. "224", "224x320" (height x width), or a range of squares "32-96",
    log-uniform over every whole number in it."""


@dataclass(frozen=True, kw_only=True)
class ImageRunConfig(RunConfig, ImagesAndModel):
    """A run of a named model on images, each step at one of several sizes."""

    size_weights: tuple[float, ...] | None = None
    """How often each size is drawn, relative to the others; all alike if not given."""
    aspect: tuple[float, float] = (1.0, 1.0)
    """Factor on each step's width / height, log-uniform in this interval; the area stays that of the size drawn, and
    crops have that shape."""
    repeats: int = 1
    """How often in a row an image is shown, augmented anew each time (DeiT: 3); an epoch stays as long as without."""
    grad_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    num_workers: Operational[int] = 0
    """Processes that decode images; the result does not depend on it."""
    cache: bool = False
    """Keep decoded images in memory, reduced as far as the largest training size and the smallest crop allow."""
    cache_bytes: Operational[int] = DEFAULT_BYTES
    """Most memory that the cache may need; a run that would need more is refused at once."""
    validate_limit: Operational[int | None] = None
    """Images per validation, spread evenly over val/; all of them if not given."""
    strict: Operational[bool] = False
    """Stop at the first unreadable image instead of skipping it."""
    max_pixels: int = MAX_PIXELS
    """Images with more pixels than this count as unreadable."""

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

    def model_settings(self, classes: int | None = None) -> Any:
        """The configuration of the model, with a head for so many classes; as many as it has by name if not given.

        ValueError for a name of another kind of model or for options that cannot be.
        """
        raise NotImplementedError

    def schedule(self) -> ResolutionSchedule | EverySize:
        """Which size each step has. ValueError for sizes, weights or an aspect that cannot be."""
        return ResolutionSchedule(self.size_entries(), self.seed, self.size_weights, self.aspect)

    def check(self) -> None:
        super().check()
        check_integers(self, {"num_workers": 0, "cache_bytes": 1, "repeats": 1, "validate_limit": 1})
        _check_options(self.model_options)
        _check_sizes(self)

    def idle(self) -> dict[str, str | None]:
        return super().idle() | {
            "cache_bytes": None if self.cache else "there is no cache",
            "size_weights": "there is one size" if len(self.sizes) == 1 else None,
        }

    def with_levels_of_training(self, backbone: ViTARConfig, sizes: Iterable[Size]) -> ViTARConfig:
        """A pyramid counts fully as many levels as the largest of the training sizes merges, unless told how many."""
        if backbone.merger != "pyramid" or backbone.keeps_shape or "full_levels" in self.model_options:
            return backbone
        plans = [backbone.plan(token_grid(*size, backbone.patch_size)) for size in sizes]
        return replace(backbone, full_levels=max([1, *(len(plan.chain) - 1 for plan in plans)]))

    def save_memory(self, model: nn.Module) -> None:
        if self.grad_checkpointing:
            model.set_grad_checkpointing(True)  # type: ignore[operator]

    def memory_advice(self) -> str:
        return "A larger accumulate or grad_checkpointing"

    @classmethod
    def from_older(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """The first version wrote the model's options as it was told them, as text."""
        options = settings.get("model_options")
        return settings | ({"model_options": plain(parse_options(options))} if isinstance(options, list) else {})


def _check_options(given: Any) -> None:
    if not isinstance(given, Mapping):
        raise ValueError(f'model_options is {given!r}; allowed: a mapping, such as {{"width": 96}}')
    if "num_classes" in given:
        classes = "the number of classes is that of the data folder, and pre-training has none"
        raise ValueError(f"model option 'num_classes' is not allowed: {classes}")


def _check_sizes(config: ImageRunConfig) -> None:
    if not config.sizes:
        raise ValueError('sizes is empty; give at least one training size, for example "224" or "224x320"')
    entries = config.size_entries()
    repeated = [entry for entry in entries if entries.count(entry) > 1]
    if repeated:
        raise ValueError(
            f"sizes names {entry_text(repeated[0])} twice; use size_weights to draw one of them more often"
        )
    config.schedule()


def entry_text(entry: Size | SideRange) -> str:
    """An entry of `sizes` in words, as it is given."""
    return f"{entry.low}-{entry.high}" if isinstance(entry, SideRange) else f"{size_text(entry)}"


def check_augmentation(augment: TrainAugment, size: Size, model: ViTARConfig) -> None:
    """ValueError for settings of AutoAugment that timm does not understand."""
    from anyres.data.transforms import train_transform  # timm's and torch's, which a configuration is without

    try:
        train_transform(size, augment, model.mean, model.std)
    except (AssertionError, KeyError, ValueError, IndexError) as error:
        raise ValueError(
            f"augmentation.auto_augment is {augment.auto_augment!r}, which timm does not understand ({error}); "
            "allowed: None, original, v0, or settings that begin with rand-, augmix- or 3a, such as "
            "rand-m9-mstd0.5-inc1"
        ) from error


def nearest_name(name: str, names: Iterable[str]) -> str:
    """The most similar of some names, however far it is."""
    return difflib.get_close_matches(name, list(names), n=1, cutoff=0.0)[0]
