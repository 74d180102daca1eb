"""What a training run on class folders is made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from anyres.data.schedule import EverySize, ResolutionSchedule
from anyres.training.config import RunConfig

if TYPE_CHECKING:
    from anyres.training.task import Task


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """A training run. The defaults are DeiT's recipe (arXiv 2012.12877, table 9) with one image size per step."""

    data: Path = Path()
    """Folder that holds train/ and, optionally, val/, each with one folder of images per class."""
    from_records: Path | None = None
    """Train a linear head on features instead of a model on images: records of images in class folders, as `anyres
    encode` writes them, or a folder that holds such records in train/ and, optionally, val/."""
    init: Path | None = None
    """Start from these weights instead of random ones, with a fresh head: folder of a run of `anyres pretrain` or
    `anyres train`, or a ViT or MAE of timm or transformers (.safetensors, .pth). With from_records: folder of the model
    that made the records, if it is no longer where it was then."""
    init_resize: bool = False
    """Read the position table of init bilinearly at the model's grid, where that is another."""
    linear_probe: bool = False
    """Leave everything of init as it is and train a head on its features."""
    label_share: float = 1.0
    """Share of the training images to use, the same one of every class and at least one image of each."""
    model: str = "vitar_tiny_patch16"
    """Name of the model; `anyres models` lists them."""
    replicas: bool = False
    """Every step shows each image at all the sizes, with a crop and augmentation for each (ResFormer), not at one."""
    consistency: float = 0.0
    """Weight of the loss that draws a replica's features to those of the next larger one (ResFormer: 1)."""
    layer_decay: float | None = None
    """Factor on the learning rate from each layer to the one below it; the same for all layers if not given."""
    mixup: float = 0.8
    """Alpha of mixup's Beta distribution; 0 turns mixup off."""
    cutmix: float = 1.0
    """Alpha of cutmix's Beta distribution; 0 turns cutmix off."""
    mixup_prob: float = 1.0
    """Probability that a batch is mixed at all."""
    mixup_switch_prob: float = 0.5
    """Probability that a mixed batch is cut (cutmix) rather than blended (mixup)."""
    smoothing: float = 0.1
    """Label smoothing."""
    grad_pieces: bool = False
    """Embed and merge piece by piece, and again in the backward pass: the same gradients in memory that hardly grows
    with the size of the images, for half as much time again at large ones."""
    validate_crop_ratio: float = 0.875
    """Short side to size / ratio, then a centre crop; 1 for no crop on square images."""

    def schedule(self) -> ResolutionSchedule | EverySize:
        """Which size each step has, or with `replicas` which sizes."""
        return EverySize(self.parsed_sizes()) if self.replicas else super().schedule()

    def check(self) -> None:
        # Here, not at the top: the checks are a page of their own and need this class.
        from anyres.training.checks import check_config

        check_config(self)

    def memory_advice(self) -> str:
        return "A larger accumulate, grad_checkpointing or grad_pieces"

    def make_task(self) -> Task:
        if self.from_records is not None:
            from anyres.training.records.task import RecordsTask

            return RecordsTask(self)
        from anyres.training.classification.task import ClassificationTask

        return ClassificationTask(self)
