"""One size of one set: every model's answers counted, protocol by protocol."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from anyres.costs.memory import is_out_of_memory
from anyres.data.decode import read_image
from anyres.data.folder import ImageFolder
from anyres.data.loader import EvalBatch, evaluation_batches
from anyres.evaluation.journal import Part
from anyres.evaluation.metrics import METRICS
from anyres.evaluation.rows import NATIVE, SweepRow, wilson
from anyres.evaluation.stability import Answers, Reference
from anyres.evaluation.subject import Subject
from anyres.evaluation.sweep_config import SweepConfig
from anyres.sizes import Size, size_text
from anyres.spacing import evenly_spaced

EXAMPLE_SIDE = 224  # pixels that the longest side of the largest size has among the example pictures


@dataclass(kw_only=True)
class _Tally:
    """A row while its images are being counted."""

    subject: Subject
    protocol: str
    target: Size | None
    reference: Reference | None = None
    """What the answers are compared with, for rows of images as they are in a sweep of stability."""
    classes: list[int] = field(default_factory=list)
    """The model's answers, if they are compared."""
    images: int = 0
    correct: int = 0
    totals: dict[str, float] = field(default_factory=lambda: dict.fromkeys(METRICS, 0.0))
    """Sums over the images of what `METRICS` say."""
    macs: int = 0
    seconds: float = 0.0

    @cached_property
    def places(self) -> dict[str, int]:
        """Of the classes in the model's order; looking for each image's in the list would take images times classes."""
        return {name: place for place, name in enumerate(self.subject.info.classes)}

    def count(
        self, pictures: Sequence[Image.Image], names: Sequence[str], indices: Sequence[int], config: SweepConfig
    ) -> None:
        """Adds the answers to some pictures whose true classes are `names` and whose numbers in the set `indices`."""
        images = self.subject.views(pictures, self.target, config.keep_aspect)
        self.subject.seconds = 0.0
        probabilities, pooled = self.subject.look(images, config.max_patches)  # (B, classes), (B, D)
        self.seconds += self.subject.seconds
        labels = torch.tensor([self.places[name] for name in names])  # in the model's order
        best = probabilities.argmax(-1)
        self.correct += int((best == labels).sum())
        values = {name: metric(probabilities, labels) for name, metric in METRICS.items()}
        if self.reference is not None:
            values |= self.reference.compare(indices, best, pooled)
            self.classes += best.tolist()
        for name, value in values.items():
            self.totals[name] = self.totals.get(name, 0.0) + float(value.double().sum())
        self.images += len(images)
        self.macs += sum(self.subject.macs((image.shape[1], image.shape[2])) for image in images)


def measure_size(
    name: str,
    size: Size,
    folder: ImageFolder,
    subjects: Sequence[Subject],
    config: SweepConfig,
    bar: tqdm,
    references: Mapping[str, Reference] = MappingProxyType({}),
) -> Part:
    """Measures all the models at one size of one set; moves the bar on by the images counted.

    `references` are those of the models by their labels, in a sweep of stability.
    """
    tallies, left_out = _plan_rows(name, size, subjects, config, references)
    skipped: dict[str, str] = {}
    seen: list[int] = []
    for batch in _batches(folder, size, subjects, config) if tallies else ():
        for path, reason in batch.skipped:
            skipped[Path(path).relative_to(folder.root).as_posix()] = reason
        seen += batch.indices.tolist()
        pictures = [_picture(image) for image in batch.images]
        names = [folder.classes[label] for label in batch.labels.tolist()]
        for tally in tuple(tallies):
            try:
                tally.count(pictures, names, batch.indices.tolist(), config)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                # what one model finds no room for is its own affair: the others go on
                tallies.remove(tally)
                reason = f"out of memory on {tally.subject.device} for a batch (max_patches={config.max_patches})"
                left_out.append(_left_out(name, tally.subject, tally.protocol, size, reason))
        bar.update(len(pictures))
        if not tallies:
            break
    native = [tally.subject for tally in tallies if tally.protocol == NATIVE]
    classes = {tally.subject.label: tally.classes for tally in tallies if tally.reference is not None}
    return Part(
        set=name,
        size=list(size),
        rows=[_row(name, size, tally, config) for tally in tallies],
        examples=_examples(name, size, folder, seen, native, config),
        skipped=skipped,
        left_out=left_out,
        answers=Answers(images=seen, classes=classes) if config.stability else None,
    )


