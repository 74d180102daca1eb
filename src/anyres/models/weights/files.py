"""Weights on disk: a folder with `model.safetensors` and `config.json`. Nothing is ever unpickled."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from safetensors.torch import load_file, save as as_bytes
from torch import Tensor, nn

from anyres.errors import unknown
from anyres.files import write_atomically
from anyres.models.architectures import ARCHITECTURES, Architecture, architecture_of
from anyres.models.config import ViTARConfig
from anyres.models.weights.earlier import settings_as_now, weights_as_now

WEIGHTS, CONFIG = "model.safetensors", "config.json"

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a saved model beside its weights."""

    name: str | None
    """The preset that it was made from, if any."""
    classes: tuple[str, ...]
    """Class names in the order of the logits."""
    training_sizes: tuple[tuple[int, int], ...]
    """(height, width) of the images that it was trained on."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Anything else that was written with it."""


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
    tensors, settings = as_bytes(weights, metadata={"format": "pt"}), (json.dumps(record, indent=2) + "\n").encode()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / WEIGHTS, lambda file: file.write(tensors))
    write_atomically(folder / CONFIG, lambda file: file.write(settings))


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
    architecture, settings, info = _read_config(folder)
    if kind is not None and architecture.name != kind.__name__:
        needed = f"needed is a {kind.__name__}; {architecture.advice}"
        raise ValueError(f"{folder} holds a {architecture.name}, {needed}.")
    with torch.device("meta"):
        model = architecture.model(_make_config(architecture, settings, folder))
    try:
        weights = weights_as_now(architecture.name, load_file(folder / WEIGHTS))
    except Exception as error:  # safetensors raises its own, unexported kind
        raise ValueError(f"{folder / WEIGHTS} is not a readable safetensors file: {error}") from error
    check_weights(model, weights, str(folder / WEIGHTS))
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(True), info


def architecture_in(folder: Path | str) -> Architecture[Any]:
    """The architecture of a saved model, from its configuration alone. ValueError as `load`."""
    return _read_config(Path(folder))[0]


def model_digest(folder: Path | str) -> str:
    """Twelve hexadecimal digits that tell a saved model from every other: of the bytes of its two files."""
    digest = hashlib.sha256()
    for name in (WEIGHTS, CONFIG):
        with open(Path(folder) / name, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def _read_config(folder: Path) -> tuple[Architecture[Any], dict[str, Any], ModelInfo]:
    """What a folder's config.json says: the architecture, the fields of the configuration, and the rest."""
    for file in (WEIGHTS, CONFIG):
        if not (folder / file).is_file():
            raise ValueError(f"{folder} holds no saved model: {file} is missing. Give a folder that training wrote.")
    path = folder / CONFIG
    try:
        record = json.loads(path.read_text())
        sizes = tuple((int(h), int(w)) for h, w in record["training_sizes"])
        info = ModelInfo(record["name"], tuple(record["classes"]), sizes, record["extra"])
        settings, found = dict(record["config"]), record["architecture"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a model configuration of anyres: {error!r}") from error
    if found not in ARCHITECTURES:
        raise ValueError(f"{folder} holds a {found}; allowed: {', '.join(ARCHITECTURES)}.")
    return ARCHITECTURES[found], settings_as_now(found, settings), info


def _make_config(architecture: Architecture[Any], settings: Mapping[str, Any], folder: Path) -> Any:
    """The configuration of a model in a folder, and within it that of its ViTAR."""
    if not architecture.backbone:
        return _from_json(architecture.config, settings, folder)
    if "backbone" not in settings:
        raise ValueError(f"{folder / CONFIG} is not a model configuration of anyres: no backbone")
    inner = _from_json(ViTARConfig, settings["backbone"], folder)
    return _from_json(architecture.config, {**settings, "backbone": inner}, folder)


def _from_json(kind: Any, settings: Mapping[str, Any], folder: Path) -> Any:
    """A frozen configuration of a kind from what JSON holds, where tuples are lists. ValueError for unknown fields."""
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    allowed = [field.name for field in fields(kind)]
    for key in settings:
        if key not in allowed:
            raise unknown(f"field in {folder / CONFIG}", key, allowed)
    try:
        return kind(**settings)
    except TypeError as error:
        raise ValueError(f"{folder / CONFIG} is not a model configuration of anyres: {error}") from error


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
