"""The resolution sweep: models x sets x sizes -> accuracy, cost, latency and memory, as JSON for `anyres report`.

Every image is read once per size. It is brought to that size by the evaluation protocol, and given to each model as it
is ("native") and, as the baseline that any claim has to beat, resized to a size that the model was trained at.
"""

from __future__ import annotations

import base64
import io
import json
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from anyres.data.folder import ImageFolder
from anyres.data.loader import EvalBatch, evaluation_batches
from anyres.data.schedule import Size
from anyres.evaluation.rows import FORMAT, NATIVE, Row, size_text, wilson
from anyres.evaluation.subject import Subject, load_subjects
from anyres.evaluation.sweep_config import SweepConfig, checked_device
from anyres.models.presets import PRESETS

__all__ = ["SweepConfig", "sweep"]

EXAMPLE_SIDE = 224  # pixels that the longest side of the largest size has among the example pictures


@dataclass(kw_only=True)
class _Tally:
    """A row while its images are being counted."""

    subject: Subject
    protocol: str
    target: Size | None
    images: int = 0
    correct: int = 0
    macs: int = 0
    seconds: float = 0.0

    def count(self, pictures: Sequence[Image.Image], names: Sequence[str], config: SweepConfig) -> None:
        """Adds the answers to some pictures whose true classes are `names`."""
        images = self.subject.views(pictures, self.target, config.keep_aspect)
        self.subject.seconds = 0.0
        chosen = self.subject.answer(images, config.max_patches).argmax(-1).tolist()
        self.seconds += self.subject.seconds
        self.correct += sum(self.subject.info.classes[i] == name for i, name in zip(chosen, names, strict=True))
        self.images += len(images)
        self.macs += sum(self.subject.macs((image.shape[1], image.shape[2])) for image in images)


def sweep(config: SweepConfig) -> dict[str, Any]:
    """Measures everything that `config` asks for, writes it to `config.out` (replaced atomically) and returns it.

    Raises ValueError before any work for runs, sets or sizes that cannot be used, or whose classes differ.
    """
    if config.out.is_dir():
        raise ValueError(f"out is the folder {config.out}; allowed: a file, such as {config.out / 'sweep.json'}")
    config.out.parent.mkdir(parents=True, exist_ok=True)  # fails now rather than after hours
    subjects = load_subjects(config)
    folders = _folders(config, subjects)
    result: dict[str, Any] = {"format": FORMAT, "title": config.title}
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads or threads)
    try:
        result |= {"environment": _environment(config), "protocol": _protocol(config)}
        result |= {"models": {subject.label: _describe(subject) for subject in subjects}}
        result |= {"rows": [], "examples": [], "skipped": [], "left_out": []}
        for name, folder in folders.items():
            _sweep_set(name, folder, subjects, config, result)
    finally:
        torch.set_num_threads(threads)
    temporary = config.out.with_name(config.out.name + ".partial")
    temporary.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, config.out)
    return result


def _folders(config: SweepConfig, subjects: Sequence[Subject]) -> dict[str, ImageFolder]:
    """Name of the set -> its images, after checking that every model knows exactly its classes."""
    folders: dict[str, ImageFolder] = {}
    for path in map(Path, config.data):
        root = path / "val" if (path / "val").is_dir() else path
        for subject in subjects:
            try:
                folder = ImageFolder(root, classes=sorted(subject.info.classes))
            except ValueError as error:
                raise ValueError(f"{subject.run} cannot be measured on {path}: {error}") from error
        name = path.resolve().name
        name = f"{path.resolve().parent.name}/{name}" if name in folders else name
        if name in folders:
            raise ValueError(f"the set {name} is given twice; allowed: each once")
        folders[name] = folder
    return folders


def _sweep_set(
    name: str, folder: ImageFolder, subjects: Sequence[Subject], config: SweepConfig, result: dict[str, Any]
) -> None:
    """Adds one set's rows, examples, skipped files and rows left out to the result."""
    rows: list[Row] = []
    skipped: dict[str, str] = {}
    count = min(len(folder), config.limit or len(folder))
    with tqdm(total=count * len(config.sizes), desc=name, unit="image", disable=not config.progress) as bar:
        for size in config.parsed_sizes:
            bar.set_postfix_str(size_text(size))
            tallies, left_out = _plan_rows(name, size, subjects, config)
            result["left_out"] += left_out
            for batch in _batches(folder, size, subjects, config) if tallies else ():
                for path, reason in batch.skipped:
                    skipped[path.relative_to(folder.root).as_posix()] = reason.replace(str(path), path.name)
                pictures = [_picture(image) for image in batch.images]
                for tally in tallies:
                    tally.count(pictures, [folder.classes[label] for label in batch.labels.tolist()], config)
                bar.update(len(pictures))
            rows += [_row(name, size, tally, config) for tally in tallies]
            native = [tally.subject for tally in tallies if tally.protocol == NATIVE]
            result["examples"] += _examples(name, size, folder, native, config)
    order = [(subject.label, protocol) for subject in subjects for protocol, _ in _protocols(subject, config)]
    result["rows"] += sorted(rows, key=lambda row: order.index((row["model"], row["protocol"])))
    result["skipped"] += [{"set": name, "path": path, "reason": reason} for path, reason in sorted(skipped.items())]


