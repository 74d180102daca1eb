"""Ablations: the tables of the paper in miniature, trained with several seeds, measured and drawn by one command."""

from typing import TYPE_CHECKING

from anyres.lazy import attach

if TYPE_CHECKING:
    from anyres.ablation.config import AblateConfig as AblateConfig
    from anyres.ablation.runner import ablate as ablate
    from anyres.ablation.studies import STUDIES as STUDIES
    from anyres.ablation.study import Study as Study, Variant as Variant
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "anyres.ablation.config": ("AblateConfig",),
            "anyres.ablation.runner": ("ablate",),
            "anyres.ablation.studies": ("STUDIES",),
            "anyres.ablation.study": ("Study", "Variant"),
        },
    )
