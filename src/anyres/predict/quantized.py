"""An exported classifier with 8-bit weights beside the file that it is made of: size, speed, and what changes."""

import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from anyres.data.decode import read_image
from anyres.data.folder import find_images
from anyres.errors import UnreadableImageError
from anyres.exporting.exported import KINDS, ExportedModel
from anyres.exporting.quantize import quantize_dynamic, quantize_static
from anyres.layers.merge_plan import token_grid
from anyres.predict.preparation import preparation
from anyres.sizes import Size

MOST_IMAGES = 300


def quantized(path: Path, kind: Literal["dynamic", "static"], calibration: Path | None = None) -> Path:
    """Writes NAME-int8 beside a file, as `exporting.quantize` does it, and says where.

    Args:
        path: of the file.
        kind: "dynamic": 8-bit weights, ranges of activations found for each image (.onnx alone); "static": ranges of
            the images of a folder, at their own sizes.
        calibration: that folder, of which at most 300 images, evenly spread, are read.

    Raises:
        ImportError: what the kind needs is missing.
        ValueError: a kind that the file cannot have, or no images that can be read.
    """
    out = path.with_name(f"{path.stem}-int8{path.suffix}")
    if kind == "dynamic":
        quantize_dynamic(path, out)
        return out
    assert calibration is not None
    model = KINDS[path.suffix](path)
    files = find_images([calibration])
    images = _Prepared(model, files[:: -(-len(files) // MOST_IMAGES)])
    if not len(images):
        raise ValueError(f"none of the images in {calibration} can be read and is within the limit of {path}")
    quantize_static(path, out, images, max(_levels(model, size) for size in images.sizes))
    return out


@torch.inference_mode()
def compare_quantized(path: Path, small: Path, data: Path) -> str:
    """How the answers of one file differ from those of another on a folder of images.

    Images are decoded once and seen at their own size by both files, which take turns in being first. If all lie in
    folders called as classes, accuracies are told too.

    Raises:
        ValueError: no images, or none that can be read and is within the limit of the file.
    """
    both = KINDS[path.suffix](path), KINDS[small.suffix](small)
    classes = both[0].info.classes
    seconds: tuple[list[float], list[float]] = ([], [])
    right: tuple[list[bool], list[bool]] = ([], [])
    same, changes, is_labelled = [], [], True
    for number, (file, image) in enumerate(_read(both[0], find_images([data]), "comparing")):
        answers = [torch.empty(0), torch.empty(0)]
        for which in (0, 1) if number % 2 else (1, 0):
            start = time.perf_counter()
            answers[which] = both[which](image)[0].softmax(0)
            seconds[which].append(time.perf_counter() - start)
            right[which].append(classes[int(answers[which].argmax())] == file.parent.name)
        same.append(bool(answers[0].argmax() == answers[1].argmax()))
        changes.append((answers[0] - answers[1]).abs().max().item())
        is_labelled = is_labelled and file.parent.name in classes
    if not same:
        raise ValueError(f"none of the images in {data} can be read and is within the limit of {path}")
    ratio = statistics.median(seconds[1]) / statistics.median(seconds[0])
    sizes = " MB of ".join(f"{megabytes(each):.1f}" for each in (small, path))
    accuracy = " instead of ".join(f"{100 * statistics.mean(each):.1f} %" for each in reversed(right))
    return (
        f"{small}: {sizes}; on {len(same)} images the same class {100 * statistics.mean(same):.1f} % of the time, "
        + (f"right {accuracy}, " if is_labelled else "")
        + f"probabilities change by {statistics.median(changes):.4f} (median) and at most {max(changes):.4f}, and "
        f"an image takes {ratio:.2f} times as long"
    )


def megabytes(path: Path) -> float:
    """Of a file, with OpenVINO's weights beside it."""
    beside = [path.with_suffix(".bin")] if path.suffix == ".xml" else []
    return sum(each.stat().st_size for each in (path, *beside)) / 1e6


def _read(model: ExportedModel, files: Sequence[Path], desc: str | None = None) -> Iterator[tuple[Path, Tensor]]:
    """Files with images as the model takes them, (1, C, H, W); those that it cannot have are named and left out."""
    prepare = preparation(model.config, None, None)
    for file in tqdm(files, desc=desc, unit="image", disable=desc is None):
        try:
            image = prepare(read_image(file, channels=model.config.in_channels))[None]
            model.check_size(image.shape[-2], image.shape[-1])
        except (UnreadableImageError, ValueError) as error:
            tqdm.write(f"left out: {file}: {getattr(error, 'reason', error)}", file=sys.stderr)
        else:
            yield file, image


def _levels(model: ExportedModel, size: Size) -> int:
    """How many levels of the merger an image of this size runs."""
    plan = model.config.plan(token_grid(*size, model.config.patch_size))
    return sum(not level.is_identity for level in plan.levels)


class _Prepared:
    """Images of files as a model takes them, read whenever they are gone through."""

    def __init__(self, model: ExportedModel, files: Sequence[Path]) -> None:
        self.model, self.sizes = model, list[Size]()
        self.files = list[Path]()
        for file, image in _read(model, files, "reading"):
            self.files.append(file)
            self.sizes.append((image.shape[-2], image.shape[-1]))

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[np.ndarray]:
        for _, image in _read(self.model, self.files):
            yield self.model.as_given(image)
