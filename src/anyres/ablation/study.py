"""What a study is: variants that are compared with each other, what they start from, and how often each is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from anyres.ablation.config import QUICK_STEPS, AblateConfig, SetName
from anyres.report.paper import PaperTable

SIZES = (24, 32, 48, 64, 96, 128, 192, 256, 384)
TRAINING: Mapping[str, Any] = {"sizes": ("32", "64", "96"), "size_weights": (1.0, 1.0, 2.0)}
VITAR = "vitar_tiny_patch16"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of a study."""

    name: str
    """Also the name of its folder."""
    text: str
    """What it is, in a line."""
    placement: str = ""
    """Where the part that is studied acts, if that is a question."""
    model: str = VITAR
    """The named model that it starts from."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Changes to the model beyond those that all variants share, which they replace."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `TrainConfig` beyond `TRAINING`."""
    paper: str | None = None
    """Its row in the paper's table."""
    step_share: float = 1.0
    """Its training steps divided by those of the study."""
    equal_steps: bool = False
    """As many steps as the first variant even where the others cost as much as that."""
    start: str | None = None
    """Name of the pre-training in `Study.pretrainings` that it is fine-tuned from; None: from random weights."""
    seeds: Mapping[SetName, int] | None = None
    """How many seeds on which sets in the full form, if not those of the study; on sets that are missing it is run only
    when they are asked for by name."""
    largest: int | None = None
    """Largest side at which it gets images as they are, if what lies beyond would take too long. Images resized to a
    training size it gets as far as the stored images of that side reach."""
    panel: str = ""
    """Variants of one panel are drawn together; those of other panels beside them, in the same order and colours."""


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """A run of masked auto-encoding that variants of a study start from, without labels."""

    model: str
    """The named model."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Changes to the model beyond those that all runs of the study share, which they replace."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `PretrainConfig`."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Variants that are compared with each other; the first is the one that the others are held against."""

    name: str
    title: str
    question: str
    variants: tuple[Variant, ...]
    table: PaperTable
    """The paper's numbers, on ImageNet."""
    landmarks: Mapping[int, int]
    """Side in the paper -> side here that stands for it: smallest trained, largest trained, far beyond."""
    sizes: tuple[int, ...] = SIZES
    """Sides to measure at; four times the largest size of every variant comes on top."""
    pretrainings: Mapping[str, Pretraining] = field(default_factory=dict)
    """What variants start from, by name."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Changes to the model that all variants and pre-trainings share, beyond those of all studies."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `TrainConfig` that all variants share, beyond `TRAINING`."""
    equal_cost: bool = False
    """Steps such that every variant costs as many multiply-accumulates as the first; else all take as many steps."""
    seeds: Mapping[SetName, int] = field(default_factory=lambda: {"ordinary": 3, "detail": 3})
    """The sets of the full form, and how many seeds on each."""
    quick_sets: tuple[SetName, ...] = ("ordinary",)
    """Those of the quick form, with one seed each."""
    begins_on: Mapping[SetName, SetName] = field(default_factory=dict)
    """Sets on which a variant begins with the weights of its run with the same seed on another set."""
    steps: int = 3000
    """Of the full form, for the first variant."""
    far_images: int | None = None
    """Most images at sizes beyond those that the training images are stored for; all by default."""

    def base_steps(self, config: AblateConfig) -> int:
        """Training steps of the first variant."""
        return config.steps or (QUICK_STEPS if config.quick else self.steps)

    def seed_count(self, config: AblateConfig, variant: Variant, set_name: SetName) -> int:
        """How many seeds of a variant are run on a set."""
        own = self.seeds if variant.seeds is None else variant.seeds
        if set_name not in own and not config.sets:
            return 0
        return config.seeds or (1 if config.quick else own.get(set_name, max(own.values())))

    def set_names(self, config: AblateConfig) -> tuple[SetName, ...]:
        """The sets that are run on."""
        return config.sets or (self.quick_sets if config.quick else tuple(self.seeds))

    def variant(self, name: str) -> Variant:
        """The variant of that name. KeyError if there is none."""
        return {variant.name: variant for variant in self.variants}[name]
