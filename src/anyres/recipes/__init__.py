"""Whole runs as Python functions: what they do, on what, for how long, and what to expect."""

from anyres.recipes.beyond import hold_beyond
from anyres.recipes.demo import (
    SMALL_MODEL,
    SWEEP_SIZES,
    TRAINING_SIZES,
    DemoConfig,
    demo,
    demo_training,
    fast_precision,
    learn_detail,
)
from anyres.recipes.hours import expected_macs, training_hours
from anyres.recipes.table import RECIPES, RecipeConfig, describe, recipe

__all__ = [
    "RECIPES",
    "SMALL_MODEL",
    "SWEEP_SIZES",
    "TRAINING_SIZES",
    "DemoConfig",
    "RecipeConfig",
    "demo",
    "demo_training",
    "describe",
    "expected_macs",
    "fast_precision",
    "hold_beyond",
    "learn_detail",
    "recipe",
    "training_hours",
]
