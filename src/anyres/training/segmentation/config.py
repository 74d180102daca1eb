"""What a run of semantic segmentation is made of, and its checks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from anyres.data.augment import SegmentAugment
from anyres.data.segmentation import IGNORE, check_mask_values
from anyres.models.architectures import SEGMENTER
from anyres.models.segmenter_config import SegmenterConfig
from anyres.settings import default_of
from anyres.training.config import Operational
from anyres.training.dense_config import DenseRunConfig

if TYPE_CHECKING:
    from anyres.training.task import Task


@dataclass(frozen=True, kw_only=True)
class SegmentationConfig(DenseRunConfig):
    """A run of semantic segmentation. The defaults are mmsegmentation's for a plain ViT under UperNet on ADE20K.

    UperNet's heads normalise over the images of a batch, so with `accumulate` they see the statistics of a piece.
    """

    learned: ClassVar[str] = "segmentation"

    data: Operational[Path]
    """Folder that holds images/ and annotations/, in each training/ and, optionally, validation/ (or train/ and val/)
    with masks of the images' names as PNG, TIFF or BMP; and, optionally, classes.txt, a name a line."""
    num_classes: int = 150
    """Labels in the masks are 0 to num_classes - 1, and 255 where nothing is known."""
    reduce_zero_label: bool = False
    """In the masks 0 means that nothing is known, and the labels begin at 1 (ADE20K)."""
    mask_values: tuple[int, ...] = ()
    """What the masks hold for each class in turn, if it is not its number: 0 255 reads masks of black and white as two
    classes. Label maps that the model predicts hold numbers from 0."""
    model: str = "upernet_vitar_small_patch16"
    """Name of the model; `anyres models "upernet_*"` lists them."""
    auxiliary_weight: float = 0.4
    """Weight of the auxiliary head's loss."""
    sizes: tuple[str, ...] = ("512",)
    """Training sizes in pixels: of crops, and in validation of images' short sides."""
    steps: int = 160_000
    """Optimiser steps."""
    batch_size: int = 16
    """Images per optimiser step."""
    lr: float = 6e-5
    """Learning rate at the end of the warm-up."""
    min_lr: float = 0.0
    """Learning rate that the cosine or polynomial ends at."""
    warmup_steps: int = 1500
    """Steps of linear warm-up from a thousandth of the learning rate."""
    weight_decay: float = 0.01
    """AdamW's decay of matrices; biases, norms and the position table are left alone."""
    augmentation: SegmentAugment = SegmentAugment()
    """What is done to each training image and its mask."""

    def model_settings(self, classes: int | None = None) -> SegmenterConfig:
        """The configuration of the model, for the classes that the run says that there are."""
        return SEGMENTER.get_config(self.model, num_classes=self.num_classes, **self.model_options)

    def check(self) -> None:
        super().check()
        most = IGNORE - self.reduce_zero_label
        if isinstance(self.num_classes, bool) or not 2 <= self.num_classes <= most:
            raise ValueError(f"num_classes is {self.num_classes}; allowed: 2 to {most}; label {IGNORE} is ignored")
        check_mask_values(self.mask_values, self.num_classes, self.reduce_zero_label)
        if not 0 < self.auxiliary_weight < float("inf"):
            raise ValueError(
                f"auxiliary_weight is {self.auxiliary_weight}; allowed: above 0; to leave the head out, "
                "--model-options auxiliary_channels=0"
            )
        model = self.model_settings()
        if model.decoder == "upernet" and self.batch_size // self.accumulate < 2:
            fewer = f", or accumulate={self.batch_size // 2}" if self.batch_size > 1 else ""
            raise ValueError(
                f"batch_size is {self.batch_size} in {self.accumulate} pieces; UperNet's heads normalise over a piece, "
                f"which needs two images: nearest: batch_size={2 * self.accumulate}{fewer}"
            )
        if not model.auxiliary_channels and self.auxiliary_weight != default_of("auxiliary_weight", type(self)):
            raise ValueError(
                f"auxiliary_weight is {self.auxiliary_weight} but has no effect, because auxiliary_channels is 0; "
                "leave it out"
            )

    def make_task(self) -> Task:
        from anyres.training.segmentation.task import SegmentationTask

        return SegmentationTask(self)
