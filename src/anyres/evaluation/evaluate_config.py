"""What the measuring of a segmenter or a detector on a data set is told."""

from dataclasses import dataclass
from pathlib import Path

from anyres.devices import check_device
from anyres.predict.config import check_size
from anyres.sizes import parse_size


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Measure a trained segmenter (mIoU) or detector (box and mask AP) on the validation split of a data set."""

    run: Path
    """Folder of the trained model."""
    data: Path
    """Folder as in training: images/ and annotations/ with masks, or COCO's annotations and images."""
    short_side: int | None = None
    """Pixels of the shorter side that images are resized to; by default that of the largest training size."""
    window: str | None = None
    """Segmentation: look through windows of so many pixels, which overlap by a third."""
    multi_scale: bool = False
    """Segmentation: average over six sizes and mirror images."""
    limit: int | None = None
    """Only so many images, spread evenly over the split."""
    results: Path | None = None
    """Detection: a JSON file to write what was found into, in COCO's format."""
    strict: bool = False
    """Stop at the first unreadable image instead of leaving it out."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, or auto: cuda where there is one, else cpu."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit is {self.limit}; allowed: 1 and more, or None for all images")
        check_size(None, self.short_side)
        if self.window is not None:
            parse_size(self.window)
        check_device(self.device)
