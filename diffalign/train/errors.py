"""The ways in which a run is refused or stopped."""

from collections.abc import Iterator
from contextlib import contextmanager


class ConfigError(ValueError):
    """All the problems of a configuration, one a line. Nothing was trained and no earlier run was touched."""


@contextmanager
def setting_up() -> Iterator[None]:
    """Until the first step a ValueError, or a file that is not there, is a mistake in what was asked for: it goes on as a ConfigError."""
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(str(error)) from error


class TrainingError(RuntimeError):
    """The run cannot go on. The last checkpoint is whole and holds finite weights."""


class Elsewhere(RuntimeError):
    """Another process of the run stopped with an error and says so: this one ends without a word, with that one's exit code.

    Args:
        code: that exit code. rank: which process it is.
    """

    def __init__(self, code: int, rank: int):
        super().__init__(f"process {rank} stopped with an error (exit code {code})")
        self.code, self.rank = code, rank
