"""Detection as a task for the engine: boxes, classes and masks of objects, measured as average precision."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional
from tqdm import tqdm

from anyres.data.class_survey import class_text
from anyres.data.coco import CocoImages, Target, find_coco_split
from anyres.data.coco_masks import mask_tools
from anyres.data.detection import AnnotatedReader, DetectionBatch, DetectionStream
from anyres.errors import UnreadableImageError
from anyres.files import write_picture
from anyres.metrics.average_precision import AveragePrecision
from anyres.metrics.detection import evaluate_detector
from anyres.models.architectures import backbone_of
from anyres.models.detector import Detector
from anyres.models.modes import evaluating
from anyres.models.weights.files import save
from anyres.predict.objects import detect, draw_detections
from anyres.seeds import key, seeded
from anyres.sizes import Size
from anyres.spacing import evenly_spaced
from anyres.training.finetune import identity_of_init, start_from
from anyres.training.parallel import share
from anyres.training.run_checks import refuse_validation

if TYPE_CHECKING:
    from anyres.training.detection.config import DetectionConfig

PICTURES = "detections"

_INIT = 0x44455443  # keeps the draws of initialisation apart from all others


@dataclass(frozen=True)
class PreparedTargets:
    """A batch on the device."""

    images: Tensor
    """(B, C, H, W)."""
    targets: list[Target]
    keys: Tensor
    """(B,) int64 jitter keys."""


class DetectionTask:
    """A detector learning the objects of `config.data`, measured on its validation images if there are any.

    Annotations that are clipped or left out are counted on stderr, and so are photos that their EXIF data turns;
    classes without an object are named there.

    Raises ValueError for data that cannot be used (see `CocoImages`), for settings that need validation images where
    there are none, and for weights to start from that do not fit. ImportError names the extra that reading masks and
    measuring need. Pictures of what is found go to detections/ in the run folder.
    """

    headline = ("box_ap", 1)

    def __init__(self, config: DetectionConfig) -> None:
        self.config = config
        masks = config.model_settings().masks
        if masks:
            mask_tools()  # fails now rather than after the data has been read
        self.data = _training_images(config, masks)
        self.validation = _validation_images(config, self.data)
        settings = config.model_settings(len(self.data.classes))
        with seeded(key(config.seed, _INIT)):
            self.model = Detector(settings)
        start_from(config, backbone_of(self.model), is_backbone=True)
        self.stream = DetectionStream(
            self.data,
            batch_size=config.batch_size,
            schedule=config.schedule(),
            augment=config.augmentation,
            fill=settings.backbone.mean,
            seed=config.seed,
            num_workers=config.num_workers,
            max_pixels=config.max_pixels,
            strict=config.strict,
            share=share(),
        )

    def identity(self) -> dict[str, Any]:
        """Categories and digests of the annotations and of the weights that it starts from, if any: others under the
        same path are another run."""
        categories = [[number, name] for number, name in self.data.categories.items()]
        known = {"kind": "detection", "categories": categories, "annotations": self.data.digest()}
        return known | identity_of_init(self.config)

    def batches(self, start: int, stop: int) -> Iterator[DetectionBatch]:
        return self.stream.batches(start, stop)

    def prepare(self, batch: DetectionBatch, device: torch.device) -> PreparedTargets:
        targets = [{name: value.to(device) for name, value in target.items()} for target in batch.targets]
        return PreparedTargets(batch.images.to(device, non_blocking=True), targets, batch.keys.to(device))

    def loss(self, prepared: PreparedTargets, rows: slice) -> Tensor:
        """The sum of Mask R-CNN's five losses: two of the first stage, three of the second."""
        losses = self.model(list(prepared.images[rows]), prepared.targets[rows], prepared.keys[rows])
        return torch.stack([loss.float() for loss in losses.values()]).sum()

    def validates(self) -> bool:
        return self.validation is not None

    def validate(self, model: nn.Module, device: torch.device, step: int) -> list[dict[str, Any]]:
        """At every training size: size, images, and percentages (see `AveragePrecision.compute`). Draws images too."""
        assert isinstance(model, Detector)
        if self.validation is None:
            return []
        with evaluating(model):
            try:
                rows = [self._validate_at(size, self.validation, model, device) for size in self.config.parsed_sizes()]
            finally:  # the model is saved and trained on, at its own size
                model.set_size(model.config.min_size, model.config.max_size)
            self._draw(self.validation, model, device, step)
        return rows

    def _validate_at(self, size: Size, data: CocoImages, model: Detector, device: torch.device) -> dict[str, Any]:
        config = self.config
        model.set_size(min(size), max(size))
        found = evaluate_detector(
            model,
            data,
            device,
            limit=config.validate_limit,
            num_workers=config.num_workers,
            max_pixels=config.max_pixels,
            strict=config.strict,
            progress=config.progress,
        )
        known = {"size": list(size), "images": found.images, **found.measures}
        return known | {"absent": found.absent, "skipped": found.skipped}

    def _draw(self, data: CocoImages, model: Detector, device: torch.device, step: int) -> None:
        """What is found in some images, the same ones every time."""
        read = AnnotatedReader(data, self.config.max_pixels, model.config.backbone.in_channels)
        for index in evenly_spaced(len(data), self.config.draw_images) if self.config.draw_images else ():
            try:
                image = read(index)
            except UnreadableImageError:
                continue  # reported by the measuring
            (found,) = detect(model, [image], device)
            name = f"step-{step:06d}-image-{data.images[index].id}.png"
            picture = draw_detections(functional.to_pil_image(image), found, data.classes)
            write_picture(self.config.out / PICTURES / name, picture)

    def save(self, folder: Path, model: nn.Module, extra: dict[str, Any]) -> None:
        assert isinstance(model, Detector)
        save(
            folder,
            model,
            name=self.config.model,
            classes=self.data.classes,
            training_sizes=self.config.parsed_sizes(),
            extra=extra | {"category_ids": list(self.data.category_ids), "labels_as": self.config.labels_as},
        )


def _training_images(config: DetectionConfig, masks: bool) -> CocoImages:
    found = find_coco_split(config.data, "train")
    if found is None:
        raise ValueError(
            f"{config.data} has no annotations to learn from; expected is annotations/instances_train*.json with "
            "images in train*/, or train.json with images in train/"
        )
    return _reported(CocoImages(*found, masks=masks, labels_as=config.labels_as))


def _validation_images(config: DetectionConfig, train: CocoImages) -> CocoImages | None:
    found = find_coco_split(config.data, "val")
    if found is not None:
        AveragePrecision()  # fails now, if what it needs is not installed, rather than after hours
        return _reported(CocoImages(*found, masks=train.masks, categories=train.categories, labels_as=config.labels_as))
    missing = f"{config.data} has no annotations/instances_val*.json; add it with its images"
    refuse_validation(config, ("validate_every", "validate_limit", "draw_images"), missing)
    return None


def _reported(data: CocoImages) -> CocoImages:
    absent = [f"No single object in {data.file} is of {class_text(data.absent)}."] if data.absent else []
    for line in [*data.report(), *data.turned().report("annotations", data.labels_as), *absent]:
        tqdm.write(line, file=sys.stderr)
    return data
