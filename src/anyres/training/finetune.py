"""Starting a run from weights that are already there: fine-tuning all of a model, or its head alone."""

from __future__ import annotations

import sys
from pathlib import Path

from tqdm import tqdm

from anyres.models.vitar import ViTAR
from anyres.models.weights.compare import options, told
from anyres.models.weights.initial import Initial, initial_digest, read_initial
from anyres.training import checkpoint
from anyres.training.classification.config import TrainConfig


def start_from(config: TrainConfig, model: ViTAR) -> None:
    """Puts the weights of `config.init` below the head of a fresh model, unless a checkpoint will replace them all.

    Says on stderr which parts start fresh, which of the file are left out and which settings are others than there.

    Raises:
        ValueError: weights that do not fit (see `read_initial`), a probe of parts that nobody has trained, or of
            features that are not those of the source.
    """
    assert config.init is not None
    if (config.out / checkpoint.NAME).exists():
        return
    found = read_initial(config.init, model.config, resize_positions=config.init_resize)
    if config.linear_probe and found.fresh:
        raise ValueError(
            f"linear_probe trains the head alone, but {config.init} lacks {', '.join(found.fresh)}, which would stay "
            "as drawn; leave linear_probe out, or choose a model that is all in there"
        )
    if config.linear_probe and found.differing:
        raise ValueError(
            f"linear_probe trains a head on the features of {config.init}, which the model would not give: "
            f"{told(found.differing)}. Give {options(found.differing)}"
        )
    model.load_state_dict(found.weights, strict=False)
    tqdm.write(_described(config.init, found, "Starting", ("head",)), file=sys.stderr)


def start_backbone(init: Path, out: Path, backbone: ViTAR, *, resize_positions: bool) -> None:
    """Puts the weights of `init` into a model's backbone, unless the run in `out` has a checkpoint, which replaces all.

    Says on stderr what is taken, what starts fresh, what is left out and which settings are others than there.

    Raises:
        ValueError: weights that do not fit, see `read_initial`.
    """
    if (out / checkpoint.NAME).exists():
        return
    found = read_initial(init, backbone.config, resize_positions=resize_positions)
    backbone.load_state_dict(found.weights, strict=False)
    tqdm.write(_described(init, found, "Backbone starting", ("heads",)), file=sys.stderr)


def identity_of_init(init: Path, out: Path) -> str:
    """A digest of the weights that the run in `out` starts from: others under the same name are another run.

    If they are gone since, it is what the checkpoint says of them, which needs them no more.
    """
    written = out / checkpoint.NAME
    try:
        return initial_digest(init)
    except ValueError:
        if not written.exists():
            raise
        return str(checkpoint.load_checkpoint(written)["identity"]["task"].get("init"))


def freeze_below_head(model: ViTAR) -> None:
    """Leaves the head alone to be learned."""
    model.requires_grad_(False)
    model.get_classifier().requires_grad_(True)


def _described(init: Path, found: Initial, starting: str, above: tuple[str, ...]) -> str:
    """What is taken, what starts fresh (with what is `above` the backbone), what is left out and what differs."""
    text = f"{starting} from {init}: {', '.join(found.taken)}. Fresh: {', '.join((*found.fresh, *above))}."
    if found.left_out:
        text += f" Left out: {', '.join(found.left_out)}."
    if found.differing:
        alike = {name: pair for name, pair in found.differing.items() if name != "cells" or not _keeps_shape(pair)}
        text += f" Not as there: {told(found.differing)}" + (f"; alike with {options(alike)}." if alike else ".")
    return text


def _keeps_shape(cells: tuple[str, str]) -> bool:
    """Whether only the second of (there, in the model) keeps the image's shape: then the difference is meant."""
    return [each in ("1x1", "2x2") for each in cells] == [False, True]
