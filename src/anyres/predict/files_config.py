"""What every prediction on files is told: the images, the model, windows and memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from anyres.amounts import parse_bytes
from anyres.data.decode import MAX_PIXELS, check_max_pixels
from anyres.data.folder import find_images
from anyres.devices import resolve_device
from anyres.sizes import Size, parse_size


@dataclass(frozen=True, kw_only=True)
class FilesConfig:
    """What all predictions on files are told."""

    run: Path
    """folder of the trained model"""
    inputs: tuple[Path, ...]
    """image files, and folders that are searched for images"""
    out: Path
    """folder to write into"""
    window: str = "auto"
    """auto: images above max_pixels, and those that a memory budget has no room for, by windows, others whole; none:
    all of them whole; "512" or "512x768": all by windows of so many pixels (height x width). Windows overlap by a
    third"""
    memory_budget: str | None = None
    """most memory beside the loaded model, such as "2GB", as predicted: chooses windows and how many images or windows
    go at once; host and device together"""
    batch_size: int | None = None
    """most images, or windows of one, in one call of the model; unset: 1, or with a memory budget as many as fit"""
    draw: bool = False
    """write pictures too"""
    max_pixels: int = MAX_PIXELS
    """most pixels of an image that is decoded as a whole; larger ones are read by region, window by window"""
    strict: bool = False
    """stop at the first unreadable file instead of listing it at the end"""
    device: str = "auto"
    """where the model runs: auto (cuda if there is one), cpu, cuda, cuda:N or mps"""

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ValueError("no inputs given: allowed are image files and folders")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} given: allowed is 1 and more")
        check_max_pixels(self.max_pixels)
        resolve_device(self.device)
        if self.out.exists() and not self.out.is_dir():
            raise ValueError(f"out is {self.out}, which is a file; give a folder")
        if self.window not in ("auto", "none"):
            try:
                parse_size(self.window)
            except ValueError as error:
                raise ValueError(f"window: {error}; or auto, or none") from error
        if self.memory_budget is not None:
            parse_bytes(self.memory_budget)

    @property
    def window_size(self) -> Size | None:
        """(height, width) of windows if they are given."""
        return None if self.window in ("auto", "none") else parse_size(self.window)

    @property
    def budget(self) -> int | None:
        """Bytes."""
        return None if self.memory_budget is None else parse_bytes(self.memory_budget)

    def needs_whole(self) -> str | None:
        """The setting that cannot be followed by windows, if there is one."""
        return None


def checked_paths(config: FilesConfig, written: Callable[[int, Path], Sequence[str]]) -> list[Path]:
    """The files that are looked at.

    Args:
        config: names the files, and the folder that is written into.
        written: place and path of an input -> names of the files that may be written of it.

    Raises:
        ValueError: if files of two inputs have the same name, or one would replace an input.
    """
    paths = find_images(config.inputs)
    inputs = {path.resolve() for path in paths}
    owners: dict[str, Path] = {}
    for index, path in enumerate(paths):
        for name in written(index, path):
            if name in owners:
                raise ValueError(
                    f"{owners[name]} and {path} would both be written to {name}; give them in two calls with different "
                    "out"
                )
            if (config.out / name).resolve() in inputs:
                raise ValueError(
                    f"what is written of {path} would replace the input {config.out / name}; give another out"
                )
            owners[name] = path
    return paths
