"""Classification as a task for the engine: the class folders of a data set, measured as top-1."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.data.mixup import mixup_target
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor, nn
from tqdm import tqdm

from anyres.data.batches import Batch, EvalBatch, View, moved
from anyres.data.folder import ImageFolder
from anyres.data.loader import TrainingStream, evaluation_batches
from anyres.data.transforms import eval_transform
from anyres.models.architectures import create_model
from anyres.models.vitar import Features, ViTAR
from anyres.models.weights.files import save
from anyres.seeds import key, seeded
from anyres.settings import default_of
from anyres.sizes import Size
from anyres.training.classification.config import TrainConfig
from anyres.training.classification.consistency import replica_loss
from anyres.training.classification.mixing import make_mixup
from anyres.training.finetune import freeze_below_head, identity_of_init, start_from

_INIT, _MIX = 0x494E4954, 0x4D495855  # keep the draws of initialisation and mixing apart from all others


@dataclass(frozen=True)
class Prepared:
    """A batch on the device."""

    views: tuple[View, ...]
    """The images, mixed: one view, or with replicas one for each size, the largest first."""
    targets: Tensor
    """(B, classes), rows sum to 1; the same for every view"""


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
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key(config.seed, _INIT))
            self.model: ViTAR = create_model(config.model, num_classes=len(self.folder.classes), **config.model_options)
        if config.init is not None:
            start_from(config, self.model)
        if config.linear_probe:
            freeze_below_head(self.model)
        if config.grad_pieces:
            self.model.set_grad_pieces(True)
        self.mix = make_mixup(config, len(self.folder.classes))
        self.criterion = SoftTargetCrossEntropy()
        self.stream = TrainingStream(
            self.folder,
            batch_size=config.batch_size,
            schedule=config.schedule(),
            augment=config.augmentation,
            mean=self.model.config.mean,
            std=self.model.config.std,
            seed=config.seed,
            num_workers=config.num_workers,
            max_pixels=config.max_pixels,
            cache=config.cache,
            cache_bytes=config.cache_bytes,
            strict=config.strict,
            repeats=config.repeats,
        )

    def identity(self) -> dict[str, Any]:
        """Classes and digests of the training files' names and of the weights that it starts from, if any: others under
        the same path are another run."""
        known = {"kind": "classification", "classes": list(self.folder.classes), "training files": self.folder.digest()}
        init = self.config.init
        return known if init is None else known | {"init": identity_of_init(init, self.config.out)}

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        return self.stream.batches(start, stop)

    def prepare(self, batch: Batch, device: torch.device) -> Prepared:
        """Moves a batch, turns its labels into smoothed rows and mixes it, seeded by the step alone."""
        labels = batch.labels.to(device, non_blocking=True)
        views = tuple(
            View(images=moved(view.images, device), keys=view.keys.to(device)) for view in (batch, *batch.replicas)
        )
        if self.mix is None:
            targets = mixup_target(labels, len(self.folder.classes), smoothing=self.config.smoothing)
        else:
            with seeded(key(self.config.seed, _MIX, batch.step)):  # timm draws from numpy
                targets = self.mix([view.stacked for view in views], labels)
        return Prepared(views, targets)

    def loss(self, prepared: Prepared, rows: slice) -> Tensor:
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
        self.model.eval()
        with torch.no_grad():
            return self.model.forward_features(view.images[rows])

    def validates(self) -> bool:
        return self.validation is not None

    def validate(self, model: nn.Module, device: torch.device, step: int = 0) -> list[dict[str, Any]]:
        """Top-1 at every training size: size, images, correct, top1 in percent."""
        if self.validation is None:
            return []
        was_training = model.training
        model.eval()
        try:
            return [self._validate_at(size, model, device) for size in self.config.parsed_sizes()]
        finally:
            model.train(was_training)

    @torch.no_grad()
    def _validate_at(self, size: Size, model: nn.Module, device: torch.device) -> dict[str, Any]:
        assert self.validation is not None
        settings, config = self.model.config, self.config
        transform = eval_transform(size, settings.mean, settings.std, crop_ratio=config.validate_crop_ratio)
        batches = evaluation_batches(
            self.validation,
            transform,
            batch_size=config.batch_size,
            num_workers=config.num_workers,
            max_pixels=config.max_pixels,
            strict=config.strict,
            limit=config.validate_limit,
        )
        images = correct = 0
        skipped = []
        name = f"validate {size[0]}x{size[1]}"
        for batch in tqdm(batches, desc=name, unit="batch", leave=False, disable=not config.progress):
            correct += int((self._predict(model, batch, device) == batch.labels).sum())
            images += len(batch.labels)
            skipped += batch.skipped
        measured = {"size": list(size), "images": images, "correct": correct, "top1": 100.0 * correct / images}
        return measured | {"skipped": skipped}

    @staticmethod
    def _predict(model: nn.Module, batch: EvalBatch, device: torch.device) -> Tensor:
        """The most likely class of each image, (B,) on the CPU."""
        best: Tensor = model(moved(batch.images, device)).argmax(dim=1).cpu()
        return best

    def save(self, folder: Path, model: nn.Module, extra: dict[str, Any]) -> None:
        assert isinstance(model, ViTAR)
        save(
            folder,
            model,
            name=self.config.model,
            classes=self.folder.classes,
            training_sizes=self.config.parsed_sizes(),
            extra=extra,
        )


def _validation_folder(config: TrainConfig, train: ImageFolder) -> ImageFolder | None:
    root = config.data / "val"
    if root.exists():
        return ImageFolder(root, classes=train.classes)
    for name in ("validate_every", "validate_limit", "validate_crop_ratio"):
        given, default = getattr(config, name), default_of(name, TrainConfig)
        if given != default:
            raise ValueError(f"{name} is {given}, but {root} does not exist; add it, or leave {name} at {default}")
    return None
