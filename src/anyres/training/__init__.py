"""Training: `train(TrainConfig(...))` runs, resumes and finishes a run folder."""

from anyres.training.config import TrainConfig
from anyres.training.engine import TrainResult, train

__all__ = ["TrainConfig", "TrainResult", "train"]
