"""What a sweep measures of a model's answers beside top-1, which has columns and an interval of its own.

A metric says something of every image, and a row has the mean over its images. To add one, write the function and name
it in `METRICS`: rows, their JSON and the table of the report follow.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Metric = Callable[[Tensor, Tensor], Tensor]
"""Class probabilities (B, classes) and true classes (B,) int64 -> a value for each image, (B,)."""


def top5(probabilities: Tensor, labels: Tensor) -> Tensor:
    """100 where the true class is among the five most likely, else 0: the mean is in percent."""
    best = probabilities.topk(min(5, probabilities.shape[1]), dim=1).indices  # (B, up to 5)
    return 100.0 * (best == labels[:, None]).any(1).float()


def nll(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood of the true class in nats: a wrong answer costs more the surer the model was."""
    true = probabilities.gather(1, labels[:, None])[:, 0]  # (B,)
    return -true.clamp_min(torch.finfo(true.dtype).tiny).log()  # an underflow to 0 would make every mean infinite


METRICS: dict[str, Metric] = {"top5": top5, "nll": nll}
