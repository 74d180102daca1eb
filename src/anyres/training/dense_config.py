"""What runs of segmentation and of detection have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from anyres.data.orientation import LabelsAs, check_labels_as
from anyres.training.backbone_config import BackboneRunConfig


@dataclass(frozen=True, kw_only=True)
class DenseRunConfig(BackboneRunConfig):
    """A run of a model with a backbone and heads on it, on images whose annotations are read with them."""

    learned: ClassVar[str]
    """What is learned, in a word, for errors."""

    labels_as: LabelsAs = "shown"
    """What labels of photos with an EXIF orientation fit: photos as they are shown, which is how people label them, or
    their pixels as they are stored, which is what programs see that ignore EXIF."""

    def check(self) -> None:
        super().check()
        check_labels_as(self.labels_as)

    def idle(self) -> dict[str, str | None]:
        return super().idle() | {
            "cache": f"{self.learned} reads its files anew",
            "cache_bytes": "there is no cache",
            "repeats": f"{self.learned} shows every image once in an epoch",
        }
