"""``diffalign train``: one resolved configuration from a preset, a YAML file and flags; the last one wins."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from diffalign.train import presets
from diffalign.train.config import TrainConfig
from diffalign.train.errors import ConfigError
from diffalign.train.fields import fitting, read_yaml
from diffalign.train.problems import SEVERAL_PROCESSES, problems

NO_REFERENCE = {"--reference": ", or write --reference none for no reference"}
MAPPINGS = ("columns", "objective_options")  # tyro would turn the entries of a default into flags of their own


@dataclass(frozen=True)
class FileOptions:
    preset: str | None = None
    """A named run to start from (diffalign presets lists them)."""


@dataclass(frozen=True)
class CommandOptions(FileOptions):
    config: Annotated[str | None, tyro.conf.Positional] = None
    """A YAML file: these same options written down, such as 'learning_rate: 1e-5'."""
    dry_run: bool = False
    """Print the resolved configuration as YAML and stop."""
    gpus: int = 1
    """Processes to train with; more than one comes with a later version."""


@dataclass(frozen=True)
class Written(FileOptions, TrainConfig):
    """What a YAML file may hold."""


@dataclass(frozen=True)
class TrainCommand(CommandOptions, TrainConfig):
    """Fine-tune a diffusion model on preference pairs (a language model: --modality text).

    Options come from the preset, then the YAML file, then these flags; the last one wins. A run that was killed goes on when the same
    command is given again.
    """


@dataclass(frozen=True)
class Modality:
    """How ``diffalign train`` reads the options of a modality, and what it does with them.

    config: the class of its runs. written, command: that class with the options of a file and of the command line. problems: what is wrong
    with a configuration. describe: a configuration -> the line said before it runs. train: a checked one -> the summary.
    """

    config: type
    written: type
    command: type
    problems: Callable[[Any], list[str]]
    describe: Callable[[Any], str]
    train: Callable[[Any], dict[str, Any]]


def asked_modality(argv: list[str]) -> str | None:
    """The modality that the flags, or else a YAML file among them, ask for; None where nothing does. Raises ConfigError for a file that
    cannot be read."""
    for flag, value in zip(argv, [*argv[1:], ""], strict=True):
        if flag == "--modality" or flag.startswith("--modality="):
            return flag.partition("=")[2] or value
    files = [value for value in argv if not value.startswith("-") and value.endswith((".yaml", ".yml"))]
    return read_yaml(files[0]).get("modality") if files else None


def resolve(argv: list[str], modality: Modality | None = None) -> tuple[Any, Any]:
    """The checked configuration, and the command it came from.

    Raises:
        ConfigError: all problems together. SystemExit: a flag that does not exist or does not parse, after tyro has said so; and --help.
    """
    modality = modality or IMAGE
    asked = _parse(argv, {}, modality.command)
    written, found = fitting(modality.written, read_yaml(asked.config)) if asked.config else ({}, [])
    found = [f"{asked.config}: {problem}" for problem in found]
    values = dict(written)
    if name := asked.preset or written.get("preset"):
        try:
            values = {**presets.get(name).values, **written, "preset": name}
        except ValueError as error:
            raise ConfigError("\n".join([*found, str(error)])) from None  # without it the rest would only seem to be missing
    command = _parse(argv, values, modality.command)
    config = modality.config(**{field.name: vars(command)[field.name] for field in dataclasses.fields(modality.config)})
    found += modality.problems(config)
    if command.gpus != 1:
        found.append(SEVERAL_PROCESSES.format(command.gpus))
    if found:
        raise ConfigError("\n".join(found))
    return config, command


def run(argv: list[str], modality: Modality | None = None) -> int:
    """The whole command; returns the exit code."""
    modality = modality or IMAGE
    config, command = resolve(argv, modality)
    if command.preset:
        print(presets.get(command.preset), file=sys.stderr)
    if command.dry_run:
        print(config.resolved().to_yaml(), end="")
        return 0
    print(modality.describe(config))
    summary = modality.train(config)
    print(f"{summary['result']}  {config.output_dir}/summary.json  ({summary['seconds']:.0f} s, {len(summary['warnings'])} warnings)")
    return 0


def _parse(argv: list[str], values: dict, kind: type) -> Any:
    """The command whose defaults are ``values``."""
    for flag, value in zip(argv, argv[1:], strict=False):
        if value == "None" and flag.startswith("--"):  # tyro would take it for the default, which `--reference None` does not mean
            raise ConfigError(f"{flag} is None, which is no value: leave the option out for its default" + NO_REFERENCE.get(flag, ""))
    kept = {name: values[name] for name in MAPPINGS if name in values}
    plain = {name: value for name, value in values.items() if name not in kept}
    command = tyro.cli(kind, args=argv, default=kind(**plain), prog="diffalign train")
    return dataclasses.replace(command, **{name: value for name, value in kept.items() if not vars(command)[name]})


def _describe(config: TrainConfig) -> str:
    return f"{config.method}: {config.objective_line()}"


def _train(config: TrainConfig) -> dict[str, Any]:
    from diffalign.train.loop import train

    return train(config)


IMAGE = Modality(TrainConfig, Written, TrainCommand, problems, _describe, _train)
