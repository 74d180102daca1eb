"""Classification as a task for the engine: the class folders of a data set, measured as top-1."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from timm.data.mixup import mixup_target
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor, nn

from anyres.data.batches import Batch, EvalBatch, View, on_device
from anyres.data.folder import ImageFolder
from anyres.data.transforms import eval_transform
from anyres.models.features import Features
from anyres.models.modes import evaluating
from anyres.models.upgraded import UpgradedViT
from anyres.models.vitar import ViTAR
from anyres.models.weights.files import save
from anyres.seeds import key, seeded
from anyres.sizes import Size
from anyres.training.classification.consistency import replica_loss
from anyres.training.classification.mixing import make_mixup
from anyres.training.finetune import identity_of_init, start_from, upgraded_settings
from anyres.training.image_task import training_stream, validation_batches
from anyres.training.parallel import world
from anyres.training.run_checks import refuse_validation

if TYPE_CHECKING:
    from anyres.training.classification.config import TrainConfig

_INIT, _MIX = 0x494E4954, 0x4D495855  # keep the draws of initialisation and mixing apart from all others


@dataclass(frozen=True)
class PreparedViews:
    """A batch on the device."""

    views: tuple[View, ...]
    """The images, mixed: one view, or with replicas one for each size, the largest first."""
    targets: Tensor
    """(B, classes), rows sum to 1; the same for every view."""


class ClassificationTask:
    """A ViTAR learning the class folders of `config.data`/train, measured on `config.data`/val if that is there.

    Raises ValueError for a folder without two classes, for validation classes that differ from the training
    classes, and for model options that do not exist.
    """

    headline = ("top1", 1)

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        if config.data.is_dir() and not (config.data / "train").is_dir():
            raise ValueError(
                f"{config.data} has no folder train; expected are {config.data}/train/<class>/<images> and, "
                f"to validate, {config.data}/val/<class>/<images>"
            )
        self.folder = ImageFolder(config.data / "train").share(config.label_share, config.seed)
        self.validation = _validation_folder(config, self.folder)
        if len(self.folder.classes) < 2:
            raise ValueError(
                f"{self.folder.root} has the one class {self.folder.classes[0]!r}; at least 2 class folders are needed"
            )
        with seeded(key(config.seed, _INIT)):
            self.model = self._make_model()
        start_from(config, self.model, is_probe=config.linear_probe, classes=self.folder.classes)
        if config.linear_probe:
            self.model.freeze_features()
        self.mix = make_mixup(config, len(self.folder.classes))
        if self.mix is not None and (config.batch_size // world()) % 2:
            raise ValueError(
                f"batch_size is {config.batch_size} for {world()} processes, but mixup and cutmix mix pairs and need "
                f"an even number in each; nearest: {config.batch_size + world()}; or set mixup and cutmix to 0"
            )
        self.criterion = SoftTargetCrossEntropy()
        self.stream = training_stream(config, self.folder, self.model.config)

    def _make_model(self) -> ViTAR:
        """The model of the name, or that of init where it is an upgraded ViT."""
        config, classes = self.config, len(self.folder.classes)
        upgraded = upgraded_settings(config)
        if upgraded is None:
            if config.train == "adapter":
                raise ValueError(f'train is "adapter", but {config.init} is nothing that `anyres upgrade` wrote')
            return ViTAR(config.model_settings(classes))
        if config.grad_pieces and upgraded.base_filter != "area":
            raise ValueError(f"grad_pieces is set, but base_filter of {config.init} is {upgraded.base_filter!r}")
        model = UpgradedViT(replace(upgraded, num_classes=classes))
        model.freeze_vit(config.train == "adapter")
        return model

    def identity(self) -> dict[str, Any]:
        """Classes and digests of the training files' names and of the weights that it starts from, if any: others under
        the same path are another run."""
        known = {"kind": "classification", "classes": list(self.folder.classes), "training files": self.folder.digest()}
        if isinstance(self.model, UpgradedViT):  # init, which says what model it is, may be gone later
            known["upgraded"] = json.loads(json.dumps(asdict(self.model.config)))
        return known | identity_of_init(self.config)

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        return self.stream.batches(start, stop)

    def prepare(self, batch: Batch, device: torch.device) -> PreparedViews:
        """Moves a batch, turns its labels into smoothed rows and mixes it, seeded by the step alone."""
        labels = batch.labels.to(device, non_blocking=True)
        views = tuple(
            View(images=on_device(view.images, device), keys=view.keys.to(device)) for view in (batch, *batch.replicas)
        )
        if self.mix is None:
            targets = mixup_target(labels, len(self.folder.classes), smoothing=self.config.smoothing)
        else:
            with seeded(key(self.config.seed, _MIX, batch.step)):  # timm draws from numpy
                targets = self.mix([view.stacked for view in views], labels)
        return PreparedViews(views, targets)

    def loss(self, prepared: PreparedViews, rows: slice) -> Tensor:
        """Cross-entropy; with replicas its mean over them, and their consistency (see `replica_loss`)."""
        losses, pooled = [], []
        for view in prepared.views:
            features = self._features(view, rows)
            logits = self.model.forward_head(features)  # (b, classes)
            losses.append(self.criterion(logits.float(), prepared.targets[rows]))
            pooled.append(features.pooled.float())  # (b, D)
        return replica_loss(losses, pooled, self.config.consistency)

    def _features(self, view: View, rows: slice) -> Features:
        """For a linear probe those of evaluation, without gradient."""
        if not self.config.linear_probe:
            return self.model.forward_features(view.images[rows], view.keys[rows])
        with torch.no_grad():  # all below the head is frozen, and so in evaluation whatever the engine sets
            return self.model.forward_features(view.images[rows])

    def validates(self) -> bool:
        return self.validation is not None

    def validate(self, model: nn.Module, device: torch.device, step: int = 0) -> list[dict[str, Any]]:
        """Top-1 at every training size: size, images, correct, top1 in percent."""
        if self.validation is None:
            return []
        with evaluating(model):
            return [self._validate_at(size, model, device) for size in self.config.parsed_sizes()]

    @torch.no_grad()
    def _validate_at(self, size: Size, model: nn.Module, device: torch.device) -> dict[str, Any]:
        assert self.validation is not None
        settings, ratio = self.model.config, self.config.validate_crop_ratio
        transform = eval_transform(size, settings.mean, settings.std, crop_ratio=ratio)
        images = correct = 0
        skipped = []
        for batch in validation_batches(self.config, self.validation, transform, size):
            correct += int((self._predict(model, batch, device) == batch.labels).sum())
            images += len(batch.labels)
            skipped += batch.skipped
        measured = {"size": list(size), "images": images, "correct": correct, "top1": 100.0 * correct / images}
        return measured | {"skipped": skipped}

    @staticmethod
    def _predict(model: nn.Module, batch: EvalBatch, device: torch.device) -> Tensor:
        """The most likely class of each image, (B,) on the CPU."""
        best: Tensor = model(on_device(batch.images, device)).argmax(dim=1).cpu()
        return best

    def save(self, folder: Path, model: nn.Module, extra: dict[str, Any]) -> None:
        assert isinstance(model, ViTAR)
        save(
            folder,
            model,
            name=None if isinstance(model, UpgradedViT) else self.config.model,
            classes=self.folder.classes,
            training_sizes=self.config.parsed_sizes(),
            extra=extra,
        )


def _validation_folder(config: TrainConfig, train: ImageFolder) -> ImageFolder | None:
    root = config.data / "val"
    if root.exists():
        return ImageFolder(root, classes=train.classes)
    names = ("validate_every", "validate_limit", "validate_crop_ratio")
    refuse_validation(config, names, f"{root} does not exist; add it")
    return None
