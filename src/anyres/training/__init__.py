"""Training: `train(config)` runs, resumes and finishes the run folder of a configuration of any task."""

from typing import TYPE_CHECKING

from anyres.lazy import attach

if TYPE_CHECKING:
    from anyres.training.classification.config import TrainConfig as TrainConfig
    from anyres.training.detection.config import DetectionConfig as DetectionConfig
    from anyres.training.engine import TrainResult as TrainResult, train as train
    from anyres.training.pretraining.config import PretrainConfig as PretrainConfig
    from anyres.training.records.config import RecordsConfig as RecordsConfig
    from anyres.training.segmentation.config import SegmentationConfig as SegmentationConfig
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "anyres.training.classification.config": ("TrainConfig",),
            "anyres.training.detection.config": ("DetectionConfig",),
            "anyres.training.engine": ("TrainResult", "train"),
            "anyres.training.pretraining.config": ("PretrainConfig",),
            "anyres.training.records.config": ("RecordsConfig",),
            "anyres.training.segmentation.config": ("SegmentationConfig",),
        },
    )
