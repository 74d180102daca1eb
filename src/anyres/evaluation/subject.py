"""One trained model under measurement: its answers, and what an image of a given size costs it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from anyres.costs.cost import macs_by_part
from anyres.costs.memory import cuda_peak_bytes, peak_tensor_bytes
from anyres.costs.timing import latency, synchronise
from anyres.data.transforms import aspect_size, resize, to_tensor
from anyres.devices import resolve_device
from anyres.evaluation.rows import LatencyMs, distinct_labels
from anyres.evaluation.sweep_config import SweepConfig
from anyres.models.vitar import ViTAR
from anyres.models.weights.files import load
from anyres.models.weights.record import ModelInfo
from anyres.packing import packed
from anyres.sizes import Size


@dataclass(kw_only=True)
class Subject:
    """A model with its label, and what was measured on it so far; `model` lies on `device` in `dtype`."""

    label: str
    model: ViTAR
    info: ModelInfo
    run: Path
    device: torch.device
    dtype: torch.dtype
    seconds: float = 0.0
    """Time spent in `model` by `look` since it was last set to 0."""
    speeds: dict[Size, tuple[LatencyMs, int]] = field(default_factory=dict)
    """What `speed` found so far."""
    _macs: dict[Size, int] = field(default_factory=dict)

    def patches(self, size: Size) -> int:
        """Patch tokens of an image of `size`, which a pyramid merger may enlarge first."""
        return math.prod(self.model.plan(*size).size)

    def macs(self, size: Size) -> int:
        """Multiply-accumulates of one image ("executed" convention)."""
        if size not in self._macs:
            self._macs[size] = sum(macs_by_part(self.model.config, size).values())
        return self._macs[size]

    def views(self, pictures: Sequence[Image.Image], target: Size | None, keep_aspect: bool) -> list[Tensor]:
        """The pictures as this model wants them, (C, H_i, W_i) each, after resizing to `target` if there is one."""
        config = self.model.config
        if target is not None:
            pictures = [
                resize(p, aspect_size((p.height, p.width), min(target)) if keep_aspect else target) for p in pictures
            ]
        return [to_tensor(picture, config.mean, config.std) for picture in pictures]

    @property
    def largest_size(self) -> Size:
        """Of training."""
        return self.sizes_by_area[-1]

    @property
    def sizes_by_area(self) -> list[Size]:
        """The training sizes, smallest first."""
        return sorted(self.info.training_sizes, key=lambda size: (size[0] * size[1], size))

    def answer(self, images: Sequence[Tensor], max_patches: int) -> Tensor:
        """Class probabilities (B, classes), float32 on the CPU; in pieces of at most `max_patches` or one image."""
        return self.look(images, max_patches)[0]

    def look(self, images: Sequence[Tensor], max_patches: int) -> tuple[Tensor, Tensor]:
        """The same with the pooled features that they follow from, (B, D)."""
        outputs, features = [], []
        counts = [self.patches((image.shape[1], image.shape[2])) for image in images]
        for group in packed(counts, max_patches):
            piece = [images[index] for index in group]
            alike = len({image.shape for image in piece}) == 1
            batch: Any = torch.stack(piece) if alike else piece
            batch = self._move(batch) if alike else [self._move(image) for image in batch]
            synchronise(self.device)
            start = time.perf_counter()
            with torch.inference_mode():
                pooled = self.model.forward_head(self.model.forward_features(batch), pre_logits=True)
                logits = self.model.head(pooled)
            synchronise(self.device)
            self.seconds += time.perf_counter() - start
            outputs.append(logits.float().softmax(-1).cpu())
            features.append(pooled.float().cpu())
        return torch.cat(outputs), torch.cat(features)

    def speed(self, size: Size, runs: int, seconds: float) -> tuple[LatencyMs, int]:
        """Latency and peak memory in bytes of one image of `size`; measured once and remembered."""
        if size not in self.speeds:
            # zeros: neither time nor memory depends on the values
            image = self._move(torch.zeros(1, self.model.config.in_channels, *size))  # (1, C, H, W)

            @torch.inference_mode()
            def forward() -> Tensor:
                return self.model(image)

            memory = self._peak_bytes(forward)
            p50, p95, timed = latency(forward, runs, budget_seconds=seconds, device=self.device)
            self.speeds[size] = (LatencyMs(p50=p50, p95=p95, runs=timed), memory)
        return self.speeds[size]

    def _peak_bytes(self, forward: Callable[[], Tensor]) -> int:
        if self.device.type != "cuda":
            return peak_tensor_bytes(forward)
        forward()  # workspaces that libraries allocate once are not the image's
        return cuda_peak_bytes(forward, self.device)

    def _move(self, images: Tensor) -> Tensor:
        return images.to(self.device, self.dtype)


def load_subjects(config: SweepConfig) -> list[Subject]:
    """The models of `config.runs` on their device, each labelled by its run folder."""
    loaded = [(Path(run), *load(run, ViTAR)) for run in config.runs]
    folders = [run.resolve() for run, _, _ in loaded]
    labels = distinct_labels([folder.name for folder in folders], [folder.parent.name for folder in folders])
    device, dtype = resolve_device(config.device), getattr(torch, config.precision)
    subjects: list[Subject] = []
    for label, (run, model, info) in zip(labels, loaded, strict=True):
        if model.config.in_channels not in (1, 3):
            raise ValueError(f"{run} takes {model.config.in_channels} channels; allowed for image files: 1 or 3")
        if not info.training_sizes and config.resize_to != ("none",):
            raise ValueError(f"{run} records no training sizes to resize to; allowed for it: resize_to none")
        if not info.training_sizes and config.stability:
            raise ValueError(f"{run} records no training sizes to compare with; allowed for it: no stability")
        model = model.to(device=device, dtype=dtype).eval()
        subjects.append(Subject(label=label, model=model, info=info, run=run, device=device, dtype=dtype))
    return subjects
