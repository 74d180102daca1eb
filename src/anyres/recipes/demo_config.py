"""What `anyres demo` is told."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Write data, train a ViTAR on several sizes and an ordinary ViT on one, measure both far beyond, draw a page."""

    out: Path = Path("demo")
    """Folder for data, runs and report. A demo that was stopped goes on where it was."""
    short: bool = False
    """A few steps on a few images, to see that everything runs; the models learn nothing."""

    def __post_init__(self) -> None:
        if self.out.exists() and not self.out.is_dir():
            raise ValueError(f"out is {self.out}, which is a file; give a folder.")
