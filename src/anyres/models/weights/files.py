"""Weights on disk: a folder with `model.safetensors` and `config.json`. Nothing is ever unpickled."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from safetensors.torch import load_file, save as as_bytes
from torch import Tensor, nn

from anyres.files import LFS_POINTER, is_lfs_pointer, named_in_text, write_bytes, write_json
from anyres.models.architectures import architecture_of
from anyres.models.weights.earlier import weights_as_now
from anyres.models.weights.record import CONFIG, WEIGHTS, ModelInfo, make_config, read_record

Model = TypeVar("Model", bound=nn.Module)


def save(
    folder: Path | str,
    model: nn.Module,
    *,
    name: str | None,
    classes: Sequence[str] = (),
    training_sizes: Sequence[tuple[int, int]],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes a model of any kind to a folder; each of the two files is replaced atomically.

    Args:
        folder: made if it is not there.
        model: of any architecture in the table.
        name: the preset that it was made from, if any.
        classes: their names in the order of the logits; a masked auto-encoder has none.
        training_sizes: (height, width) of the images that it was trained on.
        extra: anything else that JSON can hold, such as a detector's "category_ids", one for each of its classes.

    Raises:
        ValueError: what is no model of anyres.
    """
    architecture, config = architecture_of(model).name, asdict(model.config)  # type: ignore[call-overload]
    info = ModelInfo(name, tuple(classes), tuple((int(h), int(w)) for h, w in training_sizes), dict(extra or {}))
    record = {"architecture": architecture, "config": config, **asdict(info)}
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    tensors = as_bytes(weights, metadata={"format": "pt"})
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / WEIGHTS, tensors)
    write_json(folder / CONFIG, record, indent=2)


@overload
def load(folder: Path | str) -> tuple[Any, ModelInfo]: ...
@overload
def load(folder: Path | str, kind: type[Model]) -> tuple[Model, ModelInfo]: ...
def load(folder: Path | str, kind: type[nn.Module] | None = None) -> tuple[Any, ModelInfo]:
    """Reads a model that `save` wrote, now or in an earlier version: on the CPU, in evaluation mode.

    Args:
        folder: of a run or of a model.
        kind: the class that it must be of; None takes any.

    Raises:
        ValueError: no model there, one of another kind, a configuration that this version does not know, or weights of
            another model.
    """
    folder = Path(folder)
    architecture, settings, info = read_record(folder)
    if kind is not None and not issubclass(architecture.model, kind):
        needed = f"needed is a {kind.__name__}; {architecture.advice}"
        raise ValueError(f"{folder} holds a {architecture.name}, {needed}.")
    with torch.device("meta"):
        model = architecture.model(make_config(architecture, settings, folder))
    try:
        with named_in_text(folder / WEIGHTS) as readable:
            weights = weights_as_now(architecture.name, load_file(readable))
    except Exception as error:  # safetensors raises its own, unexported kind
        if is_lfs_pointer(folder / WEIGHTS):
            raise ValueError(f"{folder / WEIGHTS} {LFS_POINTER}") from error
        raise ValueError(f"{folder / WEIGHTS} is not a readable safetensors file: {error}") from error
    check_weights(model, weights, str(folder / WEIGHTS))
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(True), info


def model_digest(folder: Path | str) -> str:
    """Twelve hexadecimal digits that tell a saved model from every other: of the bytes of its two files."""
    digest = hashlib.sha256()
    for name in (WEIGHTS, CONFIG):
        with open(Path(folder) / name, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def check_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Raises a ValueError that names the differences unless the weights are those of this model."""
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in weights.items()}
    if expected == given:
        return
    lines = [f"{source} holds the weights of another model:"]
    lines += [f"  missing {key} {shape}" for key, shape in expected.items() if key not in given]
    lines += [f"  unexpected {key} {shape}" for key, shape in given.items() if key not in expected]
    differing = sorted(key for key in expected.keys() & given.keys() if expected[key] != given[key])
    lines += [f"  {key} is {given[key]}, needed {expected[key]}" for key in differing]
    raise ValueError("\n".join(lines[:12] + [f"  and {len(lines) - 12} more"] * (len(lines) > 12)))
