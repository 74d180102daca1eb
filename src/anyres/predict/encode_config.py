"""What `anyres encode` is told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from tyro.conf import Positional, arg

from anyres.data.decode import MAX_PIXELS
from anyres.devices import check_device
from anyres.errors import check_choice
from anyres.predict.config import check_size

_STREAM_PIXELS = 2**26

Precision = Literal["float16", "bfloat16"]
"""Types of tokens on disk."""


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """Write the features of images to a folder of records, or go on where it was stopped."""

    inputs: Positional[tuple[Path, ...]] = ()
    """Image files, huge ones too, and folders that are searched for images, slides and .npy files."""
    run: Path
    """Folder of the trained model."""
    out: Path
    """Folder for the records."""
    list_file: Annotated[Path | None, arg(name="list")] = None
    """Text file with one more input per line."""
    size: str | None = None
    """Unset: every image at its own size; "224": a square of 224x224 pixels; "224x320": height x width."""
    short_side: int | None = None
    """Instead of a size: pixels of the shorter side, the aspect being kept."""
    dtype: Precision = "float16"
    """Type of the tokens on disk."""
    shard_records: int | None = None
    """Records per file; by default as many as have 256 MB together, at most 4096."""
    stream_pixels: int = _STREAM_PIXELS
    """Images with more pixels are encoded piece by piece; TIFF, slides and .npy are then never held whole."""
    batch_size: int = 16
    """Most images in one call of the model."""
    device: str = "auto"
    """Where the model runs: auto (cuda if there is one), cpu, cuda, cuda:N or mps."""

    def __post_init__(self) -> None:
        if not self.inputs and self.list_file is None:
            raise ValueError("no inputs given; allowed: image files, folders and a list of them")
        for name in ("shard_records", "batch_size"):
            given = getattr(self, name)
            if given is not None and given < 1:
                raise ValueError(f"{name} is {given}; allowed: 1 and more")
        if not 1 <= self.stream_pixels <= MAX_PIXELS:
            raise ValueError(f"stream_pixels is {self.stream_pixels}; allowed: 1 to {MAX_PIXELS}")
        check_choice("dtype", self.dtype, get_args(Precision))
        check_device(self.device)
        check_size(self.size, self.short_side)
        if self.is_resized and self.stream_pixels != _STREAM_PIXELS:
            asked = f"short_side={self.short_side}" if self.size is None else f"size={self.size}"
            raise ValueError(
                f"stream_pixels is {self.stream_pixels}, but it has no effect, because with {asked} images are read "
                f"whole: leave it at {_STREAM_PIXELS}"
            )

    @property
    def is_resized(self) -> bool:
        """Whether images are not encoded at their own size."""
        return self.size is not None or self.short_side is not None
