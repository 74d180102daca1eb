"""anyres: vision transformers for images of any resolution (ViTAR, arXiv 2403.18361)."""

from typing import TYPE_CHECKING

from anyres.lazy import attach

if TYPE_CHECKING:
    from anyres.costs.cost import Cost as Cost, cost as cost
    from anyres.costs.largest import largest_size as largest_size
    from anyres.exporting.export import export as export
    from anyres.models.architectures import create_model as create_model, list_models as list_models
    from anyres.models.config import ViTARConfig as ViTARConfig
    from anyres.models.features import Features as Features
    from anyres.models.mae import MaskedAutoencoder as MaskedAutoencoder
    from anyres.models.mae_config import MAEConfig as MAEConfig
    from anyres.models.upgrade import upgrade as upgrade
    from anyres.models.vitar import ViTAR as ViTAR
    from anyres.models.weights.adapter import load_adapter as load_adapter, save_adapter as save_adapter
    from anyres.models.weights.files import load as load, save as save
    from anyres.models.weights.load_timm import load_timm as load_timm
    from anyres.predict.predictor import Predictor as Predictor
    from anyres.streaming.stream import bright_background as bright_background, stream as stream
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "anyres.costs.cost": ("Cost", "cost"),
            "anyres.costs.largest": ("largest_size",),
            "anyres.exporting.export": ("export",),
            "anyres.models.mae": ("MaskedAutoencoder",),
            "anyres.models.mae_config": ("MAEConfig",),
            "anyres.models.architectures": ("create_model", "list_models"),
            "anyres.models.config": ("ViTARConfig",),
            "anyres.models.features": ("Features",),
            "anyres.models.upgrade": ("upgrade",),
            "anyres.models.vitar": ("ViTAR",),
            "anyres.models.weights.adapter": ("load_adapter", "save_adapter"),
            "anyres.models.weights.files": ("load", "save"),
            "anyres.models.weights.load_timm": ("load_timm",),
            "anyres.predict.predictor": ("Predictor",),
            "anyres.streaming.stream": ("bright_background", "stream"),
        },
    )
