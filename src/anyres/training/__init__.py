"""Training: `train(TrainConfig(...))` and `pretrain(PretrainConfig(...))` run, resume and finish a run folder."""

from anyres.training.config import PretrainConfig, TrainConfig
from anyres.training.engine import TrainResult, pretrain, train

__all__ = ["PretrainConfig", "TrainConfig", "TrainResult", "pretrain", "train"]
