"""What the largest size is asked for: budgets, shapes, and their checks, without torch."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from anyres.amounts import parse_bytes
from anyres.devices import check_device

MOST = 2**18  # pixels of a side; larger sizes are not looked for


@dataclass(frozen=True)
class Limits:
    """What one forward pass may take."""

    milliseconds: float | None = None
    """Median latency."""
    gigabytes: float | None = None
    """Peak memory beyond the loaded model, the images included; 1e9 bytes."""

    def __post_init__(self) -> None:
        given = {"milliseconds": self.milliseconds, "gigabytes": self.gigabytes}
        if all(value is None for value in given.values()):
            raise ValueError("no budget given; allowed: milliseconds, memory_budget, or both")
        for name, value in given.items():
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} is {value}; allowed: a finite number above 0")

    @classmethod
    def of(cls, milliseconds: float | None, memory_budget: str | None) -> "Limits":
        """Those of budgets as they are given: `memory_budget` such as "1GB"."""
        return cls(milliseconds, None if memory_budget is None else parse_bytes(memory_budget) / 1e9)

    def hold(self, milliseconds: float, peak_bytes: float) -> bool:
        """Whether that much is within them."""
        in_time = self.milliseconds is None or milliseconds <= self.milliseconds
        return in_time and (self.gigabytes is None or peak_bytes <= 1e9 * self.gigabytes)

    def __str__(self) -> str:
        texts = [] if self.milliseconds is None else [f"{self.milliseconds:g} ms"]
        return " and ".join(texts + ([] if self.gigabytes is None else [f"{self.gigabytes:g} GB"]))


def check_shape(aspect: float, multiple: int) -> None:
    """ValueError unless they are a width / height and a number of pixels."""
    if not (aspect > 0 and math.isfinite(aspect)):
        raise ValueError(f"aspect is {aspect}; allowed: width / height, a finite number above 0")
    if not 1 <= multiple <= MOST:
        raise ValueError(f"multiple is {multiple}; allowed: 1 to {MOST} pixels")


def check_batch(batch: int) -> None:
    """ValueError unless it is a number of images."""
    if batch < 1:
        raise ValueError(f"batch is {batch}; allowed: 1 or more")


@dataclass(frozen=True, kw_only=True)
class LargestSizeConfig:
    """Say which is the largest image size that fits a budget on this machine."""

    model: str | None = None
    """Name of a model."""
    run: Path | None = None
    """Folder of a trained model, instead of a name."""
    milliseconds: float | None = None
    """Most milliseconds for a forward pass (median)."""
    memory_budget: str | None = None
    """Most memory beyond the loaded model, such as 1GB."""
    batch: int = 1
    """Images in one pass."""
    aspect: float = 1.0
    """Width / height."""
    multiple: int | None = None
    """Sides are multiples of so many pixels; unset: the model's patch size."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of weights and images."""
    threads: int | None = None
    """CPU threads; unset: torch's own choice."""
    device: str = "auto"
    """Where the model runs: auto (cuda if there is one), cpu, cuda, cuda:N or mps."""
    recalibrate: bool = False
    """Measure this machine again."""

    def __post_init__(self) -> None:
        if (self.model is None) == (self.run is None):
            raise ValueError("give a model's name or the folder of a run; allowed: one of both")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads is {self.threads}; allowed: 1 or more")
        self.limits()
        check_shape(self.aspect, 1 if self.multiple is None else self.multiple)
        check_batch(self.batch)
        check_device(self.device)

    def limits(self) -> Limits:
        """What one pass may take."""
        return Limits.of(self.milliseconds, self.memory_budget)
