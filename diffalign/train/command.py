"""``diffalign train``: one resolved configuration from a preset, a YAML file and flags; the last one wins."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from diffalign.train import presets
from diffalign.train.config import TrainConfig
from diffalign.train.errors import ConfigError
from diffalign.train.fields import fitting, read_yaml
from diffalign.train.problems import SEVERAL_PROCESSES, problems

MAPPINGS = ("columns", "objective_options")  # tyro would turn the entries of a default into flags of their own


@dataclass(frozen=True)
class Written(TrainConfig):
    """What a YAML file may hold."""

    preset: str | None = None
    """A named run to start from (diffalign presets lists them)."""


@dataclass(frozen=True)
class TrainCommand(Written):
    """Fine-tune a diffusion model on preference pairs.

    Options come from the preset, then the YAML file, then these flags; the last one wins. A run that was killed goes on when the same
    command is given again.
    """

    config: Annotated[str | None, tyro.conf.Positional] = None
    """A YAML file: these same options written down, such as 'learning_rate: 1e-5'."""
    dry_run: bool = False
    """Print the resolved configuration as YAML and stop."""
    gpus: int = 1
    """Processes to train with; more than one comes with a later version."""


def resolve(argv: list[str]) -> tuple[TrainConfig, TrainCommand]:
    """The checked configuration, and the command it came from.

    Raises:
        ConfigError: all problems together. SystemExit: a flag that does not exist or does not parse, after tyro has said so; and --help.
    """
    asked = _parse(argv, {})
    written, found = fitting(Written, read_yaml(asked.config)) if asked.config else ({}, [])
    found = [f"{asked.config}: {problem}" for problem in found]
    values = dict(written)
    if name := asked.preset or written.get("preset"):
        try:
            values = {**presets.get(name).values, **written, "preset": name}
        except ValueError as error:
            found.append(str(error))
    command = _parse(argv, values)
    config = TrainConfig(**{field.name: vars(command)[field.name] for field in dataclasses.fields(TrainConfig)})
    found += problems(config)
    if command.gpus != 1:
        found.append(SEVERAL_PROCESSES.format(command.gpus))
    if found:
        raise ConfigError("\n".join(found))
    return config, command


def run(argv: list[str]) -> int:
    """The whole command; returns the exit code."""
    from diffalign.train.config import BETA_UNIT
    from diffalign.train.loop import train

    config, command = resolve(argv)
    if command.preset:
        print(presets.get(command.preset), file=sys.stderr)
    if command.dry_run:
        print(config.resolved().to_yaml(), end="")
        return 0
    settings = ", ".join(f"{name} = {value:g}" for name, value in config.point().objective_options.items())
    print(f"{config.method}: {settings} ({BETA_UNIT})" if settings else config.method)
    summary = train(config)
    print(f"{summary['result']}  {config.output_dir}/summary.json  ({summary['seconds']:.0f} s, {len(summary['warnings'])} warnings)")
    return 0


def _parse(argv: list[str], values: dict) -> TrainCommand:
    """The command whose defaults are ``values``."""
    kept = {name: values[name] for name in MAPPINGS if name in values}
    plain = {name: value for name, value in values.items() if name not in kept}
    command = tyro.cli(TrainCommand, args=argv, default=TrainCommand(**plain), prog="diffalign train")
    return dataclasses.replace(command, **{name: value for name, value in kept.items() if not vars(command)[name]})
