"""Starting a run from weights that are already there: fine-tuning all of a model, or its head alone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from torch import Tensor
from tqdm import tqdm

from anyres.models.architectures import UPGRADED
from anyres.models.upgraded_config import UpgradedConfig
from anyres.models.vitar import ViTAR
from anyres.models.weights.compare import options, told
from anyres.models.weights.files import load
from anyres.models.weights.initial import Initial, initial_digest, read_initial, read_settings
from anyres.models.weights.record import CONFIG, make_config, read_record
from anyres.settings import default_of
from anyres.training import checkpoint
from anyres.training.backbone_config import BackboneRunConfig


def start_from(
    config: BackboneRunConfig,
    model: ViTAR,
    *,
    is_backbone: bool = False,
    is_probe: bool = False,
    classes: Sequence[str] = (),
) -> None:
    """Puts the weights of `config.init`, if there are any, below the head of a fresh model.

    The head comes with them where init is an upgraded ViT of the same classes.

    Not if the run has a checkpoint, which will replace them all. Says on stderr which parts start fresh, which of the
    file are left out and which settings are others than there.

    Args:
        config: the run.
        model: the run's ViTAR.
        is_backbone: it is part of another model, whose heads start fresh.
        is_probe: nothing below the head will be trained.
        classes: of the run, in the order of the logits.

    Raises:
        ValueError: weights that do not fit (see `read_initial`), a probe of parts that nobody has trained, or of
            features that are not those of the source.
    """
    init = config.init
    if init is None or (config.out / checkpoint.NAME).exists():
        return
    found = read_initial(
        init,
        model.config,
        resize_positions=config.init_resize,
        key=config.init_key,
        grid_is_given="grid" in config.model_options,
    )
    if is_probe:
        _refuse_probe(init, found)
    head = _head(init, classes)
    model.load_state_dict(found.weights | head, strict=False)  # what starts fresh is not among them
    if head:
        left_out = tuple(name for name in found.left_out if name != "head")
        found = replace(found, weights=found.weights | head, left_out=left_out)
    starting, above = ("Backbone starting", "heads") if is_backbone else ("Starting", "" if head else "head")
    tqdm.write(_described(init, found, starting, above), file=sys.stderr)


def _head(init: Path, classes: Sequence[str]) -> dict[str, Tensor]:
    """The head of an upgraded ViT that knows these very classes, by their names or those of their folders, in the order
    of the run's."""
    if not classes or read_settings(init / CONFIG).get("architecture") != UPGRADED.name:
        return {}
    info = read_record(init)[2]
    for known in (info.classes, tuple(info.extra.get("class_folders", ()))):
        if len(set(known)) == len(known) and sorted(known) == sorted(classes):
            order = [known.index(name) for name in classes]
            return {f"head.{name}": value[order] for name, value in load(init)[0].head.state_dict().items()}
    return {}


def upgraded_settings(config: BackboneRunConfig) -> UpgradedConfig | None:
    """The configuration of the upgraded ViT that a run starts from; None if it starts from anything else.

    ValueError for options of a model, which then is that of init.
    """
    init, written = config.init, config.out / checkpoint.NAME
    if init is None:
        return None
    if not init.exists() and written.exists():  # what a run started from may be gone once it has begun
        kept = checkpoint.load_checkpoint(written)["identity"]["task"].get("upgraded")
        return None if kept is None else make_config(UPGRADED, kept, config.out)
    if read_settings(init / CONFIG).get("architecture") != UPGRADED.name:
        return None
    if config.model_options:
        raise ValueError(
            f"model_options are {dict(config.model_options)} but have no effect, because the model is that of {init}; "
            "leave them out"
        )
    if config.model != default_of("model", type(config)):
        raise ValueError(f"model is {config.model!r} but has no effect, because it is that of {init}; leave it out")
    architecture, settings, _ = read_record(init)
    found: UpgradedConfig = make_config(architecture, settings, init)
    if found.full_levels is not None or getattr(config, "linear_probe", False):
        return found
    return cast(UpgradedConfig, config.with_levels_of_training(found, config.parsed_sizes()))


def _refuse_probe(init: Path, found: Initial) -> None:
    """ValueError where the features to be read would not be those of the source."""
    if found.fresh:
        raise ValueError(
            f"linear_probe trains the head alone, but {init} lacks {', '.join(found.fresh)}, which would stay "
            "as drawn; leave linear_probe out, or choose a model that is all in there"
        )
    if found.differing:
        raise ValueError(
            f"linear_probe trains a head on the features of {init}, which the model would not give: "
            f"{told(found.differing)}. Give {options(found.differing)}"
        )


def identity_of_init(config: BackboneRunConfig) -> dict[str, str]:
    """What a task's identity says of the weights that a run starts from, if it does: a digest, since others under the
    same name are another run.

    If they are gone since, it is what the checkpoint says of them, which needs them no more.
    """
    if config.init is None:
        return {}
    written = config.out / checkpoint.NAME
    try:
        return {"init": initial_digest(config.init)}
    except ValueError:
        if not written.exists():
            raise
        return {"init": str(checkpoint.load_checkpoint(written)["identity"]["task"].get("init"))}


def _described(init: Path, found: Initial, starting: str, above: str) -> str:
    """What is taken, what starts fresh (with what is `above` the backbone), what is left out and what differs."""
    place = f" (its {found.place})" if found.place else ""
    text = f"{starting} from {init}{place}: {', '.join(found.taken)}."
    if fresh := [name for name in (*found.fresh, above) if name]:
        text += f" Fresh: {', '.join(fresh)}."
    if found.left_out:
        text += f" Left out: {', '.join(found.left_out)}."
    differing = {
        name: pair for name, pair in found.differing.items() if name != "full_levels"
    }  # follows training sizes
    if differing:
        alike = {name: pair for name, pair in differing.items() if name != "cells" or not _keeps_shape(pair)}
        text += f" Not as there: {told(differing)}" + (f"; alike with {options(alike)}." if alike else ".")
    return text


def _keeps_shape(cells: tuple[str, str]) -> bool:
    """Whether only the second of (there, in the model) keeps the image's shape: then the difference is meant."""
    return [each in ("1x1", "2x2") for each in cells] == [False, True]