def _plan_rows(
    name: str, size: Size, subjects: Sequence[Subject], config: SweepConfig
) -> tuple[list[_Tally], list[dict[str, Any]]]:
    """The rows to count at a size, and those left out because they cost or need too much, with the reason."""
    tallies: list[_Tally] = []
    left_out: list[dict[str, Any]] = []
    for subject in subjects:
        for protocol, target in _protocols(subject, config):
            shape, reason = target or size, ""
            if config.max_macs is not None and subject.macs(shape) > config.max_macs:
                reason = f"{subject.macs(shape):.3g} multiply-accumulates, more than max_macs = {config.max_macs:.3g}"
            else:
                try:
                    subject.speed(shape, config.latency_runs, config.latency_seconds)
                except torch.OutOfMemoryError:
                    reason = f"out of memory on {config.device} for one image"
            if reason:
                where = {"set": name, "model": subject.label, "protocol": protocol, "size": list(size)}
                left_out.append(where | {"reason": reason})
            else:
                tallies.append(_Tally(subject=subject, protocol=protocol, target=target))
    return tallies, left_out


def _protocols(subject: Subject, config: SweepConfig) -> Iterator[tuple[str, Size | None]]:
    yield NATIVE, None
    sizes = sorted(subject.info.training_sizes, key=lambda size: (size[0] * size[1], size))
    smallest = sizes[:1] if "smallest" in config.resize_to else []
    largest = sizes[-1:] if "largest" in config.resize_to else []
    for height, width in dict.fromkeys(smallest + largest):
        yield f"resized to {height}x{width}", (height, width)


def _batches(folder: ImageFolder, size: Size, subjects: Sequence[Subject], config: SweepConfig) -> Iterator[EvalBatch]:
    most = config.max_patches // max(subject.patches(size) for subject in subjects)
    return evaluation_batches(
        folder,
        config.transform(size),
        batch_size=max(1, min(config.batch_size, most)),
        limit=config.limit,
        num_workers=config.num_workers,
        max_pixels=config.max_pixels,
        strict=config.strict,
    )


def _picture(image: Tensor) -> Image.Image:
    """(3, H, W) in 0..1 back to the Pillow image that the transform saw; exact, since that has 8 bits per channel."""
    return Image.fromarray(image.mul(255).round_().to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


def _row(name: str, size: Size, tally: _Tally, config: SweepConfig) -> Row:
    speed, memory = tally.subject.speed(tally.target or size, config.latency_runs, config.latency_seconds)
    return Row(
        set=name,
        model=tally.subject.label,
        protocol=tally.protocol,
        size=list(size),
        images=tally.images,
        correct=tally.correct,
        top1=100 * tally.correct / tally.images,
        interval=list(wilson(tally.correct, tally.images)),
        macs=round(tally.macs / tally.images),
        latency_ms=speed,
        images_per_second=tally.images / tally.seconds,
        peak_memory_bytes=memory,
    )


def _examples(
    name: str, size: Size, folder: ImageFolder, subjects: Sequence[Subject], config: SweepConfig
) -> list[dict[str, Any]]:
    """A few images at this size, with what every model makes of them as they are."""
    if not config.examples or not subjects:
        return []
    scale = min(1.0, EXAMPLE_SIDE / max(max(size) for size in config.parsed_sizes))
    found = []
    for batch in _batches(folder, size, subjects, replace(config, limit=config.examples)):
        for image, label in zip(batch.images, batch.labels.tolist(), strict=True):
            picture, predictions = _picture(image), {}
            for subject in subjects:
                chances = subject.answer(subject.views([picture], None, config.keep_aspect), config.max_patches)[0]
                best = int(chances.argmax())
                predictions[subject.label] = [subject.info.classes[best], round(float(chances[best]), 4)]
            found.append(
                {
                    "set": name,
                    "size": list(size),
                    "label": folder.classes[label],
                    "png": _thumbnail(picture, scale),
                    "predictions": predictions,
                }
            )
    return found


def _thumbnail(picture: Image.Image, scale: float) -> str:
    width, height = (max(1, round(side * scale)) for side in picture.size)
    buffer = io.BytesIO()
    picture.resize((width, height), Image.Resampling.LANCZOS).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _describe(subject: Subject) -> dict[str, Any]:
    config = subject.model.config
    return {
        "name": subject.info.name,
        "options": _options(subject),
        "parameters": sum(p.numel() for p in subject.model.parameters()),
        "training_sizes": [list(size) for size in subject.info.training_sizes],
        "patch_size": config.patch_size,
        "grid": list(config.grid),
        "run": subject.run.resolve().name,
        "classes": len(subject.info.classes),
    }


def _options(subject: Subject) -> dict[str, Any]:
    """The fields in which a model differs from the preset that it is named after."""
    if subject.info.name not in PRESETS:
        return {}
    preset, own = asdict(PRESETS[subject.info.name]), asdict(subject.model.config)
    changed = {name: own[name] for name in own if own[name] != preset[name] and name != "num_classes"}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in changed.items()}


def _environment(config: SweepConfig) -> dict[str, Any]:
    device = checked_device(config.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "torch": torch.__version__,
        "timm": timm.__version__,
        "device": f"{config.device} ({name})",
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
