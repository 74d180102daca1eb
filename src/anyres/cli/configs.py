"""Options of the commands that have no configuration elsewhere."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from anyres.costs.convention import Convention
from anyres.models.upgraded_config import BaseFilter


@dataclass(frozen=True, kw_only=True)
class Report:
    """Draw sweeps as one offline HTML page with its PNGs."""

    sweeps: Positional[tuple[Path, ...]]
    """JSON files written by `anyres sweep`."""
    out: Path = Path("report")
    """Folder for index.html and the pictures."""
    title: str | None = None
    """Title of the page; that of the first sweep by default."""


@dataclass(frozen=True, kw_only=True)
class Models:
    """List the named models with their size and cost."""

    pattern: Positional[Annotated[str, arg(metavar="[PATTERN]")]] = "*"
    """Shell-style pattern, such as "vitar*"."""


@dataclass(frozen=True, kw_only=True)
class CostOf:
    """Say what one image costs: parameters, multiply-accumulates by part, memory."""

    model: Positional[Annotated[str, arg(metavar="MODEL")]]
    """Name of a model."""
    height: Positional[Annotated[int, arg(metavar="HEIGHT")]]
    """Pixels."""
    width: Positional[Annotated[int, arg(metavar="WIDTH")]]
    """Pixels."""
    convention: Convention = "executed"
    """"executed": equal to torch's flop counter / 2; "plain": as grid attention is written rather than computed;
    "paper": as the ViTAR paper counts."""


@dataclass(frozen=True, kw_only=True)
class PlanImage:
    """Draw how the patches of an image are merged, level by level."""

    height: Positional[Annotated[int, arg(metavar="HEIGHT")]]
    """Pixels."""
    width: Positional[Annotated[int, arg(metavar="WIDTH")]]
    """Pixels."""
    model: str = "vitar_base_patch16"
    """Name of a model, for its patch size and grid."""
    image: Path | None = None
    """A picture to put behind the final cells."""
    out: Path = Path("plan.png")
    """The PNG to write."""


@dataclass(frozen=True, kw_only=True)
class Synthesize:
    """Write a synthetic set of real image files: glyphs, detail (a small glyph on a large canvas), fine (one that only
    sizes beyond those of training show), or dense (several glyphs with boxes, masks and a label for every pixel, in
    COCO's and ADE20K's formats)."""

    kind: Positional[Literal["glyphs", "detail", "fine", "dense"]]
    """Which set."""
    root: Positional[Annotated[Path, arg(metavar="ROOT")]]
    """Folder to write train/ and val/ into."""
    train: int = 2000
    """Training images."""
    val: int = 400
    """Validation images."""
    size: int = 672
    """Least side in pixels; the largest that will be evaluated."""
    classes: Literal["digits", "letters"] | None = None
    """What the glyphs are: the ten digits (the default) or ten capitals; `dense` has classes of its own."""
    seed: int = 0
    """From which all scenes follow."""

    def __post_init__(self) -> None:
        if self.kind == "dense" and self.classes is not None:
            raise ValueError("classes is given but has no effect on dense, which has classes of its own; leave it out")


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a classifier or backbone as one file, ONNX or OpenVINO, for images of every height and width, and compare
    its answers by that runtime with the model's at random sizes; a file that differs is not written."""

    run: Positional[Annotated[Path, arg(metavar="RUN")]]
    """Folder of a run, or what `anyres upgrade` wrote."""
    out: Annotated[Path, arg(aliases=["-o"])]
    """The file: NAME.onnx, or NAME.xml for OpenVINO, with its weights in NAME.bin."""
    largest: int = 7168
    """Most pixels of a side; larger images are refused by the file."""
    uint8: bool = False
    """Images are whole numbers from 0 to 255, normalised inside; else float32, normalised by whoever prepares them."""
    verify: int = 50
    """Number of random sizes to compare at, one pixel, the longest sides and primes among them."""
    verify_pixels: int = 2**20
    """Pixels of the largest of these images: more take longer."""
    float16: bool = False
    """Weights are rounded to 16 bits, which halves the file (.onnx); computed is in float32."""
    int8: Literal["dynamic", "static"] | None = None
    """Write NAME-int8 too, with 8-bit weights, and measure what it changes on --data. dynamic: by onnxruntime, which
    finds the ranges of activations for each image; static: by NNCF from the images of --calibration."""
    data: Path | None = None
    """Folder of images for that; below folders called as the classes, accuracy is told too."""
    calibration: Path | None = None
    """Folder of images like those to come, at least as large, for --int8 static; 300 of them are read at most."""

    def __post_init__(self) -> None:
        if (self.int8 is None) != (self.data is None):
            raise ValueError("int8 needs data, a folder of images to measure the change on, and data has no other use")
        if (self.int8 == "static") != (self.calibration is not None):
            raise ValueError("int8=static needs calibration, a folder of images, and calibration has no other use")
        if self.int8 is not None and self.float16:
            raise ValueError("float16 and int8 are given; allowed: one of them")
        if self.int8 == "dynamic" and self.out.suffix != ".onnx":
            raise ValueError(f"int8 is dynamic, which {self.out} cannot be; allowed: static, or an .onnx file")


@dataclass(frozen=True, kw_only=True)
class Upgrade:
    """Make a plain ViT of timm a model for any size, with the answers that it had."""

    source: Positional[Annotated[str, arg(metavar="NAME_OR_FILE")]]
    """Name of a ViT of timm, such as deit3_small_patch16_224, whose weights timm downloads; or a file of weights
    (.safetensors, .pth), or a folder with model.safetensors and timm's config.json."""
    out: Annotated[Path, arg(aliases=["-o"])]
    """Folder for the model."""
    architecture: str | None = None
    """timm's name of the model that a file is of; read from config.json beside it if not given."""
    start: Literal["resized", "merged"] = "resized"
    """"resized": at every size the answers on the image resized to the model's own size, until the merger is trained;
    "merged": a merger that begins as the mean, with the old answers at the model's own size."""
    base_filter: BaseFilter = "area"
    """How images are resized to the model's own size. "area": means; "bicubic": as most ViTs had theirs, but images are
    not merged in pieces then, so that huge ones need memory."""
