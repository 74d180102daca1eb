"""Weights on disk: a folder with `model.safetensors` and `config.json`. Nothing is ever unpickled."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from anyres.errors import unknown
from anyres.files import write_atomically
from anyres.models.mae import MaskedAutoencoder
from anyres.models.mae_config import MAEConfig
from anyres.models.vitar import ViTAR, ViTARConfig

WEIGHTS, CONFIG = "model.safetensors", "config.json"

_ADVICE = {
    "MaskedAutoencoder": "fine-tune it with anyres train --init",
    "ViTAR": "it is a classifier",
    "Segmenter": "it labels pixels: anyres predict --task segmentation, anyres evaluate",
    "Detector": "it finds objects: anyres predict --task detection, anyres evaluate",
}


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


def save_model(
    folder: Path | str,
    model: ViTAR,
    *,
    name: str | None,
    classes: Sequence[str],
    training_sizes: Sequence[tuple[int, int]],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes a model to a folder; each of the two files is replaced atomically."""
    info = model_info(name, classes, training_sizes, extra)
    write_model(Path(folder), model, {"architecture": "ViTAR", "config": asdict(model.config), **asdict(info)})


def save_mae(
    folder: Path | str,
    model: MaskedAutoencoder,
    *,
    name: str | None,
    training_sizes: Sequence[tuple[int, int]],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """`save_model` for a masked auto-encoder with its decoder. `anyres train --init` starts from such a folder."""
    info = model_info(name, (), training_sizes, extra)
    record = {"architecture": "MaskedAutoencoder", "config": asdict(model.config), **asdict(info)}
    write_model(Path(folder), model, record)


def model_info(
    name: str | None, classes: Sequence[str], sizes: Sequence[tuple[int, int]], extra: Mapping[str, Any] | None
) -> ModelInfo:
    """What is written beside the weights, in its own types."""
    return ModelInfo(name, tuple(classes), tuple((int(h), int(w)) for h, w in sizes), dict(extra or {}))


def write_model(folder: Path, model: nn.Module, record: dict[str, Any]) -> None:
    """Both files of a model: its weights, and `record`, with "architecture", "config" and the fields of `ModelInfo`."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    tensors, settings = save(weights, metadata={"format": "pt"}), (json.dumps(record, indent=2) + "\n").encode()
    write_atomically(folder / WEIGHTS, lambda file: file.write(tensors))
    write_atomically(folder / CONFIG, lambda file: file.write(settings))


def model_digest(folder: Path | str) -> str:
    """Twelve hexadecimal digits that tell a saved model from every other: of the bytes of its two files."""
    digest = hashlib.sha256()
    for name in (WEIGHTS, CONFIG):
        with open(Path(folder) / name, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def load_model(folder: Path | str) -> tuple[ViTAR, ModelInfo]:
    """Reads a model that `save_model` wrote: on the CPU, in evaluation mode.

    Raises:
        ValueError: no model there, a configuration that this version does not know, or weights of another model.
    """
    record, info = read_config(Path(folder), "ViTAR")
    return loaded(Path(folder), ViTAR, encoder_config(record, Path(folder))), info


def load_mae(folder: Path | str) -> tuple[MaskedAutoencoder, ModelInfo]:
    """Reads a masked auto-encoder that `save_mae` wrote: on the CPU, in evaluation mode.

    Raises:
        ValueError: as `load_model`.
    """
    return load_around(folder, MaskedAutoencoder, MAEConfig, "encoder")


Model = TypeVar("Model", bound=nn.Module)


def load_around(
    folder: Path | str, kind: Callable[[Any], Model], config: type[Any], part: str
) -> tuple[Model, ModelInfo]:
    """`load_model` for a model around a ViTAR, whose configuration is the field `part` of its own."""
    folder = Path(folder)
    record, info = read_config(folder, kind.__name__)
    if part not in record:
        raise ValueError(f"{folder / CONFIG} is not a model configuration of anyres: no {part}")
    inner = encoder_config(record.pop(part), folder)
    return loaded(folder, kind, make_config(config, {**record, part: inner}, folder)), info


def loaded(folder: Path, kind: Callable[[Any], Model], config: Any) -> Model:
    """A model of this configuration with the weights in a folder: on the CPU, in evaluation mode."""
    with torch.device("meta"):
        model = kind(config)
    try:
        weights = load_file(folder / WEIGHTS)
    except Exception as error:  # safetensors raises its own, unexported kind
        raise ValueError(f"{folder / WEIGHTS} is not a readable safetensors file: {error}") from error
    check_weights(model, weights, str(folder / WEIGHTS))
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(True)


def read_config(folder: Path, architecture: str) -> tuple[dict[str, Any], ModelInfo]:
    """The fields of the model's configuration, and what else is known of it."""
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
    if found != architecture:
        advice = _ADVICE.get(found, f"allowed here: {architecture}")
        raise ValueError(f"{folder} holds a {found}, needed is a {architecture}; {advice}.")
    return settings, info


def encoder_config(settings: Mapping[str, Any], folder: Path) -> ViTARConfig:
    """The configuration of a ViTAR in a folder, by itself or as a part of another model's."""
    return make_config(ViTARConfig, settings, folder)


def make_config(kind: Any, settings: Mapping[str, Any], folder: Path) -> Any:
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
