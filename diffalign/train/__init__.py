"""Training: one configuration, one loop."""

from diffalign.train.config import ConfigError, TrainConfig
from diffalign.train.loop import TrainingError, train

__all__ = ["ConfigError", "TrainConfig", "TrainingError", "train"]
