"""`anyres.Predictor`: a trained model and images of any kind and size in, results as they are ready out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from torch import nn

from anyres.devices import resolve_device
from anyres.errors import Unreadable
from anyres.exporting.exported import KINDS, ExportedModel
from anyres.models.weights.files import load
from anyres.models.weights.record import ModelInfo
from anyres.predict.classifier import Classifier
from anyres.predict.config import ClassOptions, LabelOptions, LookOptions, ObjectOptions
from anyres.predict.exported_classifier import ExportedClassifier
from anyres.predict.finder import Finder
from anyres.predict.inputs import Given, as_inputs
from anyres.predict.labeller import Labeller
from anyres.predict.loop import Looker, Loop
from anyres.predict.results import Result
from anyres.sizes import Size, parse_size, size_text


class Predictor:
    """Looks at images with a trained model.

        predictor = anyres.Predictor("runs/first")
        for result in predictor(["photo.jpg", image, array]):
            print(result.to_dict())

    Options that are not given have the values of `anyres predict`, and those without effect on this kind of model are
    refused.

    Args:
        run_or_model: the folder of a run; an .onnx or .xml file that `anyres.export` wrote; or a model in evaluation
            mode, which stays on its device and the classes of which are called 0, 1, ...
        device: where the model of a run is to be: "auto" (cuda if there is one), "cpu", "cuda", "cuda:N" or "mps".
        size: classes: what images are resized to, 224 or "224x320" (height x width); without it they keep their size.
        short_side: classes, label maps: pixels of the shorter side that they are resized to, the aspect being kept.
        least_side: classes: the same for smaller images alone, which are enlarged.
        batch_size: most images, or windows of one, in one call of the model.
        max_pixels: larger images are not decoded as a whole but read by region.
        window: label maps, objects: "auto", "none", or pixels of the windows that all images are looked at by.
        memory_budget: most memory beside the model, such as "2GB".
        max_milliseconds: classes: most time for an image, as predicted for this machine.
        over_budget: classes: whether images that would exceed a budget are reduced or refused.
        top_k: classes: how many.
        ratios, flip: label maps: averaged over these relative sizes, and over mirror images.
        label_folder: label maps: where those of images that are never in memory as a whole are written, as NAME.tif;
            otherwise they are held in memory.
        threshold: objects: least score.
        strict: raises at the first image that cannot be read.
        progress: shows progress bars.

    Raises:
        ValueError: bad options, or no such model.
    """

    def __init__(
        self,
        run_or_model: Path | str | nn.Module,
        *,
        device: str | None = None,
        size: str | int | Size | None = None,
        short_side: int | None = None,
        least_side: int | None = None,
        batch_size: int | None = None,
        max_pixels: int | None = None,
        window: str | int | Size | None = None,
        memory_budget: str | None = None,
        max_milliseconds: float | None = None,
        over_budget: Literal["refuse", "reduce"] | None = None,
        top_k: int | None = None,
        ratios: Sequence[float] | None = None,
        flip: bool | None = None,
        label_folder: Path | str | None = None,
        threshold: float | None = None,
        strict: bool = False,
        progress: bool = False,
    ) -> None:
        given = {
            "device": device,
            "size": None if size is None else size_text(parse_size(size)),
            "short_side": short_side,
            "least_side": least_side,
            "batch_size": batch_size,
            "max_pixels": max_pixels,
            "window": window if window is None or isinstance(window, str) else size_text(parse_size(window)),
            "memory_budget": memory_budget,
            "max_milliseconds": max_milliseconds,
            "over_budget": over_budget,
            "top_k": top_k,
            "ratios": None if ratios is None else tuple(ratios),
            "flip": flip,
            "threshold": threshold,
            "strict": strict,
        }
        is_file = not isinstance(run_or_model, nn.Module) and Path(run_or_model).suffix in KINDS
        if isinstance(run_or_model, nn.Module):
            model, info = _in_memory(run_or_model, device)
        else:
            model, info = _from_file(run_or_model) if is_file else load(run_or_model)
        name = type(model).__name__
        if name not in _KINDS:
            raise ValueError(f"{run_or_model} holds a {name}, which predicts nothing; allowed: {', '.join(_KINDS)}")
        kind, looker = _KINDS[name]
        options = _options(kind, name, {each: value for each, value in given.items() if value is not None})
        if not isinstance(run_or_model, nn.Module) and not is_file:
            model.to(resolve_device(options.device)).float()
        folder = {} if label_folder is None else {"label_folder": Path(label_folder)}
        if folder and kind is not LabelOptions:
            raise _idle("label_folder", name)
        self.model: Any = model
        self.classes: tuple[str, ...] = info.classes
        """Names, in the order of the model's outputs."""
        self._looker: Looker = looker(model, info, options, progress=progress, **folder)
        self._strict, self._progress = strict, progress

    def __call__(self, inputs: Given | Iterable[Given]) -> Iterator[Result | Unreadable]:
        """Looks at images: paths of files and folders, Pillow images, arrays (H, W, C) of uint8, tensors (C, H, W) of
        uint8 or of floating point from 0 to 1, a mixture of them, or one of them.

        Images of different sizes share calls of the model, without influence on one another. Results come as soon as
        they are ready; `index` says which input each is of. An image that cannot be read is an `Unreadable` with
        `path` and `reason`.

        Raises:
            ValueError: what is no image, a path that does not exist, or a memory budget too small for an image, before
                any is decoded.
            ImportError: for a missing package that an image or the model needs, before any is decoded.
            UnreadableImageError, SourceError: if `strict`, at the first that cannot be read.
        """
        return (found for _, found in self.numbered(inputs))

    def numbered(self, inputs: Given | Iterable[Given]) -> Iterator[tuple[int, Result | Unreadable]]:
        """The same, each after its place among the inputs."""
        return Loop(self._looker, as_inputs(inputs), strict=self._strict, progress=self._progress).results()


_KINDS: dict[str, tuple[type[LookOptions], Callable[..., Looker]]] = {
    "ViTAR": (ClassOptions, Classifier),
    "UpgradedViT": (ClassOptions, Classifier),
    "OnnxModel": (ClassOptions, ExportedClassifier),
    "OpenVinoModel": (ClassOptions, ExportedClassifier),
    "Segmenter": (LabelOptions, Labeller),
    "Detector": (ObjectOptions, Finder),
}


def _in_memory(model: nn.Module, device: str | None) -> tuple[Any, ModelInfo]:
    if type(model).__name__ not in _KINDS:
        raise ValueError(f"a {type(model).__name__} is given; allowed: {', '.join(_KINDS)}, or the folder of a run")
    if device is not None:
        raise ValueError(f"device is {device}, but the model is in memory, and stays where it is; use model.to(device)")
    if model.training:
        raise ValueError("the model is in training mode; use model.eval()")
    if isinstance(model, ExportedModel):
        return model, model.info
    config: Any = model.config
    return model, ModelInfo(None, tuple(str(label) for label in range(config.num_classes)), ())


def _from_file(path: Path | str) -> tuple[Any, ModelInfo]:
    model = KINDS[Path(path).suffix](path)
    return model, model.info


def _options(kind: type[LookOptions], model: str, given: Mapping[str, Any]) -> LookOptions:
    """ValueError for options that this kind of model does not have."""
    known = {field.name for field in fields(kind)}
    for name in given:
        if name not in known:
            raise _idle(name, model)
    return kind(**given)


def _idle(name: str, model: str) -> ValueError:
    return ValueError(f"{name} is given but has no effect on a {model}; leave it out")
