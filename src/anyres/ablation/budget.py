"""What the runs of a study may cost, and which sizes they train at: for variants that are compared at equal cost."""

from __future__ import annotations

import math

from anyres.recipes import expected_macs
from anyres.sizes import SideRange
from anyres.training.classification.config import TrainConfig

CLASSES = 10
"""Of both synthetic sets: the digits."""


def equal_cost_steps(reference: TrainConfig, config: TrainConfig) -> int:
    """How many steps of `config` cost as much as all the steps of `reference`, at least 2; batches are as large.

    By the products of the plain structure, so that a faster form of the merger does not make it another study.
    """
    costs = [expected_macs(one, CLASSES, "plain") for one in (reference, config)]
    return max(2, round(reference.steps * costs[0] / costs[1]))


def largest_side(config: TrainConfig) -> int:
    """The side in pixels of the square with as many pixels as the largest that any step can have."""
    return max(round(math.sqrt(height * width)) for height, width in config.parsed_sizes())


def is_trained(config: TrainConfig, side: int) -> bool:
    """Whether squares of that side are among the training sizes, as an entry of their own or within a range."""
    for entry in config.size_entries():
        if entry.low <= side <= entry.high if isinstance(entry, SideRange) else entry == (side, side):
            return True
    return False
