"""What predictions are told: how a model looks at images, and which files a command reads and writes.

Nothing here imports torch, so that the command line can show its help at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from tyro.conf import arg

from anyres.amounts import parse_bytes
from anyres.costs.largest_config import Limits
from anyres.data.decode import MAX_PIXELS, check_max_pixels
from anyres.devices import check_device
from anyres.errors import check_choice
from anyres.files import demand_folder_of
from anyres.sizes import Size, parse_size

BATCH_SIZE = 16
"""Images that a classifier is given at once, if nothing else is asked for."""

OverBudget = Literal["refuse", "reduce"]


@dataclass(frozen=True, kw_only=True)
class LookOptions:
    """How a model of any kind looks at images."""

    batch_size: int | None = None
    """Most images, or windows of one, in one call of the model; unset: 1, or with a memory budget as many as fit."""
    max_pixels: int = MAX_PIXELS
    """Most pixels of an image that is decoded as a whole; larger ones are read by region."""
    memory_budget: str | None = None
    """Most memory beside the loaded model, such as "2GB", as predicted."""
    strict: bool = False
    """Stop at the first unreadable image instead of naming it among the results."""
    device: str = "auto"
    """Where the model runs: auto (cuda if there is one), cpu, cuda, cuda:N or mps."""

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; allowed: 1 and more")
        check_max_pixels(self.max_pixels)
        check_device(self.device)
        if self.memory_budget is not None:
            parse_bytes(self.memory_budget)

    @property
    def budget(self) -> int | None:
        """Bytes."""
        return None if self.memory_budget is None else parse_bytes(self.memory_budget)


@dataclass(frozen=True, kw_only=True)
class ClassOptions(LookOptions):
    """How a classifier looks at images."""

    size: str | None = None
    """Unset: every image at its own size; "224": a square of 224x224 pixels; "224x320": height x width."""
    short_side: int | None = None
    """Instead of a size: pixels of the shorter side, the aspect being kept."""
    least_side: int = 1
    """Images whose shorter side has fewer pixels are enlarged to them, the aspect being kept. Our models read
    small images best at the largest training size (docs/results.md), at its cost. Images that are read piece by
    piece stay as they are."""
    top_k: int = 5
    """Classes per image, at most those that the model has."""
    batch_size: int = BATCH_SIZE
    """Most images in one call of the model; not with a budget, with which they go one by one."""
    max_pixels: int = MAX_PIXELS
    """Most pixels of an image that is decoded as a whole; larger ones are encoded piece by piece if the model merges,
    and refused otherwise, and with a size or a budget."""
    max_milliseconds: float | None = None
    """Most milliseconds that the model may take for an image, as predicted for this machine; images then go one by
    one, and the first such call on a machine measures it for a minute or two."""
    memory_budget: str | None = None
    """Most memory that the model may need for an image beside itself, such as "2GB", in the same manner."""
    over_budget: OverBudget | None = None
    """What happens to an image that would exceed them: "reduce" (unset: this) makes it as much smaller as needed,
    "refuse" lists it as unreadable."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size(self.size, self.short_side)
        if self.least_side < 1:
            raise ValueError(f"least_side is {self.least_side}; allowed: 1 pixel and more")
        if self.least_side > 1 and (self.size, self.short_side) != (None, None):
            raise ValueError(f"least_side is {self.least_side} but has no effect with size or short_side; allowed: 1")
        if self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; allowed: 1 and more")
        if self.limits is None and self.over_budget is not None:  # `limits` itself refuses impossible ones
            raise ValueError("over_budget is set without a budget; allowed: with max_milliseconds or memory_budget")
        if self.limits is not None and self.batch_size != BATCH_SIZE:
            raise ValueError(
                f"batch_size is {self.batch_size}, but it has no effect, because with a budget images go one by one: "
                f"allowed: leave it at {BATCH_SIZE}"
            )
        if self.over_budget is not None:
            check_choice("over_budget", self.over_budget, get_args(OverBudget))

    @property
    def limits(self) -> Limits | None:
        """What the model may take for an image, if there is a budget."""
        if self.max_milliseconds is None and self.memory_budget is None:
            return None
        return Limits.of(self.max_milliseconds, self.memory_budget)


