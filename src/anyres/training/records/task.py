"""A linear head on features that are already on disk: no image is read, and no step waits for the trunk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from timm.data.mixup import mixup_target
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor, nn

from anyres.errors import Unreadable
from anyres.models.vitar import ViTAR
from anyres.models.weights.files import load, model_digest, save
from anyres.models.weights.record import ModelInfo
from anyres.seeds import index_at, key, seeded
from anyres.sizes import Size
from anyres.streaming.records import INDEX, Records
from anyres.training.parallel import share
from anyres.training.run_checks import refuse_validation

if TYPE_CHECKING:
    from anyres.training.records.config import RecordsConfig

_HEAD = 0x48454144  # keeps the draws of initialisation apart from all others


@dataclass(frozen=True, kw_only=True)
class RecordBatch:
    """One training step's records."""

    step: int
    size: Size
    """(rows, cols) of the model's grid."""
    features: Tensor
    """(B, D) float32, the mean of each image's tokens."""
    labels: Tensor
    """(B,) int64."""
    skipped: list[Unreadable] = field(default_factory=list)
    """Always empty: damaged records are an error."""


@dataclass(frozen=True)
class PreparedFeatures:
    """A batch on the device."""

    features: Tensor
    """(B, D)."""
    targets: Tensor
    """(B, classes), rows sum to 1."""


class RecordsTask:
    """A linear head learning the labels of `config.from_records`, measured on the records in val/ if they are there.

    The head reads the mean of the tokens, as a model with `pool="mean"` does; what is saved is the model that made
    the records with that head in place of its own. All means are kept in memory, 4 * D bytes for a record; every
    checksum is compared while they are read.

    Raises ValueError for records that are damaged, unfinished, without labels or with fewer than two, for validation
    records of another model or with labels that training lacks, and if the model is not to be found.
    """

    headline = ("top1", 1)

    def __init__(self, config: RecordsConfig) -> None:
        self.config = config
        split = (config.from_records / "train" / INDEX).is_file()
        self.records = Records(config.from_records / "train" if split else config.from_records)
        self.classes = self.records.classes
        labels = _labels(self.records, self.classes)
        if len(self.classes) < 2:
            raise ValueError(
                f"the records in {self.records.folder} have the one label {self.classes[0]!r}; at least 2 are needed"
            )
        self.validation = _validation_records(config, self.records, split)
        self._labels = torch.tensor(labels)
        self._encoder, self._info = _encoder(config, self.records)
        with seeded(key(config.seed, _HEAD)):
            self._encoder.reset_classifier(len(self.classes), "mean")
        self.model: nn.Module = self._encoder.head  # all that learns, and all that checkpoints need to hold
        self.criterion = SoftTargetCrossEntropy()

    def identity(self) -> dict[str, Any]:
        """Classes and a digest of all checksums: other records under the same path are another run."""
        return {"kind": "head on records", "classes": list(self.classes), "records": self.records.digest()}

    @cached_property
    def _features(self) -> Tensor:
        """(records, D), read when they are first needed: a finished run does not."""
        return self.records.pooled(progress=self.config.progress)

    def batches(self, start: int, stop: int) -> Iterator[RecordBatch]:
        """Step s takes entries [s * B, (s + 1) * B) of the endless stream, as `TrainingStream`."""
        count, size = len(self.records), self.config.batch_size
        positions = share().positions(size)
        for step in range(start, stop):
            entries = [step * size + position for position in positions]
            chosen = torch.tensor([index_at(self.config.seed, entry, count) for entry in entries])
            yield RecordBatch(
                step=step, size=self.records.grid, features=self._features[chosen], labels=self._labels[chosen]
            )

    def prepare(self, batch: RecordBatch, device: torch.device) -> PreparedFeatures:
        targets = mixup_target(batch.labels.to(device), len(self.classes), smoothing=self.config.smoothing)
        return PreparedFeatures(batch.features.to(device), targets)

    def loss(self, prepared: PreparedFeatures, rows: slice) -> Tensor:
        """Cross-entropy."""
        loss: Tensor = self.criterion(self.model(prepared.features[rows]).float(), prepared.targets[rows])
        return loss

    def validates(self) -> bool:
        return self.validation is not None

    @cached_property
    def _validation_features(self) -> tuple[Tensor, Tensor]:
        """(records, D) and labels (records,)."""
        assert self.validation is not None
        labels = torch.tensor(_labels(self.validation, self.classes))
        return self.validation.pooled(progress=self.config.progress), labels

    @torch.no_grad()
    def validate(self, model: nn.Module, device: torch.device, step: int = 0) -> list[dict[str, Any]]:
        """Top-1 on the records in val/, in one row."""
        if self.validation is None:
            return []
        features, labels = self._validation_features
        correct = int((model(features.to(device)).argmax(dim=1).cpu() == labels).sum())
        measured = {"size": list(self.validation.grid), "images": len(labels), "correct": correct}
        return [measured | {"top1": 100.0 * correct / len(labels), "skipped": []}]

    def save(self, folder: Path, model: nn.Module, extra: dict[str, Any]) -> None:
        self._encoder.head.load_state_dict(model.state_dict())
        save(
            folder,
            self._encoder,
            name=self._info.name,
            classes=self.classes,
            training_sizes=self._info.training_sizes,
            extra=extra,
        )


def _labels(records: Records, classes: tuple[str, ...]) -> list[int]:
    """The place of each record's label among the classes. ValueError for one that is not there."""
    bare = [source for source, label in zip(records.sources, records.labels, strict=True) if label is None]
    if bare or not records.labels:
        raise ValueError(
            f"{len(bare)} of {len(records)} records in {records.folder} have no label"
            + (f", the first that of {bare[0]}" if bare else "")
            + "; encode a folder that holds one folder of images per class"
        )
    extra = sorted(set(records.classes) - set(classes))
    if extra:
        raise ValueError(f"the records in {records.folder} have labels that training lacks: {', '.join(extra[:20])}")
    places = {name: place for place, name in enumerate(classes)}
    return [places[str(label)] for label in records.labels]


def _validation_records(config: RecordsConfig, train: Records, split: bool) -> Records | None:
    """The records in val/, if there are any."""
    root = config.from_records / "val"
    if not split or not root.exists():
        refuse_validation(config, ("validate_every",), f"there are no records in {root} beside train; add them")
        return None
    records = Records(root)
    _labels(records, train.classes)
    if records.settings["model"] != train.settings["model"]:
        raise ValueError(
            f"the records in {root} were made by model {records.settings['model']}, those in {train.folder} by "
            f"{train.settings['model']}; encode both with one model"
        )
    return records


def _encoder(config: RecordsConfig, records: Records) -> tuple[ViTAR, ModelInfo]:
    """The model that made the records. ValueError if it is not where it was, nor where `init` says."""
    folder, wanted = config.init or records.run, records.settings["model"]
    try:
        encoder, info = load(folder, ViTAR)
        found = model_digest(folder)
    except ValueError as error:
        raise ValueError(
            f"the records in {records.folder} need their model {wanted}; give it as init. {error}"
        ) from error
    if found != wanted:
        raise ValueError(
            f"the model in {folder} is {found}, the records in {records.folder} were made by {wanted}; "
            "give the folder of that one as init"
        )
    return encoder, info
