"""``diffalign train``: one resolved configuration from a preset, a YAML file and flags; the last one wins."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from diffalign.train import presets
from diffalign.train.config import TrainConfig
from diffalign.train.errors import ConfigError
from diffalign.train.fields import fitting, read_yaml
from diffalign.train.launch import launch, processes_problem
from diffalign.train.problems import check_machine, problems
from diffalign.train.ranks import said_once

NO_REFERENCE = {"--reference": ", or write --reference none for no reference"}
MODALITIES = ("image", "text")
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
    gpus: Annotated[int, tyro.conf.arg(aliases=["--num-processes"])] = 1
    """GPUs of this machine to train with, one process each (with --device cpu: processes on the CPU). They share train_batch_size, and the
    result is that of one. Under accelerate launch or torchrun leave it out."""


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
    with a configuration. describe: a configuration -> the line said before it runs. train: a checked one -> the summary. name: of the
    command, for its help.
    """

    config: type
    written: type
    command: type
    problems: Callable[[Any], list[str]]
    describe: Callable[[Any], str]
    train: Callable[[Any], dict[str, Any]]
    name: str = "train"


def asked_modality(argv: list[str]) -> str | None:
    """The modality that the flags, or else a YAML file among them, ask for; None where nothing does. Raises ConfigError for a file that
    cannot be read, and for a modality that there is not."""
    asked = _asked(argv)
    if asked not in (None, "", *MODALITIES):
        raise ConfigError(f"modality is {asked!r}; it must be one of {', '.join(MODALITIES)}")
    return asked


def _asked(argv: list[str]) -> str | None:
    for flag, value in zip(argv, [*argv, ""][1:], strict=True):
        if flag == "--modality" or flag.startswith("--modality="):
            return flag.partition("=")[2] or value
    files = [value for value in argv if not value.startswith("-") and value.endswith((".yaml", ".yml"))]
    return read_yaml(files[0]).get("modality") if files else None


def resolve(argv: list[str], modality: Modality | None = None) -> tuple[Any, Any]:
    """The checked configuration, and the command it came from.

    Raises:
        ConfigError: all problems together. SystemExit: a flag that does not exist or does not parse, after tyro has said so; and --help.
    """
    config, command, found = read(argv, modality or IMAGE)
    if found:
        raise ConfigError("\n".join(found))
    return config, command


def read(argv: list[str], modality: Modality) -> tuple[Any, Any, list[str]]:
    """(configuration, the command it came from, a sentence for everything wrong with them). Values of a file that do not fit their option
    are left at its default. Raises as ``resolve``, but for the problems; ConfigError where there is nothing to go on with."""
    asked = _parse(argv, {}, modality)
    written, found = fitting(modality.written, read_yaml(asked.config)) if asked.config else ({}, [])
    found = [f"{asked.config}: {problem}" for problem in found]
    values = dict(written)
    if name := asked.preset or written.get("preset"):
        try:
            values = {**presets.get(name).values, **written, "preset": name}
        except ValueError as error:
            raise ConfigError("\n".join([*found, str(error)])) from None  # without it the rest would only seem to be missing
    command = _parse(argv, values, modality)
    config = modality.config(**{field.name: vars(command)[field.name] for field in dataclasses.fields(modality.config)})
    found += modality.problems(config)
    found += processes_problem(command.gpus, on_cpu=config.device == "cpu")
    return config, command, found


def run(argv: list[str], modality: Modality | None = None) -> int:
    """The whole command; returns the exit code."""
    modality = modality or IMAGE
    with said_once():
        config, command = resolve(argv, modality)
    if command.gpus > 1 and "WORLD_SIZE" not in os.environ and not command.dry_run:
        check_machine(config)
        return launch(argv, command.gpus)
    if os.environ.get("RANK", "0") != "0":  # one of several processes, of which the first speaks
        if not command.dry_run:
            modality.train(config)
        return 0
    if command.preset:
        print(presets.get(command.preset), file=sys.stderr)
    if command.dry_run:
        print(config.resolved().to_yaml(), end="")
        return 0
    print(modality.describe(config))
    summary = modality.train(config)
    print(f"{summary['result']}  {config.output_dir}/summary.json  ({summary['seconds']:.0f} s, {len(summary['warnings'])} warnings)")
    return 0


def _parse(argv: list[str], values: dict, modality: Modality) -> Any:
    """The command whose defaults are ``values``."""
    for flag, value in zip(argv, argv[1:], strict=False):
        if value == "None" and flag.startswith("--"):  # tyro would take it for the default, which `--reference None` does not mean
            raise ConfigError(f"{flag} is None, which is no value: leave the option out for its default" + NO_REFERENCE.get(flag, ""))
    kept = {name: values[name] for name in MAPPINGS if name in values}
    plain = {name: value for name, value in values.items() if name not in kept}
    command = tyro.cli(modality.command, args=argv, default=modality.command(**plain), prog=f"diffalign {modality.name}")
    return dataclasses.replace(command, **{name: value for name, value in kept.items() if not vars(command)[name]})


def _describe(config: TrainConfig) -> str:
    return f"{config.method}: {config.objective_line()}"


def _train(config: TrainConfig) -> dict[str, Any]:
    from diffalign.train.loop import train

    return train(config)


IMAGE = Modality(TrainConfig, Written, TrainCommand, problems, _describe, _train)
