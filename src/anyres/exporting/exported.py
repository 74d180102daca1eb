"""A model in a file that `anyres.export` wrote: what it says of itself, and its answers by onnxruntime or OpenVINO."""

import json
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anyres.models.architectures import ARCHITECTURES, architecture_of
from anyres.models.config import ViTARConfig
from anyres.models.images import Images
from anyres.models.vitar import ViTAR
from anyres.models.weights.record import ModelInfo, make_config

FORMAT = "1"


def metadata_of(model: ViTAR, classes: Sequence[str], largest: int, uint8: bool) -> dict[str, str]:
    """What a file says of itself: text by names that anybody can read, JSON where it is no plain text."""
    return {
        "anyres_format": FORMAT,
        "architecture": architecture_of(model).name,
        "config": json.dumps(asdict(model.config)),
        "classes": json.dumps(list(classes)),
        "largest_side": str(largest),
        "patch_size": str(model.config.patch_size),
        "mean": json.dumps(model.config.mean),
        "std": json.dumps(model.config.std),
        "input": "uint8 from 0 to 255" if uint8 else "float32, (pixel / 255 - mean) / std",
    }


class ExportedModel(nn.Module):
    """An exported model with the calls of a `ViTAR` that need no gradients: images of any mix of sizes -> logits.

    Runtimes keep the memory that images needed. After one of less than a quarter of the pixels of the largest so far
    they give back what nothing uses.
    """

    def __init__(self, path: Path | str) -> None:
        super().__init__()
        self.path, self._kept_for = Path(path), 0
        if not self.path.is_file():
            raise ValueError(f"there is no file {path}.")
        found = self._open()
        self.config, self.info, self.largest = read_metadata(found, self.path)
        self.takes_uint8 = found["input"].startswith("uint8")
        self.eval()

    @abstractmethod
    def _open(self) -> Mapping[str, str]:
        """Loads the file; what it says of itself."""

    @abstractmethod
    def _answer(self, images: np.ndarray, gives_back: bool) -> dict[str, np.ndarray]:
        """All outputs by name; memory is given back after it if so told."""

    def forward(self, images: Images) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W), or of a list of (C, H_i, W_i) one by one."""
        if not isinstance(images, Tensor):
            return torch.cat([self(image[None]) for image in images])
        return torch.from_numpy(self.run(images)["logits"])

    def run(self, images: Tensor) -> dict[str, np.ndarray]:
        """Everything that the file gives of normalised images (B, C, H, W)."""
        self.check_size(images.shape[-2], images.shape[-1])
        given = self.as_given(images)
        is_small = 4 * given.size < self._kept_for
        self._kept_for = given.size if is_small else max(given.size, self._kept_for)
        return self._answer(given, is_small)

    def as_given(self, images: Tensor) -> np.ndarray:
        """Normalised images as the file takes them."""
        if self.takes_uint8:
            mean, std = (torch.tensor(each)[:, None, None] for each in (self.config.mean, self.config.std))
            images = ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
        else:
            images = images.float()
        return images.numpy()

    def check_size(self, height: int, width: int) -> None:
        """ValueError for an image beyond the limit of the file."""
        if max(height, width) > self.largest:
            raise ValueError(
                f"an image of {height}x{width} pixels is beyond the limit of {self.path}, {self.largest} a side; "
                f"export it again with a larger one: largest={max(height, width)}."
            )


class OnnxModel(ExportedModel):
    """An .onnx file by onnxruntime on the CPU.

    Its arena makes large images almost twice as fast as they are without it.

    Args:
        path: of the file.
        threads: of onnxruntime; None: as many as there are cores.

    Raises:
        ImportError: onnxruntime is missing.
        ValueError: a file that is not there, that onnxruntime cannot read, or that `anyres.export` of this version did
            not write.
    """

    def __init__(self, path: Path | str, threads: int | None = None) -> None:
        self._threads = threads
        super().__init__(path)

    def _open(self) -> Mapping[str, str]:
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError('an .onnx file needs onnxruntime: pip install "anyres[export]"') from error
        options = onnxruntime.SessionOptions()
        options.enable_mem_pattern = False  # of one size
        options.intra_op_num_threads = self._threads or os.cpu_count() or 1
        options.log_severity_level = 4  # what fails is raised
        try:
            self.session: Any = onnxruntime.InferenceSession(
                os.fspath(self.path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # of many kinds of its own
            raise _unreadable("onnxruntime", onnxruntime.__version__, self.path, error) from error
        self._shrinks = onnxruntime.RunOptions()
        self._shrinks.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._names = [output.name for output in self.session.get_outputs()]
        return dict(self.session.get_modelmeta().custom_metadata_map)

    def _answer(self, images: np.ndarray, gives_back: bool) -> dict[str, np.ndarray]:
        found = self.session.run(self._names, {"images": images}, self._shrinks if gives_back else None)
        return dict(zip(self._names, found, strict=True))


class OpenVinoModel(ExportedModel):
    """An .xml file and the .bin beside it by OpenVINO on the CPU, which computes in float32 unless told.

    Args:
        path: of the .xml file.
        threads: of OpenVINO; None: as it chooses.
        precision: what it computes in where it can: "f32", or "bf16" on processors that have it.

    Raises:
        ImportError: openvino is missing.
        ValueError: as `OnnxModel`.
    """

    def __init__(self, path: Path | str, threads: int | None = None, precision: str = "f32") -> None:
        self._threads, self._precision = threads, precision
        super().__init__(path)

    def _open(self) -> Mapping[str, str]:
        try:
            import openvino
        except ImportError as error:
            raise ImportError('an .xml file needs OpenVINO: pip install "anyres[openvino]"') from error
        settings = {
            "INFERENCE_PRECISION_HINT": self._precision,
            "CPU_RUNTIME_CACHE_CAPACITY": "64",  # kernels are kept by shape: enough for a few sizes in turn
            "SNIPPETS_MODE": "DISABLE",  # those of OpenVINO 2026.4, made for one token, are wrong for more; no slower
        }
        if self._threads is not None:
            settings["INFERENCE_NUM_THREADS"] = str(self._threads)
        try:
            read = openvino.Core().read_model(self.path)
            self.network: Any = openvino.compile_model(read, "CPU", settings)
        except Exception as error:  # of many kinds of its own
            raise _unreadable("OpenVINO", openvino.__version__, self.path, error) from error
        self._names = [output.get_any_name() for output in self.network.outputs]
        return {key: read.get_rt_info([RT_INFO, key]).value for key in KEYS if read.has_rt_info([RT_INFO, key])}

    def _answer(self, images: np.ndarray, gives_back: bool) -> dict[str, np.ndarray]:
        found = self.network(images)
        answers = {name: found[name] for name in self._names}
        if gives_back:
            self.network.release_memory()
        return answers


RT_INFO = "anyres"
KEYS = ("anyres_format", "architecture", "config", "classes", "largest_side", "patch_size", "mean", "std", "input")
KINDS: dict[str, type[OnnxModel] | type[OpenVinoModel]] = {".onnx": OnnxModel, ".xml": OpenVinoModel}


def _unreadable(runtime: str, version: str, path: Path, error: Exception) -> ValueError:
    lines = [line for line in str(error).splitlines() if line and not line.startswith("Exception from")]
    return ValueError(f"{runtime} {version} cannot read {path}: {(lines or [type(error).__name__])[0]:.300}")


def read_metadata(found: Mapping[str, str], path: Path) -> tuple[ViTARConfig, ModelInfo, int]:
    """Configuration, classes and limit of a file. ValueError for one that is not ours."""
    if found.get("anyres_format") != FORMAT:
        given = found.get("anyres_format")
        what = "was not written by anyres" if given is None else f"has format {given}; this version reads {FORMAT}"
        raise ValueError(f"{path} {what}. Export the model again with `anyres export`.")
    try:
        config = make_config(ARCHITECTURES[found["architecture"]], json.loads(found["config"]), path)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} is of another version: {error} Export the model again.") from error
    return config, ModelInfo(None, tuple(json.loads(found["classes"])), ()), int(found["largest_side"])
