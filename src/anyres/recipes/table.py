"""The recipes by name, and the command that carries one out or describes it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from anyres.errors import check_choice
from anyres.recipes import dense, imagenet, mae
from anyres.training.image_config import ImageRunConfig

Name = Literal[
    "anyres_small", "anyres_base", "vitar_small", "vitar_base", "vitar_small_far", "vitar_base_far", "deit_small",
    "deit_base", "resformer_small", "resformer_base", "mae_anyres_base", "anyres_base_mae", "mae_vitar_base",
    "vitar_base_mae", "mae_vit_base", "vit_base_mae", "mask_rcnn_anyres_small_2x2", "mask_rcnn_anyres_base_2x2",
    "mask_rcnn_vitar_small", "mask_rcnn_vitar_base", "mask_rcnn_vitar_small_2x2", "mask_rcnn_vitar_base_2x2",
    "mask_rcnn_vitar_base_lsj", "mask_rcnn_vit_small", "mask_rcnn_vit_base", "mask_rcnn_vitdet_small",
    "mask_rcnn_vitdet_base", "mask_rcnn_resformer_small", "mask_rcnn_resformer_base", "upernet_anyres_small_2x2",
    "upernet_anyres_base_2x2", "upernet_vitar_small", "upernet_vitar_base", "upernet_vitar_small_2x2",
    "upernet_vitar_base_2x2", "upernet_resformer_small", "upernet_resformer_base", "upernet_deit_small",
    "upernet_deit_base", "upernet_vit_base_mae",
]  # fmt: skip
RECIPES: dict[str, Callable[..., ImageRunConfig]] = {
    **imagenet.RECIPES,
    **mae.PRETRAINING,
    **mae.FINE_TUNING,
    **dense.RECIPES,
}
"""Functions of data and run folder; those of `STARTS` need the weights that they start from too."""
STARTS = mae.STARTS | dense.STARTS
"""Recipe -> the recipe whose run it starts from."""


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """Train or pre-train a model on ImageNet-1k as its paper does, or ViTAR to hold further beyond its training sizes.

    To pre-train without labels: mae_*. To fine-tune what came of it: *_mae, with init. To train on COCO or ADE20K from
    what came of either: mask_rcnn_* and upernet_*, with init.
    """

    name: Positional[Name]
    """Which model, and how it is trained."""
    data: Path | None = None
    """Needed unless show: folder that holds train/ and val/, each with one folder of images per class. For
    mask_rcnn_*: COCO's, with annotations/, train2017/ and val2017/. For upernet_*: ADE20K's, with images/ and
    annotations/."""
    out: Path | None = None
    """Needed unless show: run folder. A run that is already there goes on where it stopped."""
    init: Path | None = None
    """To fine-tune: the run folder of the training before, or published weights (see `anyres train --help`)."""
    show: bool = False
    """Only say what would be trained, and how long it would take."""
    macs_per_second: float | None = None
    """Multiply-accumulates per second that the hardware sustains, for the hours; by default those of one RTX 3090."""
    accumulate: int | None = None
    """Pieces that a batch is cut into, to fit into memory; by default the recipe's own, on ImageNet of 128 images."""
    num_workers: int = 16
    """Processes that decode images."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, or auto: cuda where there is one, else cpu."""

    def __post_init__(self) -> None:
        check_choice("recipe", self.name, RECIPES)
        before = STARTS.get(self.name)
        if not self.show and (self.data is None or self.out is None):
            raise ValueError(f"recipe {self.name} needs data and out; to see what it is, show")
        if not self.show and before is not None and self.init is None:
            raise ValueError(
                f"recipe {self.name} fine-tunes, and there is no init; give the run folder of `anyres recipe {before}`"
            )
        if self.init is not None and before is None:
            raise ValueError(
                f"init is {self.init}, but recipe {self.name} starts from random weights; leave init out, or choose "
                f"a recipe that fine-tunes: {', '.join(STARTS)}"
            )


def recipe(config: RecipeConfig) -> ImageRunConfig:
    """The run that a recipe stands for, without folders in folders of no use; ValueError for an impossible setting."""
    start = (config.init or Path("INIT"),) if config.name in STARTS else ()
    run = RECIPES[config.name](config.data or Path("DATA"), config.out or Path("OUT"), *start)
    run = replace(run, num_workers=config.num_workers, device=config.device)
    if config.accumulate is not None:
        run = replace(run, accumulate=config.accumulate)
    run.check()
    return run


def describe(config: RecipeConfig) -> str:
    """What a recipe does, and the hours it takes with the numbers they come from."""
    from anyres.recipes.hours import expected_macs, training_hours  # counts on models, which take torch along

    run = recipe(config)
    rate = config.macs_per_second
    if rate is None:
        rate = imagenet.BASE_RATE if "base" in config.name else imagenet.SMALL_RATE
    hours = training_hours(run, rate)
    macs, images = expected_macs(run) / 1e9, run.steps * run.batch_size / 1e6
    formula = f"3 * {macs:.2f}e9 MACs * {images:.1f}e6 images / {rate:.3g}"
    function = RECIPES[config.name]
    about = inspect.getdoc(function.func if isinstance(function, partial) else function)
    return f"{config.name}: {about}\n\nAt {rate:.3g} MACs per second: {formula} / 3600 = {hours:.0f} hours."
