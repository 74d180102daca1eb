"""Features of files and folders of images of any size, of huge ones too, as sharded records on disk."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from tqdm import tqdm

from anyres.data.decode import MAX_PIXELS
from anyres.devices import resolve_device
from anyres.errors import Unreadable
from anyres.files import check_folder
from anyres.layers.merge_plan import Grid, token_grid
from anyres.models.vitar import ViTAR
from anyres.models.weights.files import load, model_digest
from anyres.predict.encode_config import EncodeConfig
from anyres.predict.encode_inputs import LabelledFile, digest, find_inputs, first_portion
from anyres.predict.encoder import Encoder
from anyres.predict.preparation import Preparation, preparation
from anyres.sizes import size_text
from anyres.streaming.record_writer import RecordWriter
from anyres.streaming.records import DTYPES, INDEX, Record
from anyres.terminal import printable

_SHARD_BYTES, _MOST_RECORDS = 2**28, 4096  # of a shard, by default


@dataclass(frozen=True)
class EncodeResult:
    """What `encode` left behind."""

    folder: Path
    records: int
    shards: int
    failures: list[Unreadable]
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
    if not (config.out / INDEX).is_file():  # finished records may be where nobody may write
        check_folder("out", config.out)
    inputs = find_inputs(config.inputs, config.list_file)
    model, _ = load(config.run, ViTAR)
    stream_pixels = None if config.is_resized else config.stream_pixels
    prepare = preparation(model.config, config.size, config.short_side)
    writer = RecordWriter(config.out, _settings(config, inputs, prepare), config.run)
    encoder = Encoder(
        model.to(resolve_device(config.device)).float().eval(),
        prepare,
        stream_pixels or MAX_PIXELS,
        config.batch_size,
        DTYPES[config.dtype],
        progress,
    )
    first_time: Sequence[int] = range(writer.done, len(inputs))
    again = [failure["input"] for failure in writer.failures]
    done = len(inputs) - len(first_time) - len(again)
    if done < len(inputs):
        check_folder("out", config.out)
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
                        {"input": place, **result.to_dict()}
                        for place, result in zip(taken, found, strict=True)
                        if isinstance(result, Unreadable)
                    ],
                )
    failures = [Unreadable(failure["path"], failure["reason"]) for failure in writer.failures]
    result = EncodeResult(config.out, writer.count, writer.shards, failures)
    _show(result, len(inputs), file or sys.stdout)
    return result


def _settings(config: EncodeConfig, inputs: Sequence[LabelledFile], prepare: Preparation) -> dict[str, Any]:
    """All that the records depend on, as plain JSON values."""
    model = prepare.model
    grid = _record_grid(config, prepare)
    most = min(max(_SHARD_BYTES // (2 * math.prod(grid) * model.width), 1), _MOST_RECORDS)
    return {
        "model": model_digest(config.run),
        "inputs": {"files": len(inputs), "digest": digest(inputs)},
        "size": None if prepare.size is None else size_text(prepare.size),
        "short_side": prepare.short_side,
        "dtype": config.dtype,
        "shard_records": config.shard_records or most,
        "stream_pixels": None if config.is_resized else config.stream_pixels,
        "preparation": {
            "channels": model.in_channels, "mean": model.mean, "std": model.std,
            "resize": "bicubic, antialiased" if config.is_resized else "none",
        },
        "grid": grid,
        "width": model.width,
    }  # fmt: skip


def _record_grid(config: EncodeConfig, prepare: Preparation) -> Grid:
    """What all grids of tokens that the model can give these images fit into: see `Records`. ValueError if nothing."""
    model = prepare.model
    if not model.keeps_shape and model.grid_shape == "fixed":
        return model.grid
    if prepare.size is not None:
        return model.plan(token_grid(*prepare.size, model.patch_size)).grid
    if not model.keeps_shape:
        return 1, model.most_tokens
    raise ValueError(
        f"the model in {config.run} has merger {model.merger!r} and cells {model.cells!r}, so that its grid grows with "
        f"the image, and size is {config.size}; allowed: one size for all images, such as 224x224"
    )


def _show(result: EncodeResult, inputs: int, file: TextIO) -> None:
    lines = [f"{result.records} records in {result.shards} shards in {result.folder}"]
    if result.failures:
        lines.append(
            f"{len(result.failures)} of {inputs} files could not be read ({result.folder / INDEX}); "
            "the same command tries them again:"
        )
        lines += [f"  {failure}" for failure in result.failures]
    for line in lines:
        print(printable(line, file), file=file)