@dataclass(frozen=True, kw_only=True)
class WindowOptions(LookOptions):
    """How a model that looks at an image by windows, if need be, does so."""

    window: str = "auto"
    """auto: images above max_pixels, and those that a memory budget has no room for, by windows, others whole; none:
    all of them whole; "512" or "512x768": all by windows of so many pixels (height x width). Windows overlap by a
    third."""
    memory_budget: str | None = None
    """Most memory beside the loaded model, such as "2GB", as predicted: chooses windows and how many images or windows
    go at once; host and device together."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window not in ("auto", "none"):
            try:
                parse_size(self.window)
            except ValueError as error:
                raise ValueError(f"window: {error}; or auto, or none") from error

    @property
    def window_size(self) -> Size | None:
        """(height, width) of windows if they are given."""
        return None if self.window in ("auto", "none") else parse_size(self.window)


@dataclass(frozen=True, kw_only=True)
class LabelOptions(WindowOptions):
    """How a segmenter looks at images."""

    short_side: int | None = None
    """Unset: every image at its own size; otherwise pixels of the shorter side that it is seen with, the aspect being
    kept; for whole images."""
    ratios: tuple[float, ...] = (1.0,)
    """Sizes of an image, relative to that, whose probabilities are averaged; for whole images."""
    flip: bool = False
    """Look at the mirror image too; for whole images."""
    max_pixels: int = 2**22
    """Most pixels of an image that is decoded as a whole; larger ones are read by region, window by window."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size(None, self.short_side)
        check_ratios(self.ratios)

    def needs_whole(self) -> str | None:
        """The option that cannot be followed by windows, if there is one."""
        for name in ("short_side", "ratios", "flip"):
            if getattr(self, name) != getattr(LabelOptions, name):
                return name
        return None


@dataclass(frozen=True, kw_only=True)
class ObjectOptions(WindowOptions):
    """How a detector looks at images.

    Without a size of their own, windows have the size that the model works at, so that nothing is resized.
    """

    threshold: float = 0.05
    """Least score of an object that counts."""
    max_pixels: int = 2**25
    """Most pixels of an image that is decoded as a whole and resized to the size that the model works at; larger ones
    are read by region, window by window."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; allowed: 0 to 1")


@dataclass(frozen=True, kw_only=True)
class FilesConfig:
    """What every command that predicts is told first."""

    run: Annotated[Path, arg(aliases=["--model"])]
    """Folder of the trained model; of a classifier also an .onnx or .xml file that `anyres export` wrote."""
    inputs: tuple[Path, ...]
    """Image files, and folders that are searched for images."""

    def check_inputs(self) -> None:
        """ValueError without any."""
        if not self.inputs:
            raise ValueError("no inputs given; allowed: image files and folders")

    def options(self) -> dict[str, Any]:
        """What a `Predictor` is told of it."""
        return {name: value for name, value in vars(self).items() if name not in ("run", "inputs", "out", "draw")}


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig(ClassOptions, FilesConfig):
    """Classify images with a trained model."""

    out: Path | None = None
    """File to write, .csv or .json."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_inputs()
        if self.out is None:
            return
        if self.out.suffix.lower() not in (".csv", ".json"):
            raise ValueError(f"out is {self.out}; allowed: names ending in .csv or .json")
        demand_folder_of("out", self.out)


@dataclass(frozen=True, kw_only=True)
class SegmentConfig(LabelOptions, FilesConfig):
    """Label every pixel of images with a trained segmenter."""

    out: Path
    """Folder to write NAME.png into, a label map of each image at its own size (NAME.tif of an image that is never in
    memory as a whole); values are those of the masks that the model was trained on."""
    draw: bool = False
    """Write NAME.drawn.png too, the image under its classes' colours, with their names."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_inputs()
        _check_folder(self.out)


@dataclass(frozen=True, kw_only=True)
class DetectConfig(ObjectOptions, FilesConfig):
    """Find objects in images with a trained detector."""

    out: Path
    """Folder to write results.json into, COCO's results, and images.json, which says which file an image_id is: it is
    the place among the inputs, from 0. With COCO's own ids: anyres evaluate --results."""
    draw: bool = False
    """Write pictures too, of what has a score of 0.5 or more."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_inputs()
        _check_folder(self.out)


def check_size(size: str | None, short_side: int | None) -> None:
    """ValueError unless they can be read and at most one of them is given."""
    if size is not None and short_side is not None:
        raise ValueError(f"size is {size} and short_side is {short_side}; allowed: one of them")
    if size is not None:
        parse_size(size)
    if short_side is not None and short_side < 1:
        raise ValueError(f"short_side is {short_side}; allowed: 1 pixel and more")


def check_ratios(ratios: tuple[float, ...]) -> None:
    """ValueError unless they are factors of a size."""
    if not ratios or not all(0 < ratio < float("inf") for ratio in ratios):
        raise ValueError(f"ratios are {ratios}; allowed: one or more numbers above 0, such as 0.5 1 1.5")


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"out is {out}, which is a file; give a folder")
