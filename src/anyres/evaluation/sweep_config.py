"""What a resolution sweep measures, on what, and how; checked before anything is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from anyres.data.decode import MAX_PIXELS
from anyres.devices import check_device
from anyres.errors import check_choice
from anyres.sizes import Size, parse_size

if TYPE_CHECKING:
    from anyres.data.transforms import EvalTransform

ResizeTo = Literal["smallest", "largest", "none"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """What is measured, on what, and how."""

    runs: tuple[Path, ...]
    """Folders of trained models, as written by `anyres train`."""
    data: tuple[Path, ...]
    """Sets of images: folders with val/<class>/ or <class>/ inside; the folder's name is the set's."""
    sizes: tuple[str, ...]
    """Sizes in pixels: 224 for a square, 224x336 for height x width."""
    out: Path
    """The JSON file to write. A sweep that was stopped goes on where it was; a finished one is left alone."""
    title: str = "Accuracy at any resolution"
    """Title of the report."""
    resize_to: tuple[ResizeTo, ...] = ("smallest", "largest")
    """Baselines: the images resized to each model's smallest and largest training size; "none" for no such rows."""
    crop_ratio: float = 0.875
    """The short side becomes size / crop_ratio before the centre crop; 1.0 for no crop."""
    keep_aspect: bool = False
    """No crop: the short side becomes that of the size and the whole image is kept, so that images differ in size."""
    squash: bool = False
    """No crop: images are brought to the size whatever their aspect."""
    limit: int | None = None
    """Images per set, spread evenly over it; all by default."""
    batch_size: int = 64
    """Most images per batch."""
    max_patches: int = 32768
    """Most patch tokens per batch: larger images go in smaller batches."""
    max_macs: float | None = None
    """Rows that cost more multiply-accumulates per image are left out, and listed as such."""
    latency_runs: int = 20
    """Timed forward passes of one image per model and size."""
    latency_seconds: float = 5.0
    """Most seconds spent on them."""
    device: str = "cpu"
    """auto (cuda if there is one), cpu, cuda, cuda:N or mps."""
    precision: Precision = "float32"
    """Of weights and images."""
    threads: int | None = None
    """CPU threads; torch's own choice by default."""
    num_workers: int = 0
    """Processes that read images."""
    examples: int = 3
    """Images per set that the report shows with every model's answer."""
    stability: bool = False
    """Also say for how many images the class is the same at all sizes, and how near an image's pooled features are to
    those at the model's largest training size, where every image is given to the model once more."""
    strict: bool = False
    """Stop at the first unreadable file instead of skipping and listing it."""
    max_pixels: int = MAX_PIXELS
    """Files with more pixels are refused."""
    progress: bool = True
    """Show a progress bar."""

    def __post_init__(self) -> None:
        for name in ("runs", "data", "sizes"):
            if not getattr(self, name):
                raise ValueError(f"no {name} given; allowed: one or more")
        if len(set(self.parsed_sizes)) < len(self.sizes):
            raise ValueError(f"sizes {', '.join(self.sizes)}: one is given twice; allowed: each once")
        for choice in self.resize_to:
            check_choice("resize_to", choice, get_args(ResizeTo))
        if "none" in self.resize_to and len(self.resize_to) > 1:
            given = ", ".join(self.resize_to)
            raise ValueError(f"resize_to {given}; allowed: none alone, or any of smallest and largest")
        check_choice("precision", self.precision, get_args(Precision))
        for name in ("limit", "batch_size", "max_patches", "latency_runs", "threads", "num_workers", "examples"):
            value, least = getattr(self, name), 0 if name in ("num_workers", "examples") else 1
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}; allowed: {least} or more")
        if self.latency_seconds <= 0 or (self.max_macs is not None and self.max_macs <= 0):
            raise ValueError(f"latency_seconds={self.latency_seconds}, max_macs={self.max_macs}; allowed: above 0")
        if (self.keep_aspect or self.squash) and self.crop_ratio not in (0.875, 1.0):
            raise ValueError(f"crop_ratio={self.crop_ratio} has no effect with keep_aspect or squash; leave it out")
        check_device(self.device)
        for size in self.parsed_sizes:
            self.transform(size)

    @property
    def parsed_sizes(self) -> tuple[Size, ...]:
        return tuple(parse_size(size) for size in self.sizes)

    def transform(self, size: Size) -> EvalTransform:
        """Pillow image -> (3, H, W) in 0..1: normalising is left to each model."""
        from anyres.data.transforms import eval_transform  # needs torch, which a configuration does without

        mean, std = (0.0,) * 3, (1.0,) * 3
        return eval_transform(
            size, mean, std, crop_ratio=self.crop_ratio, keep_aspect=self.keep_aspect, squash=self.squash
        )
