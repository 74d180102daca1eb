"""Semantic segmentation as a task for the engine: a class for every pixel, measured as mean intersection over union."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from anyres.data.segmentation import (
    HOW_MASKS_ARE_READ,
    IGNORE,
    SegmentationFolder,
    class_names,
    described,
    has_split,
)
from anyres.data.segmentation_stream import SegmentationBatch, SegmentationStream
from anyres.metrics.segmentation import evaluate_segmenter, measured
from anyres.models.architectures import backbone_of
from anyres.models.modes import evaluating
from anyres.models.segmenter import Segmenter
from anyres.models.weights.files import save
from anyres.seeds import key, seeded
from anyres.training.finetune import identity_of_init, start_from
from anyres.training.parallel import mean, share
from anyres.training.run_checks import refuse_validation

if TYPE_CHECKING:
    from anyres.training.segmentation.config import SegmentationConfig

_INIT = 0x5345474D  # keeps the draws of initialisation apart from all others


@dataclass(frozen=True)
class PreparedMasks:
    """A batch on the device."""

    images: Tensor
    """(B, C, H, W)."""
    labels: Tensor
    """(B, H, W) uint8."""
    known: Tensor
    """() float32, pixels of the batch whose class is known; of several processes the mean of each one's share."""
    keys: Tensor
    """(B,) int64 jitter keys."""


class SegmentationTask:
    """A segmenter learning the masks of `config.data`, measured on its validation images if there are any.

    Images that cannot be used are named on stderr and left out, or with `strict` refused. Classes that no mask has are
    named there too, and photos counted that their EXIF data turns.

    Raises ValueError for folders that are not there or hold nothing to learn from, for settings that need validation
    images where there are none, and for weights to start from that do not fit.
    """

    headline = ("miou", 1)

    def __init__(self, config: SegmentationConfig) -> None:
        self.config = config
        self.classes = class_names(
            config.data,
            config.num_classes,
            reduce_zero_label=config.reduce_zero_label,
            mask_values=config.mask_values,
        )
        self.folder = _folder(config, "train", self.classes)
        self.validation = _validation_folder(config, self.classes)
        settings = config.model_settings()
        with seeded(key(config.seed, _INIT)):
            self.model = Segmenter(settings)
        start_from(config, backbone_of(self.model), is_backbone=True)
        self.stream = SegmentationStream(
            self.folder,
            batch_size=config.batch_size,
            schedule=config.schedule(),
            augment=config.augmentation,
            mean=settings.backbone.mean,
            std=settings.backbone.std,
            seed=config.seed,
            num_workers=config.num_workers,
            strict=config.strict,
            share=share(),
        )

    def identity(self) -> dict[str, Any]:
        """Classes and digests of the training files and of the weights that it starts from, if any: others under the
        same path are another run."""
        known = {"kind": "segmentation", "classes": list(self.classes), "training files": self.folder.digest()}
        return known | identity_of_init(self.config)

    def batches(self, start: int, stop: int) -> Iterator[SegmentationBatch]:
        return self.stream.batches(start, stop)

    def prepare(self, batch: SegmentationBatch, device: torch.device) -> PreparedMasks:
        labels = batch.labels.to(device, non_blocking=True)
        images, keys = batch.images.to(device, non_blocking=True), batch.keys.to(device)
        return PreparedMasks(images, labels, mean((labels != IGNORE).sum().float()), keys)

    def loss(self, prepared: PreparedMasks, rows: slice) -> Tensor:
        """Cross-entropy over the pixels of the batch whose class is known, the auxiliary head's added.

        Some rows' share of it, times the number of such shares: so the shares of all rows have the whole as their mean,
        however their known pixels are spread.
        """
        labels = prepared.labels[rows].long()
        logits, auxiliary = self.model.forward_training(prepared.images[rows], prepared.keys[rows])
        loss = _summed(logits, labels)
        if auxiliary is not None:
            loss = loss + self.config.auxiliary_weight * _summed(auxiliary, labels)
        # A batch without one known pixel has the loss 0, not 0 / 0.
        return loss * (len(prepared.labels) / len(labels)) / prepared.known.clamp(min=1e-3)

    def validates(self) -> bool:
        return self.validation is not None

    def validate(self, model: nn.Module, device: torch.device, step: int) -> list[dict[str, Any]]:
        """At every training size: size, images, what `measured` says, in percent, and the classes that are "absent"."""
        assert isinstance(model, Segmenter)
        if self.validation is None:
            return []
        limit, strict, rows = self.config.validate_limit, self.config.strict, []
        with evaluating(model):
            for size in self.config.parsed_sizes():
                found = evaluate_segmenter(model, self.validation, min(size), limit=limit, strict=strict)
                confusion, images, skipped = found
                absent = [self.classes[label] for label in confusion.absent()]
                row = {"size": list(size), "images": images, **measured(confusion), "absent": absent}
                rows.append({**row, "skipped": skipped})
        return rows

    def save(self, folder: Path, model: nn.Module, extra: dict[str, Any]) -> None:
        assert isinstance(model, Segmenter)
        save(
            folder,
            model,
            name=self.config.model,
            classes=self.classes,
            training_sizes=self.config.parsed_sizes(),
            extra=extra | {name: getattr(self.config, name) for name in HOW_MASKS_ARE_READ},
        )


def _summed(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="sum")


def _folder(config: SegmentationConfig, split: str, classes: Sequence[str]) -> SegmentationFolder:
    folder = SegmentationFolder(
        config.data,
        split,
        num_classes=config.num_classes,
        max_pixels=config.max_pixels,
        strict=config.strict,
        **{name: getattr(config, name) for name in HOW_MASKS_ARE_READ},
    )
    lines = [described(folder.skipped, len(folder) + len(folder.skipped))] if folder.skipped else []
    lines += folder.turned.report("masks", config.labels_as) + folder.survey.report(folder.root, classes)
    for line in lines:
        tqdm.write(line, file=sys.stderr)
    return folder


def _validation_folder(config: SegmentationConfig, classes: Sequence[str]) -> SegmentationFolder | None:
    if has_split(config.data, "val"):
        return _folder(config, "val", classes)
    missing = f"{config.data / 'images' / 'validation'} does not exist; add it"
    refuse_validation(config, ("validate_every", "validate_limit"), missing)
    return None
