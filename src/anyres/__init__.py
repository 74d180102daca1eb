"""anyres: vision transformers for images of any resolution (ViTAR, arXiv 2403.18361)."""

from typing import TYPE_CHECKING

from anyres.lazy import attach

if TYPE_CHECKING:
    from anyres.costs.cost import Cost as Cost, cost as cost
    from anyres.costs.largest import largest_size as largest_size
    from anyres.models.mae import MaskedAutoencoder as MaskedAutoencoder
    from anyres.models.mae_config import MAEConfig as MAEConfig
    from anyres.models.presets import create_model as create_model, list_models as list_models
    from anyres.models.vitar import Features as Features, ViTAR as ViTAR, ViTARConfig as ViTARConfig
    from anyres.models.weights.files import (
        load_mae as load_mae,
        load_model as load_model,
        save_mae as save_mae,
        save_model as save_model,
    )
    from anyres.streaming.stream import bright_background as bright_background, stream as stream
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "anyres.costs.cost": ("Cost", "cost"),
            "anyres.costs.largest": ("largest_size",),
            "anyres.models.mae": ("MaskedAutoencoder",),
            "anyres.models.mae_config": ("MAEConfig",),
            "anyres.models.presets": ("create_model", "list_models"),
            "anyres.models.vitar": ("Features", "ViTAR", "ViTARConfig"),
            "anyres.models.weights.files": ("load_mae", "load_model", "save_mae", "save_model"),
            "anyres.streaming.stream": ("bright_background", "stream"),
        },
    )
