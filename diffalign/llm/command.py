"""``diffalign train --modality text``: the options of a run on text, and the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffalign.llm.config import TextConfig, problems
from diffalign.train.command import CommandOptions, FileOptions, Modality
from diffalign.train.errors import ConfigError
from diffalign.train.loop import run


@dataclass(frozen=True)
class Written(FileOptions, TextConfig):
    """What a YAML file may hold."""


@dataclass(frozen=True)
class TextCommand(CommandOptions, TextConfig):
    """Fine-tune a causal language model on preference pairs.

    Options come from the preset, then the YAML file, then these flags; the last one wins. A run that was killed goes on when the same
    command is given again.
    """


def train(config: TextConfig, *, quiet: bool = False) -> dict[str, Any]:
    """Run, or go on with, the training of a language model that ``config`` describes. A run that has ended is left as it is.

    Returns:
        the summary that is also written to ``output_dir/summary.json``.

    Raises:
        ConfigError, ImportError: the configuration, the model, the data or an extra that is missing, with what to do.
        TrainingError: numbers that are not finite, or an identity that should hold at the first step and does not.
    """
    from diffalign.llm.setup import build

    if found := problems(config):
        raise ConfigError("\n".join(found))
    return run(config.resolved(), build, quiet=quiet)


TEXT = Modality(TextConfig, Written, TextCommand, problems, TextConfig.objective_line, train)
