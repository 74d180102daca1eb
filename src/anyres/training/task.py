"""What the engine trains: a model with its data, loss and measure behind one small interface.

The engine never names what is learned, so that detection or masked pre-training are a new task and no new engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from anyres.errors import Unreadable
from anyres.sizes import Size


class Step(Protocol):
    """What the engine knows of the batch of a step."""

    @property
    def labels(self) -> Tensor:
        """(B,) int64"""
        ...

    @property
    def size(self) -> Size:
        """What the log says of it: (height, width) of the images in pixels, or (rows, cols) of tokens."""
        ...

    @property
    def skipped(self) -> list[Unreadable]:
        """Files that could not be read, and why."""
        ...


class Task(Protocol):
    """Everything about a run that depends on what is learned."""

    @property
    def model(self) -> nn.Module:
        """On the CPU at first, initialised from the run's seed; the engine moves it."""
        ...

    def identity(self) -> dict[str, Any]:
        """What else, besides the configuration, two starts of one run must share; plain JSON values."""
        ...

    def batches(self, start: int, stop: int) -> Iterator[Step]:
        """The batches of steps start..stop-1, the same ones whatever the start."""
        ...

    def prepare(self, batch: Any, device: torch.device) -> Any:
        """The batch on the device with its targets, mixed and smoothed: a pure function of batch and step."""
        ...

    def loss(self, prepared: Any, rows: slice) -> Tensor:
        """Mean loss over some rows of a prepared batch, a scalar in float32."""
        ...

    def validate(self, model: nn.Module, device: torch.device, step: int) -> list[dict[str, Any]]:
        """One row per validation size, each with "size": [height, width] and what was measured; none without images.

        "top1" is in percent; "skipped" in a row lists (path, reason) of files that could not be read. What is drawn is
        named after the step.
        """
        ...

    @property
    def headline(self) -> tuple[str, int]:
        """The measure that sums a validation up in one line, and its decimals: ("top1", 1)."""
        ...

    def validates(self) -> bool:
        """Whether `validate` has anything to measure or to draw."""
        ...

    def save(self, folder: Path, model: nn.Module, extra: dict[str, Any]) -> None:
        """Writes the final weights for others to load."""
        ...