def make_references(folder: ImageFolder, subjects: Sequence[Subject], config: SweepConfig) -> dict[str, Reference]:
    """What each model makes of the images at its largest training size; every start of a sweep finds the same."""
    found = {subject.label: Reference() for subject in subjects}
    for size in dict.fromkeys(subject.largest_size for subject in subjects):
        own = [subject for subject in subjects if subject.largest_size == size]
        for batch in _batches(folder, size, own, config):
            pictures = [_picture(image) for image in batch.images]
            for subject in own:
                views = subject.views(pictures, None, config.keep_aspect)
                probabilities, pooled = subject.look(views, config.max_patches)
                found[subject.label].add(batch.indices.tolist(), probabilities.argmax(-1), pooled)
    return found


def _plan_rows(
    name: str,
    size: Size,
    subjects: Sequence[Subject],
    config: SweepConfig,
    references: Mapping[str, Reference],
) -> tuple[list[_Tally], list[dict[str, Any]]]:
    """The rows to count at a size, and those left out because they cost or need too much, with the reason."""
    tallies: list[_Tally] = []
    left_out: list[dict[str, Any]] = []
    for subject in subjects:
        for protocol, target in protocols(subject, config):
            shape, reason = target or size, ""
            if config.max_macs is not None and subject.macs(shape) > config.max_macs:
                reason = f"{subject.macs(shape):.3g} multiply-accumulates, more than max_macs = {config.max_macs:.3g}"
            else:
                try:
                    subject.speed(shape, config.latency_runs, config.latency_seconds)
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    reason = f"out of memory on {subject.device} for one image"
            if reason:
                left_out.append(_left_out(name, subject, protocol, size, reason))
            else:
                reference = references.get(subject.label) if target is None else None
                tallies.append(_Tally(subject=subject, protocol=protocol, target=target, reference=reference))
    return tallies, left_out


def _left_out(name: str, subject: Subject, protocol: str, size: Size, reason: str) -> dict[str, Any]:
    return {"set": name, "model": subject.label, "protocol": protocol, "size": list(size), "reason": reason}


def protocols(subject: Subject, config: SweepConfig) -> Iterator[tuple[str, Size | None]]:
    """The names of the ways in which a model gets an image, with the size that it is resized to, if it is."""
    yield NATIVE, None
    sizes = subject.sizes_by_area
    smallest = sizes[:1] if "smallest" in config.resize_to else []
    largest = sizes[-1:] if "largest" in config.resize_to else []
    for size in dict.fromkeys(smallest + largest):
        yield f"resized to {size_text(size)}", size


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
    planes = image.mul(255).round_().to(torch.uint8).numpy()
    return Image.merge("RGB", [Image.fromarray(plane) for plane in planes])


def _row(name: str, size: Size, tally: _Tally, config: SweepConfig) -> SweepRow:
    speed, memory = tally.subject.speed(tally.target or size, config.latency_runs, config.latency_seconds)
    return SweepRow(
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
        metrics={name: total / tally.images for name, total in tally.totals.items()},
    )


def _examples(
    name: str, size: Size, folder: ImageFolder, seen: Sequence[int], subjects: Sequence[Subject], config: SweepConfig
) -> list[dict[str, Any]]:
    """Some of the images seen, spread evenly, at this size, with what every model makes of them as they are."""
    count = min(config.examples, len(seen)) if subjects else 0
    scale = min(1.0, EXAMPLE_SIDE / max(max(size) for size in config.parsed_sizes))
    transform = config.transform(size)
    found = []
    for index in (seen[place] for place in evenly_spaced(len(seen), count)):
        picture = _picture(transform(read_image(folder.paths[index], max_pixels=config.max_pixels)))
        predictions = {}
        for subject in subjects:
            chances = subject.answer(subject.views([picture], None, config.keep_aspect), config.max_patches)[0]
            best = int(chances.argmax())
            predictions[subject.label] = [subject.info.classes[best], round(float(chances[best]), 4)]
        label, png = folder.classes[folder.labels[index]], _thumbnail(picture, scale)
        found.append({"set": name, "size": list(size), "label": label, "png": png, "predictions": predictions})
    return found


def _thumbnail(picture: Image.Image, scale: float) -> str:
    width, height = (max(1, round(side * scale)) for side in picture.size)
    buffer = io.BytesIO()
    picture.resize((width, height), Image.Resampling.LANCZOS).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
