"""Features of files and folders of images of any size, of huge ones too, as sharded records on disk."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

import torch
from tqdm import tqdm
from tyro.conf import Positional, arg

from anyres.data.decode import MAX_PIXELS
from anyres.devices import resolve_device
from anyres.errors import check_choice
from anyres.layers.merge_plan import Grid, token_grid
from anyres.models.vitar import ViTAR
from anyres.models.weights.files import load, model_digest
from anyres.predict.encode_inputs import Input, digest, find_inputs, first_portion
from anyres.predict.encoder import Encoder
from anyres.predict.preparation import Preparation
from anyres.sizes import parse_size
from anyres.streaming.record_writer import RecordWriter
from anyres.streaming.records import DTYPES, INDEX, Record

_STREAM_PIXELS = 2**26
_SHARD_BYTES, _MOST_RECORDS = 2**28, 4096  # of a shard, by default


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """Write the features of images to a folder of records, or go on where it was stopped."""

    inputs: Positional[tuple[Path, ...]] = ()
    """image files, huge ones too, and folders that are searched for images, slides and .npy files"""
    run: Path
    """folder of the trained model"""
    out: Path
    """folder for the records"""
    list_file: Annotated[Path | None, arg(name="list")] = None
    """text file with one more input per line"""
    size: str | None = None
    """unset: every image at its own size; "224": short side of 224 pixels, aspect kept; "224x320": exactly so"""
    dtype: Literal["float16", "bfloat16"] = "float16"
    """type of the tokens on disk"""
    shard_records: int | None = None
    """records per file; by default as many as have 256 MB together, at most 4096"""
    stream_pixels: int = _STREAM_PIXELS
    """images with more pixels are encoded piece by piece; TIFF, slides and .npy are then never held whole"""
    batch_size: int = 16
    """most images in one call of the model"""
    device: str = "auto"
    """where the model runs: auto (cuda if there is one), cpu, cuda, cuda:N or mps"""

    def __post_init__(self) -> None:
        if not self.inputs and self.list_file is None:
            raise ValueError("no inputs given: allowed are image files, folders and a list of them")
        for name in ("shard_records", "batch_size"):
            given = getattr(self, name)
            if given is not None and given < 1:
                raise ValueError(f"{name}={given} given: allowed is 1 and more")
        if not 1 <= self.stream_pixels <= MAX_PIXELS:
            raise ValueError(f"stream_pixels={self.stream_pixels} given: allowed is 1 to {MAX_PIXELS}")
        check_choice("dtype", self.dtype, tuple(DTYPES))
        resolve_device(self.device)
        if self.size is not None:
            parse_size(self.size)
            if self.stream_pixels != _STREAM_PIXELS:
                raise ValueError(
                    f"stream_pixels={self.stream_pixels} given but has no effect, because with size={self.size} "
                    f"images are read whole: leave it at {_STREAM_PIXELS}"
                )


@dataclass(frozen=True)
class EncodeResult:
    """What `encode` left behind."""

    folder: Path
    records: int
    shards: int
    failures: list[tuple[str, str]]
    """Inputs that could not be read, and why."""


def encode(config: EncodeConfig, *, file: TextIO | None = None, progress: bool = True) -> EncodeResult:
    """Encode every image once, in the order of the inputs, and write its grid tokens as a record (see `Records`).

    A folder that holds a part of these records already is completed; shards that are full are not touched, and a huge
    image goes on where it was stopped. What is written does not depend on where that was. Inputs that could not be
    read in an earlier run are tried again at the end, and their records are the last then. Progress goes to stderr,
    the summary to stdout (or `file`).

    TIFF, slides, .npy files and what only libvips knows are read as `open_source` says, whatever their size: integers
    scaled by their type, floats as they are. JPEG, PNG, WebP, BMP and GIF up to `MAX_PIXELS` are decoded whole, also
    where they are merged in pieces.

    Raises:
        ValueError: bad settings, missing inputs, an unreadable model, a model whose grid has no fixed size, or other
            records in `out`, before any image is read.
        OSError: records or unfinished work cannot be written.
    """
    inputs = find_inputs(config.inputs, config.list_file)
    model, _ = load(config.run, ViTAR)
    stream_pixels = config.stream_pixels if config.size is None else None
    prepare = Preparation(model=model.config, size=config.size, max_pixels=stream_pixels or MAX_PIXELS)
    prepare.check(config.run)
    writer = RecordWriter(config.out, _settings(config, inputs, prepare), config.run)
    encoder = Encoder(
        model.to(resolve_device(config.device)).float().eval(),
        prepare,
        config.batch_size,
        DTYPES[config.dtype],
        progress,
    )
    first_time: Sequence[int] = range(writer.done, len(inputs))
    again = [failure["input"] for failure in writer.failures]
    done = len(inputs) - len(first_time) - len(again)
    bar = tqdm(total=len(inputs), initial=done, desc="encode", unit="image", file=sys.stderr, disable=not progress)
    with bar, torch.inference_mode():
        for places in (first_time, again):
            while places:
                portion = first_portion([inputs[place] for place in places[: writer.room]], stream_pixels)
                found = encoder.encode(portion, writer.unfinished(portion[0].path), bar)
                taken, places = places[: len(portion)], places[len(portion) :]
                writer.add(
                    taken,
                    [result for result in found if isinstance(result, Record)],
                    [
                        {"input": place, "source": str(item.path), "error": result}
                        for place, item, result in zip(taken, portion, found, strict=True)
                        if isinstance(result, str)
                    ],
                )
    result = EncodeResult(
        config.out, writer.count, writer.shards, [(failure["source"], failure["error"]) for failure in writer.failures]
    )
    _show(result, len(inputs), file or sys.stdout)
    return result


def _settings(config: EncodeConfig, inputs: Sequence[Input], prepare: Preparation) -> dict[str, Any]:
    """All that the records depend on, as plain JSON values."""
    model = prepare.model
    grid = _record_grid(config, prepare)
    most = min(max(_SHARD_BYTES // (2 * math.prod(grid) * model.width), 1), _MOST_RECORDS)
    return {
        "model": model_digest(config.run),
        "inputs": {"files": len(inputs), "digest": digest(inputs)},
        "size": config.size,
        "dtype": config.dtype,
        "shard_records": config.shard_records or most,
        "stream_pixels": config.stream_pixels if config.size is None else None,
        "preparation": {
            "channels": model.in_channels, "mean": model.mean, "std": model.std,
            "resize": "none" if config.size is None else "bicubic, antialiased",
        },
        "grid": grid,
        "width": model.width,
    }  # fmt: skip


def _record_grid(config: EncodeConfig, prepare: Preparation) -> Grid:
    """The largest grid of tokens that the model can give these images. ValueError if there is none."""
    model = prepare.model
    if model.merger != "none" and model.cells not in ("1x1", "2x2"):
        return model.grid
    if config.size is not None and prepare.is_exact:
        return model.plan(token_grid(*parse_size(config.size), model.patch_size)).grid
    raise ValueError(
        f"the model in {config.run} has merger {model.merger!r} and cells {model.cells!r}, so that its grid grows with "
        f"the image, and size is {config.size}; allowed is one exact size for all images, such as 224x224"
    )


def _show(result: EncodeResult, inputs: int, file: TextIO) -> None:
    print(f"{result.records} records in {result.shards} shards in {result.folder}", file=file)
    if result.failures:
        print(
            f"{len(result.failures)} of {inputs} files could not be read ({result.folder / INDEX}); "
            "the same command tries them again:",
            file=file,
        )
        for _, error in result.failures:
            print(f"  {error}", file=file)
