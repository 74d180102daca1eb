"""anyres: vision transformers for images of any resolution (ViTAR, arXiv 2403.18361)."""

from anyres.models.presets import create_model, list_models

__all__ = ["create_model", "list_models"]
