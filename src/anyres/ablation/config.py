"""What `anyres ablate` trains and measures; checked before any work."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from tyro.conf import Positional

from anyres.devices import fast_precision
from anyres.errors import check_choice
from anyres.evaluation.sweep_config import Precision

StudyName = Literal["positions", "mergers", "training-sizes", "table1", "extrapolation", "mae", "held"]
SetName = Literal["ordinary", "detail", "fine", "ordinary-letters", "detail-letters", "fine-letters"]
Stem = Literal["conv", "patch"]

QUICK_STEPS = 1500


@dataclass(frozen=True, kw_only=True)
class AblateConfig:
    """A study: its variants are trained, each with several seeds, and measured at many sizes; then a page is drawn."""

    study: Positional[StudyName]
    """Which of the paper's tables, in miniature; `mae`: pre-training without labels; `extrapolation` or `held`:
    what holds beyond the largest training size, the latter up to 32 times of it."""
    out: Path = Path("ablation")
    """Folder for the images of all studies and, in OUT/STUDY, runs and results. What is finished is not done again."""
    quick: bool = False
    """One seed, the ordinary set (in `held` all three with digits), 1500 steps: about an hour on two cores, `mae` more.
    Else three seeds, both sets, 3000 steps; in `held` 1500, and one seed for letters and for the rivals."""
    seeds: int | None = None
    """Runs of every variant on every set, with seeds 0, 1, ...; more may be added later."""
    sets: tuple[SetName, ...] | None = None
    """"ordinary" (large glyphs, which resizing does not harm), "detail" (small ones, which only many pixels show),
    "fine" (smaller still: no training size shows them well), each with digits or, "-letters", with ten capitals."""
    steps: int | None = None
    """Training steps of the first variant; the others have as many, or as many as cost as much (extrapolation)."""
    only: tuple[str, ...] = ()
    """Names of the variants to train; all by default. Those finished earlier stay in the tables."""
    stem: Stem | None = None
    """"conv" (the default): patches made by convolutions, which see one patch more above and to the left; "patch": one
    linear layer, which sees nothing beyond its patch but learns more slowly at this scale; in `mae` the only one."""
    precision: Precision | None = None
    """Precision of the forward pass in training (autocast); weights and optimiser stay in float32. By default bfloat16
    where this processor computes in it, else float32. Measuring is always in float32."""
    jobs: int | None = None
    """Runs at a time, each on one thread; by default as many as there are cores, or one on a GPU."""
    device: str = "cpu"
    """cpu, cuda or cuda:N."""
    train_images: int = 4000
    """Training images per set."""
    val_images: int = 300
    """Images per set that every size is measured on."""
    progress: bool = True
    """Show a progress bar."""

    def __post_init__(self) -> None:
        check_choice("study", self.study, get_args(StudyName))
        if self.stem is not None:
            check_choice("stem", self.stem, get_args(Stem))
        if self.study == "mae" and self.stem == "conv":
            raise ValueError('stem is "conv", through which hidden cells would be seen; allowed in mae: "patch".')
        if self.precision is not None:
            check_choice("precision", self.precision, get_args(Precision))
        for given in self.sets or ():
            check_choice("set", given, get_args(SetName))
        for kind, names in (("sets", self.sets), ("only", self.only)):
            if names is not None and len(set(names)) < len(names):
                raise ValueError(f"{kind} {', '.join(names)}: one is given twice; allowed: each once")
        if self.sets == ():
            raise ValueError(f"no sets given; allowed: one or more of {', '.join(get_args(SetName))}")
        for name in ("seeds", "steps", "jobs", "train_images", "val_images"):
            value, least = getattr(self, name), 2 if name == "steps" else 1
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}; allowed: {least} or more")
        if self.out.exists() and not self.out.is_dir():
            raise ValueError(f"out is {self.out}, which is a file; give a folder.")

    @property
    def folder(self) -> Path:
        """Where the study's runs and results are."""
        return self.out / self.study

    @property
    def stem_of_models(self) -> Stem:
        return self.stem or ("patch" if self.study == "mae" else "conv")

    @property
    def training_precision(self) -> Precision:
        return self.precision or fast_precision()

    @property
    def workers(self) -> int:
        if self.jobs:
            return self.jobs
        if self.device != "cpu":
            return 1  # its memory and its time are not shared
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    @property
    def command(self) -> str:
        """What to type for the same results on any machine, without what only says where and how fast."""
        words = ["anyres", "ablate", self.study] + ["--quick"] * self.quick
        for name in ("seeds", "sets", "steps", "only", "stem", "train_images", "val_images"):
            value = getattr(self, name)
            if value != getattr(type(self), name):
                values = value if isinstance(value, tuple) else (value,)
                words += [f"--{name.replace('_', '-')}", *map(str, values)]
        return " ".join([*words, "--precision", self.training_precision])  # the default depends on the processor
