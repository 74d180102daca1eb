"""Whole runs as Python functions: what they do, on what, for how long, and what to expect."""

from typing import TYPE_CHECKING

from anyres.lazy import attach

if TYPE_CHECKING:
    from anyres.recipes.beyond import hold_beyond as hold_beyond
    from anyres.recipes.demo import (
        SMALL_MODEL as SMALL_MODEL,
        SWEEP_SIZES as SWEEP_SIZES,
        TRAINING_SIZES as TRAINING_SIZES,
        demo_training as demo_training,
        learn_detail as learn_detail,
    )
    from anyres.recipes.demo_config import DemoConfig as DemoConfig
    from anyres.recipes.hours import expected_macs as expected_macs, training_hours as training_hours
    from anyres.recipes.table import (
        RECIPES as RECIPES,
        RecipeConfig as RecipeConfig,
        describe as describe,
        recipe as recipe,
    )
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "anyres.recipes.beyond": ("hold_beyond",),
            "anyres.recipes.demo": ("SMALL_MODEL", "SWEEP_SIZES", "TRAINING_SIZES", "demo_training", "learn_detail"),
            "anyres.recipes.demo_config": ("DemoConfig",),
            "anyres.recipes.hours": ("expected_macs", "training_hours"),
            "anyres.recipes.table": ("RECIPES", "RecipeConfig", "describe", "recipe"),
        },
    )
