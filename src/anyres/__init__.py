"""anyres: vision transformers for images of any resolution (ViTAR, arXiv 2403.18361)."""

from anyres.costs.cost import Cost, cost
from anyres.costs.largest import largest_size
from anyres.models.mae import MaskedAutoencoder
from anyres.models.mae_config import MAEConfig
from anyres.models.presets import create_model, list_models
from anyres.models.vitar import Features, ViTAR, ViTARConfig
from anyres.models.weights.files import load_mae, load_model, save_mae, save_model
from anyres.streaming.stream import bright_background, stream

__all__ = [
    "Cost",
    "Features",
    "MAEConfig",
    "MaskedAutoencoder",
    "ViTAR",
    "ViTARConfig",
    "bright_background",
    "cost",
    "create_model",
    "largest_size",
    "list_models",
    "load_mae",
    "load_model",
    "save_mae",
    "save_model",
    "stream",
]
