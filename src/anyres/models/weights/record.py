"""What stands beside a model's weights on disk: `config.json`, read without torch and turned into configurations."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from anyres.errors import unknown
from anyres.files import read_json
from anyres.models.architectures import ARCHITECTURES, Architecture
from anyres.models.config import ViTARConfig
from anyres.models.weights.earlier import settings_as_now

WEIGHTS, CONFIG = "model.safetensors", "config.json"


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


def architecture_in(folder: Path | str) -> Architecture[Any]:
    """The architecture of the model in a folder, from config.json alone. ValueError if there is none."""
    return _known(_read(Path(folder))["architecture"], folder)


def read_record(folder: Path) -> tuple[Architecture[Any], dict[str, Any], ModelInfo]:
    """What a folder's config.json says: the architecture, the fields of the configuration, and the rest."""
    _demand(folder, WEIGHTS)
    record = _read(folder)
    try:
        sizes = tuple((int(h), int(w)) for h, w in record["training_sizes"])
        info = ModelInfo(record["name"], tuple(record["classes"]), sizes, record["extra"])
        settings, found = dict(record["config"]), record["architecture"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / CONFIG} is not a model configuration of anyres: {error!r}") from error
    return _known(found, folder), settings_as_now(found, settings), info


def make_config(architecture: Architecture[Any], settings: Mapping[str, Any], folder: Path) -> Any:
    """The configuration of a model in a folder, and within it that of its ViTAR."""
    if not architecture.backbone:
        return _from_json(architecture.config, settings, folder)
    if "backbone" not in settings:
        raise ValueError(f"{folder / CONFIG} is not a model configuration of anyres: no backbone")
    inner = _from_json(ViTARConfig, settings["backbone"], folder)
    return _from_json(architecture.config, {**settings, "backbone": inner}, folder)


def _demand(folder: Path, file: str) -> None:
    if not (folder / file).is_file():
        raise ValueError(f"{folder} holds no saved model: {file} is missing. Give a folder that training wrote.")


def _read(folder: Path) -> dict[str, Any]:
    _demand(folder, CONFIG)
    remedy = "give a folder that training wrote"
    return read_json(folder / CONFIG, "a model configuration of anyres", keys=("architecture",), remedy=remedy)


def _known(name: str, folder: Path | str) -> Architecture[Any]:
    if name not in ARCHITECTURES:
        raise ValueError(f"{folder} holds a {name}; allowed: {', '.join(ARCHITECTURES)}.")
    return ARCHITECTURES[name]


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
