"""Training: one configuration, one loop."""

from diffalign.train.config import TrainConfig
from diffalign.train.errors import ConfigError, TrainingError
from diffalign.train.loop import train

__all__ = ["ConfigError", "TrainConfig", "TrainingError", "train"]
