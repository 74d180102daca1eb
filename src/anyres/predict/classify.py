"""Top classes for files and folders of images of any mix of sizes: in the terminal, as CSV or as JSON."""

import csv
import io
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from anyres.costs.largest import Sizer, sizer
from anyres.costs.largest_config import Limits
from anyres.data.ahead import read_ahead
from anyres.data.decode import MAX_PIXELS, check_max_pixels, stored_size
from anyres.data.folder import find_images
from anyres.devices import resolve_device
from anyres.errors import UnreadableImageError, check_choice
from anyres.files import write_atomically
from anyres.models.vitar import ViTAR
from anyres.models.weights.files import ModelInfo, load
from anyres.predict.preparation import Preparation, as_images
from anyres.sizes import Size, parse_size

_ROWS_SHOWN = 20  # of the table, where the rest is in a file
_BATCH_SIZE = 16

OverBudget = Literal["refuse", "reduce"]


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Classify images with a trained model."""

    run: Path
    """folder of the trained model"""
    inputs: tuple[Path, ...]
    """image files, and folders that are searched for images"""
    size: str | None = None
    """unset: every image at its own size; "224": short side of 224 pixels, aspect kept; "224x320": exactly so"""
    top_k: int = 5
    """classes per image, at most those that the model has"""
    batch_size: int = _BATCH_SIZE
    """most images in one call of the model; not with a budget, with which they go one by one"""
    output: Path | None = None
    """file to write, .csv or .json"""
    max_pixels: int = MAX_PIXELS
    """files with more pixels are not decoded"""
    strict: bool = False
    """stop at the first unreadable file instead of listing it at the end"""
    max_milliseconds: float | None = None
    """most milliseconds that the model may take for an image, as predicted for this machine; images then go one by
    one, and the first such call on a machine measures it for a minute or two"""
    max_gigabytes: float | None = None
    """most memory (1e9 bytes) that the model may need for an image beside itself, in the same manner"""
    over_budget: OverBudget | None = None
    """what happens to an image that would exceed them: "reduce" (unset: this) makes it as much smaller as needed,
    "refuse" lists it as an error"""
    device: str = "auto"
    """where the model runs: auto (cuda if there is one), cpu, cuda, cuda:N or mps"""

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ValueError("no inputs given: allowed are image files and folders")
        for name in ("top_k", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} given: allowed is 1 and more")
        check_max_pixels(self.max_pixels)
        if self.limits is None and self.over_budget is not None:  # `limits` itself refuses impossible ones
            raise ValueError("over_budget is given without a budget; allowed with max_milliseconds or max_gigabytes")
        if self.limits is not None and self.batch_size != _BATCH_SIZE:
            raise ValueError(
                f"batch_size={self.batch_size} given but has no effect, because with a budget images go one by one: "
                f"allowed is to leave it at {_BATCH_SIZE}"
            )
        if self.over_budget is not None:
            check_choice("over_budget", self.over_budget, get_args(OverBudget))
        resolve_device(self.device)
        if self.size is not None:
            parse_size(self.size)
        if self.output is not None:
            if self.output.suffix.lower() not in (".csv", ".json"):
                raise ValueError(f"output {self.output} given: allowed are names ending in .csv or .json")
            if not self.output.absolute().parent.is_dir():
                raise ValueError(
                    f"output {self.output} given, but there is no folder {self.output.absolute().parent}: "
                    "allowed are names in an existing folder"
                )

    @property
    def limits(self) -> Limits | None:
        """What the model may take for an image, if there is a budget."""
        if self.max_milliseconds is None and self.max_gigabytes is None:
            return None
        return Limits(self.max_milliseconds, self.max_gigabytes)


def predict(config: PredictConfig, *, file: TextIO | None = None, progress: bool = True) -> list[dict[str, Any]]:
    """Classify every image once, print a table, and write the output file if one is asked for.

    Images of different sizes share a batch without influence on one another. Progress goes to stderr, the table to
    stdout (or `file`).

    Returns:
        One entry per image in the order of the inputs: {"path", "height", "width", "top": [{"class", "probability"}]},
        height and width being those of the upright image in pixels; {"path", "error"} for a file that cannot be read
        or is refused. An image that was made smaller for a budget has "reduced": [height, width] as well.

    Raises:
        ValueError: bad settings, missing inputs or an unreadable model, before any image is read.
        UnreadableImageError: with `strict`, at the first unreadable file.
    """
    paths = find_images(config.inputs)
    model, info = load(config.run, ViTAR)
    _check_classes(model, info, config.run)
    prepare = Preparation(model=model.config, size=config.size, max_pixels=config.max_pixels)
    prepare.check(config.run)
    model.to(resolve_device(config.device)).float().eval()
    budget = None if config.limits is None else sizer(model, config.limits, progress=progress)
    if budget is not None:
        budget.reduced((1, 1))  # an error now if nothing fits
    results: list[dict[str, Any]] = [{} for _ in paths]
    bar = tqdm(total=len(paths), desc="predict", unit="image", file=sys.stderr, disable=not progress)
    with bar, torch.inference_mode():
        groups = prepare.groups(_stored_sizes(paths, config), 1 if budget else config.batch_size)
        with closing(read_ahead(lambda group: prepare.load([paths[i] for i in group]), groups)) as found:
            for group, loaded in found:
                _predict_group(group, loaded, paths, model, info, config, budget, results)
                bar.update(len(group))
    if config.output is not None:
        _write(config.output, results, with_budget=budget is not None)
    _show(results, config.output, file or sys.stdout)
    return results


def _check_classes(model: ViTAR, info: ModelInfo, run: Path) -> None:
    if model.config.num_classes < 1 or len(info.classes) != model.config.num_classes:
        raise ValueError(
            f"the model in {run} has {model.config.num_classes} outputs and {len(info.classes)} class names: "
            "allowed is a classifier with a name for every output"
        )


def _stored_sizes(paths: Sequence[Path], config: PredictConfig) -> list[Size]:
    """(height, width) of each file in pixels; (0, 0) for an unreadable one, of which its reader says why."""
    sizes = []
    for path in paths:
        try:
            sizes.append(stored_size(path, max_pixels=config.max_pixels))
        except UnreadableImageError:
            if config.strict:
                raise
            sizes.append((0, 0))
    return sizes


def _predict_group(
    group: Sequence[int],
    loaded: Sequence[tuple[Tensor, Size] | UnreadableImageError],
    paths: Sequence[Path],
    model: ViTAR,
    info: ModelInfo,
    config: PredictConfig,
    budget: Sizer | None,
    results: list[dict[str, Any]],
) -> None:
    """Fill in the results of a group."""
    images: list[Tensor] = []
    readable: list[int] = []
    for index, found in zip(group, loaded, strict=True):
        if isinstance(found, UnreadableImageError):
            if config.strict:
                raise found
            results[index] = {"path": str(paths[index]), "error": str(found)}
            continue
        image, (height, width) = found
        results[index] = {"path": str(paths[index]), "height": height, "width": width}
        if budget is not None and (fitted := budget.reduced((image.shape[1], image.shape[2]))) != image.shape[1:]:
            if config.over_budget == "refuse":
                results[index] = {"path": str(paths[index]), "error": _refusal(paths[index], image, budget, fitted)}
                continue
            image = F.interpolate(image[None], fitted, mode="bicubic", antialias=True)[0]
            results[index]["reduced"] = list(fitted)
        images.append(image.to(next(model.parameters()).device))
        readable.append(index)
    if not readable:
        return
    logits = model(as_images(images))  # (B, classes)
    best = logits.float().softmax(dim=1).topk(min(config.top_k, len(info.classes)), dim=1)
    for index, values, labels in zip(readable, best.values.tolist(), best.indices.tolist(), strict=True):
        results[index]["top"] = [
            {"class": info.classes[label], "probability": value} for label, value in zip(labels, values, strict=True)
        ]


def _refusal(path: Path, image: Tensor, budget: Sizer, fitted: Size) -> str:
    height, width = image.shape[1:]
    return f"{path}: {height}x{width} pixels exceed {budget.limits}; within it: at most {fitted[0]}x{fitted[1]}"


def _write(output: Path, results: Sequence[dict[str, Any]], *, with_budget: bool) -> None:
    is_json = output.suffix.lower() == ".json"
    text = json.dumps(results, indent=1) + "\n" if is_json else _csv(results, with_budget=with_budget)
    write_atomically(output, lambda file: file.write(text.encode()))


def _csv(results: Sequence[dict[str, Any]], *, with_budget: bool) -> str:
    """path, height, width, class_1, prob_1, ..., error; with a budget "reduced" after width, such as 224x320."""
    ranks = range(1, 1 + max((len(result.get("top", ())) for result in results), default=0))
    classes = [f"{what}_{rank}" for rank in ranks for what in ("class", "prob")]
    names = ["path", "height", "width", *(["reduced"] if with_budget else []), *classes, "error"]
    table = io.StringIO()
    writer = csv.DictWriter(table, names, lineterminator="\n")
    writer.writeheader()
    for result in results:
        row = {name: result[name] for name in names if name in result}
        if "reduced" in result:
            row["reduced"] = "{}x{}".format(*result["reduced"])
        for rank, entry in enumerate(result.get("top", ()), start=1):
            row |= {f"class_{rank}": entry["class"], f"prob_{rank}": f"{entry['probability']:.6g}"}
        writer.writerow(row)
    return table.getvalue()


def _show(results: Sequence[dict[str, Any]], output: Path | None, file: TextIO) -> None:
    good = [result for result in results if "top" in result]
    failed = [result for result in results if "error" in result]
    shown = good if output is None else good[:_ROWS_SHOWN]
    rows = [(result["path"], f"{result['height']}x{result['width']}", _top(result)) for result in shown]
    if rows:
        rows.insert(0, ("image", "height x width", "classes"))
        path_width, size_width = (max(len(row[column]) for row in rows) for column in (0, 1))
        for path, size, top in rows:
            print(f"{path:<{path_width}}  {size:>{size_width}}  {top}", file=file)
    if len(shown) < len(good):
        print(f"... and {len(good) - len(shown)} more in {output}", file=file)
    elif output is not None:
        print(f"written to {output}", file=file)
    if reduced := sum("reduced" in result for result in results):
        print(f"{reduced} of {len(results)} images were reduced to fit the budget", file=file)
    if failed:
        print(f"{len(failed)} of {len(results)} files could not be read or were refused:", file=file)
        for result in failed:
            print(f"  {result['error']}", file=file)


def _top(result: dict[str, Any]) -> str:
    return "  ".join(f"{entry['class']} {entry['probability']:.1%}" for entry in result["top"])
