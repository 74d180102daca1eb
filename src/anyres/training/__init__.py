"""Training: `train(TrainConfig(...))` and `pretrain(PretrainConfig(...))` run, resume and finish a run folder."""

from anyres.training.classification.config import TrainConfig
from anyres.training.engine import TrainResult, pretrain, train
from anyres.training.pretraining.config import PretrainConfig

__all__ = ["PretrainConfig", "TrainConfig", "TrainResult", "pretrain", "train"]
