"""The command line: subcommands over dataclasses, no logic of its own."""

from __future__ import annotations

import dataclasses
import os
import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from diffalign.train.config import ConfigError, TrainConfig, read_yaml
from diffalign.train.presets import PRESETS
from diffalign.train.presets import get as get_preset

USAGE = """diffalign: align generative models with preferences

  diffalign demo                         align the embedded model and see it get better (two minutes on a CPU)
  diffalign train [CONFIG.yaml] [--preset NAME] --model MODEL --data DATA [...]
                                         fine-tune a model on preference pairs
  diffalign presets                      the named runs
  diffalign methods                      what can be trained today
  diffalign doctor                       versions, devices and extras of this installation

diffalign COMMAND --help shows the options of a command."""


@dataclass(frozen=True)
class TrainCommand(TrainConfig):
    """Fine-tune a diffusion model on preference pairs.

    Options come from the preset, then the YAML file, then the command line; the last one wins.
    """

    config: Annotated[str | None, tyro.conf.Positional] = None
    """A YAML file: these same options written down, 'learning_rate: 1e-5'."""
    preset: str | None = None
    """A named run (diffalign presets)."""
    dry_run: bool = False
    """Print the resolved configuration and stop."""
    gpus: int = 1
    """More than one: run again through accelerate launch with that many processes."""


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 2 for a mistake in the call, 1 for a run that failed."""
    argv = sys.argv[1:] if argv is None else argv
    command, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    commands = {"demo": _demo, "train": _train, "presets": _presets, "methods": _methods, "doctor": _doctor}
    if command in ("--help", "-h", "help"):
        print(USAGE)
        return 0
    if command == "--version":
        from diffalign import __version__

        print(__version__)
        return 0
    if command not in commands:
        import difflib

        near = difflib.get_close_matches(command, commands, n=1)
        return _fail(f"unknown command {command!r}" + (f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(commands)}"), 2)
    if "-h" not in rest and "--help" not in rest:
        _quieten()
    try:
        return commands[command](rest)
    except ConfigError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return _fail("interrupted; the same command goes on from the last checkpoint", 130)
    except Exception as error:  # the user sees one line; the traceback on request
        if os.environ.get("DIFFALIGN_TRACEBACK"):
            raise
        known = isinstance(error, ValueError | OSError | RuntimeError | ImportError)
        text = str(error) if known and str(error) else f"{type(error).__name__}: {error}"
        return _fail(f"{text}\n(DIFFALIGN_TRACEBACK=1 shows where)", 1)


def _fail(text: str, code: int) -> int:
    print(f"diffalign: error: {text}", file=sys.stderr)
    return code


def _quieten() -> None:
    """The libraries' own progress bars and notes; ours say what matters."""
    import warnings

    import diffusers
    import transformers

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for module in (diffusers, transformers):
        module.utils.logging.disable_progress_bar()
        module.utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning)


def _demo(argv: list[str]) -> int:
    from diffalign.pipelines.demo import DemoConfig, demo

    config = tyro.cli(DemoConfig, args=argv, prog="diffalign demo")
    summary = demo(config)
    low, high = summary["win_rate_ci"]
    print(
        f"win rate {summary['win_rate']:.3f} [{low:.3f}, {high:.3f}] over {summary['n_prompts']} unseen prompts; "
        f"score {summary['score_base']:.3f} -> {summary['score_aligned']:.3f} of {summary['score_ceiling']:.3f} "
        f"({100 * summary['gap_closed']:.0f} % of the gap), {summary['seconds']:.0f} s"
    )
    for name, control in summary["controls"].items():
        low, high = control["win_rate_ci"]
        print(f"control, {name}: {control['win_rate']:.3f} [{low:.3f}, {high:.3f}]")
    print(f"{config.output_dir}/report.html  {config.output_dir}/summary.json  {summary['training']['aligned']['result']}")
    return 0


def _train(argv: list[str]) -> int:
    command = resolve(argv)
    fields = [field.name for field in dataclasses.fields(TrainConfig)]
    config = TrainConfig(**{name: value for name, value in vars(command).items() if name in fields})
    if command.preset:
        print(get_preset(command.preset))
    if command.dry_run:
        config.checked()
        print(config.to_yaml(), end="")
        return 0
    if command.gpus > 1:
        return _launch(argv, command.gpus)
    from diffalign import methods
    from diffalign.train import train

    settings = config.checked().objective_settings(methods.get(config.method))
    print(f"{config.method}: {settings} (beta in units of the mean-over-latent squared error; margin = -beta/2 * Delta)")
    summary = train(config)
    print(f"{summary['result']}  {config.output_dir}/summary.json  ({summary['seconds']:.0f} s, {len(summary['warnings'])} warnings)")
    return 0


def resolve(argv: list[str]) -> TrainCommand:
    """The command from preset, YAML file and flags, in that order of precedence. Raises ConfigError; exits as argparse does on a bad flag."""
    file = next((token for token in argv[:1] if not token.startswith("-")), None)
    written = read_yaml(file) if file else {}
    name = written.pop("preset", None)
    for i, token in enumerate(argv):
        if token.startswith("--preset"):
            name = token.partition("=")[2] or (argv[i + 1] if i + 1 < len(argv) else "")
    try:
        preset = dict(get_preset(name).values) if name else {}
    except ValueError as error:
        raise ConfigError(str(error)) from None
    command = tyro.cli(TrainCommand, args=[*_flags(written), *argv], default=TrainCommand(**preset, preset=name), prog="diffalign train")
    return command


def _flags(values: dict) -> list[str]:
    """A YAML file's keys and values as the flags they stand for."""
    flags = []
    for key, value in values.items():
        name = "--" + key.replace("_", "-")
        if isinstance(value, bool):
            flags.append(name if value else "--no-" + name[2:])
        elif isinstance(value, dict):
            flags += [name, *(str(part) for item in value.items() for part in item)]
        elif isinstance(value, list):
            flags += [name, *map(str, value)]
        else:
            flags += [name, str(value)]
    return flags


def _launch(argv: list[str], gpus: int) -> int:
    import subprocess

    rest = [token for i, token in enumerate(argv) if token != "--gpus" and (i == 0 or argv[i - 1] != "--gpus") and not token.startswith("--gpus=")]
    return subprocess.call(["accelerate", "launch", "--num_processes", str(gpus), "-m", "diffalign", "train", *rest])


def _presets(argv: list[str]) -> int:
    for preset in PRESETS.values():
        print(preset)
    return 0


def _methods(argv: list[str]) -> int:
    from diffalign import methods

    for method in methods.TABLE.values():
        print(f"{method.name}: {method.formula}\n  {method.paper}; {dict(method.objective_options)}; reference {method.reference}, noising {method.noising}")
    return 0


def _doctor(argv: list[str]) -> int:
    import platform
    from importlib import metadata

    import torch

    print(f"python {platform.python_version()} on {platform.platform()}")
    for name in ("diffalign", "torch", "torchvision", "diffusers", "transformers", "accelerate", "peft", "datasets", "safetensors", "tyro"):
        print(f"{name} {metadata.version(name)}")
    for name, extra in (("open_clip_torch", "rewards"), ("xformers", "xformers"), ("bitsandbytes", "quant"), ("tensorboard", "track")):
        try:
            print(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            print(f"{name} not installed (pip install 'diffalign[{extra}]')")
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(i)
            print(f"GPU {i}: {facts.name}, {facts.total_memory / 2**30:.0f} GiB, bf16 {'yes' if torch.cuda.is_bf16_supported() else 'no'}")
    else:
        print(f"no GPU; CPU with {torch.get_num_threads()} threads")
    return 0
