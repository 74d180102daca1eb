"""A model in an ONNX file that `anyres.export` wrote: what it says of itself, and its answers by onnxruntime."""

import json
import os
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


class OnnxModel(nn.Module):
    """An exported model with the calls of a `ViTAR` that need no gradients: images of any mix of sizes -> logits.

    Args:
        path: of the file.
        threads: of onnxruntime; None: as many as there are cores.

    Raises:
        ImportError: onnxruntime is missing.
        ValueError: a file that is not there, that onnxruntime cannot read, or that `anyres.export` of this version did
            not write.
    """

    def __init__(self, path: Path | str, threads: int | None = None) -> None:
        super().__init__()
        self.path = Path(path)
        self.session = open_session(self.path, threads)
        found = self.session.get_modelmeta().custom_metadata_map
        self.config, self.info, self.largest = read_metadata(found, self.path)
        self.takes_uint8 = found["input"].startswith("uint8")
        self.eval()

    def forward(self, images: Images) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W), or of a list of (C, H_i, W_i) one by one."""
        if not isinstance(images, Tensor):
            return torch.cat([self(image[None]) for image in images])
        return torch.from_numpy(self.run(images)["logits"])

    def run(self, images: Tensor) -> dict[str, np.ndarray]:
        """Everything that the file gives of normalised images (B, C, H, W)."""
        self.check_size(images.shape[-2], images.shape[-1])
        if self.takes_uint8:
            mean, std = (torch.tensor(each)[:, None, None] for each in (self.config.mean, self.config.std))
            images = ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
        else:
            images = images.float()
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, {"images": images.numpy()}), strict=True))

    def check_size(self, height: int, width: int) -> None:
        """ValueError for an image beyond the limit of the file."""
        if max(height, width) > self.largest:
            raise ValueError(
                f"an image of {height}x{width} pixels is beyond the limit of {self.path}, {self.largest} a side; "
                f"export it again with a larger one: largest={max(height, width)}."
            )


def open_session(source: Path, threads: int | None = None) -> Any:
    """An onnxruntime session on the CPU. Its arena is off: it keeps what the largest image needed and grows with every
    new size. ValueError, ImportError: see `OnnxModel`."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError('an .onnx file needs onnxruntime: pip install "anyres[export]"') from error
    if not source.is_file():
        raise ValueError(f"there is no file {source}.")
    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    options.intra_op_num_threads = threads or os.cpu_count() or 1
    options.log_severity_level = 4  # what fails is raised
    try:
        return onnxruntime.InferenceSession(os.fspath(source), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of many kinds of its own
        reason = str(error).splitlines()[0]
        raise ValueError(f"onnxruntime {onnxruntime.__version__} cannot read {source}: {reason:.300}") from error


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
