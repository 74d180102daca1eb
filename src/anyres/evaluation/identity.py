"""What decides about the rows of a sweep, as plain JSON: two sweeps that agree in it measure the same."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import timm
import torch

from anyres.data.folder import ImageFolder
from anyres.devices import resolve_device
from anyres.evaluation.subject import Subject
from anyres.evaluation.sweep_config import SweepConfig
from anyres.models.presets import CLASSIFIERS
from anyres.models.weights.files import model_digest
from anyres.settings import plain

# Of the configuration: said elsewhere in the identity, or without influence on what is measured.
_ELSEWHERE = {"runs", "data", "sizes", "device", "threads", "precision", "out", "title", "num_workers", "progress"}


def identity(config: SweepConfig, subjects: Sequence[Subject], folders: Mapping[str, ImageFolder]) -> dict[str, Any]:
    """Environment, protocol, settings, models (with a digest of their files) and sets (with one of the files' names).

    To be asked for while torch has the number of threads that is measured with.
    """
    settings = {name: value for name, value in asdict(config).items() if name not in _ELSEWHERE}
    if not config.stability:
        del settings["stability"]  # sweeps begun before there was the option have none, and go on
    found = {
        "environment": _environment(config),
        "protocol": _protocol(config),
        "settings": {"sizes": config.parsed_sizes, **settings},
        "models": {subject.label: _describe(subject) for subject in subjects},
        "sets": {name: {"images": len(folder), "files": folder.digest()} for name, folder in folders.items()},
    }
    return plain(found)


def _describe(subject: Subject) -> dict[str, Any]:
    config, folder = subject.model.config, subject.run.resolve()
    return {
        "name": subject.info.name,
        "options": _options(subject),
        "parameters": sum(p.numel() for p in subject.model.parameters()),
        "training_sizes": subject.info.training_sizes,
        "patch_size": config.patch_size,
        "grid": config.grid,
        **({} if config.grid_shape == "fixed" else {"grid_shape": config.grid_shape}),  # older sweeps have no such word
        "run": folder.name,
        "parent": folder.parent.name,
        "classes": len(subject.info.classes),
        "weights": model_digest(folder),
    }


def _options(subject: Subject) -> dict[str, Any]:
    """The fields in which a model differs from the preset that it is named after."""
    if subject.info.name not in CLASSIFIERS:
        return {}
    preset, own = asdict(CLASSIFIERS[subject.info.name]), asdict(subject.model.config)
    return {name: own[name] for name in own if own[name] != preset[name] and name != "num_classes"}


def _environment(config: SweepConfig) -> dict[str, Any]:
    device = resolve_device(config.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "torch": torch.__version__,
        "timm": timm.__version__,
        "device": f"{device} ({name})",
        "threads": torch.get_num_threads(),
        "precision": config.precision,
    }


def _protocol(config: SweepConfig) -> dict[str, Any]:
    how = f"short side to size / {config.crop_ratio:g}, centre crop"
    if config.keep_aspect or config.squash:
        how = "whole image, " + ("resized to the size" if config.squash else "short side to the size")
    return {
        "preparation": f"{how}; bicubic, antialiased",
        "images per set": config.limit or "all",
        "largest batch": config.batch_size,
        "most patches per batch": config.max_patches,
    }
