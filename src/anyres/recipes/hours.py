"""How long a training run takes on given hardware: counted multiply-accumulates divided by a measured rate."""

from collections import Counter

from anyres.evaluation.cost import macs_by_part
from anyres.models.presets import get_config
from anyres.training.config import TrainConfig

FORWARD_AND_BACKWARD = 3
"""A training step costs three forward passes: the backward pass makes two products for each of the forward pass."""


def forward_macs(config: TrainConfig) -> float:
    """Multiply-accumulates of the forward pass of one image, its replicas included, averaged over the run's steps.

    Counted as `evaluation.cost` counts "executed" ones, with a head for the 1000 classes of ImageNet unless the model
    options say otherwise; random extra passes of the merger are left out.
    """
    model, schedule = get_config(config.model, **config.overrides()), config.schedule()
    counts = Counter(size for step in range(config.steps) for size in schedule.sizes_at(step))
    return sum(count * sum(macs_by_part(model, size).values()) for size, count in counts.items()) / config.steps


def training_hours(config: TrainConfig, macs_per_second: float) -> float:
    """hours = 3 * forward MACs per image * images / (sustained MACs per second) / 3600, without validation.

    Args:
        config: the run.
        macs_per_second: what the hardware sustains over whole training steps, of several devices together.

    Raises:
        ValueError: a rate that is not above 0.
    """
    if not macs_per_second > 0:
        raise ValueError(f"macs_per_second is {macs_per_second}; allowed: above 0, such as 1.5e13 for one RTX 3090")
    images = config.steps * config.batch_size
    return FORWARD_AND_BACKWARD * forward_macs(config) * images / macs_per_second / 3600
