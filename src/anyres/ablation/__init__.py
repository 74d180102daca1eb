"""Ablations: the tables of the paper in miniature, trained with several seeds, measured and drawn by one command."""

from anyres.ablation.config import AblateConfig
from anyres.ablation.runner import ablate
from anyres.ablation.studies import STUDIES, Study, Variant

__all__ = ["STUDIES", "AblateConfig", "Study", "Variant", "ablate"]
