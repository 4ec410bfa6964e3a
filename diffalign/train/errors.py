"""The two ways in which a run is refused or stopped."""


class ConfigError(ValueError):
    """All the problems of a configuration, one a line. Nothing was trained and no earlier run was touched."""


class TrainingError(RuntimeError):
    """The run cannot go on. The last checkpoint is whole and holds finite weights."""
