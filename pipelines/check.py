"""``diffalign check``: everything that a training run needs, tried before it runs, and all that is wrong said together.

It is the trainer's own code on a few records in a folder that is thrown away: the configuration, the data (every picture decoded), the
model, the cache, one step on two records. ``diffalign cache`` encodes, and trains nothing.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffalign.llm.command import TEXT, TextCommand
from diffalign.pipelines.check_data import about_data, about_records, contact_sheet, samples
from diffalign.pipelines.footprint import Always, measure, resident, size
from diffalign.train import checkpoint, setup
from diffalign.train.command import IMAGE, Modality, TrainCommand, asked_modality, read, resolve
from diffalign.train.errors import ConfigError, TrainingError, setting_up
from diffalign.train.loop import Run
from diffalign.train.problems import check_machine
from diffalign.train.records import read_records
from diffalign.train.validate import quiet_libraries

UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


@dataclass(frozen=True)
class CheckCommand(TrainCommand):
    """Try a training run before it runs: configuration, data, model, one step, its memory and time; all problems are said together.

    The options are those of diffalign train. Nothing is left in output_dir. The exit code is 0 where the run can start, else 2.
    """

    sheet: str | None = None
    """A .png of some records as they come out of the cache; default: output_dir with .check.png behind it."""
    decode: bool = True
    """Decode every picture of the data, which finds truncated files; --no-decode reads their headers only."""


@dataclass(frozen=True)
class CheckTextCommand(TextCommand):
    """Try a training run before it runs: configuration, data, model, one step, its memory and time; all problems are said together.

    The options are those of diffalign train. Nothing is left in output_dir. The exit code is 0 where the run can start, else 2.
    """


@dataclass(frozen=True)
class CacheCommand(TrainCommand):
    """Encode the pictures and captions of a training run, and stop: diffalign train with the same options finds them.

    A run of it that was stopped goes on when the same command is given again.
    """


class Findings:
    """``problems``: what is wrong, in the order in which it was found."""

    def __init__(self, problems: list[str]):
        self.problems = list(problems)

    def attempt(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """What the call returns; None where it refuses, which is a problem then."""
        try:
            return call(*args, **options)
        except (ValueError, OSError, ImportError, TrainingError, torch.OutOfMemoryError) as error:
            self.add(str(error))
            return None

    def add(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)


def run(argv: list[str]) -> int:
    """The whole of ``diffalign check``. Raises ConfigError with all problems together."""
    text = asked_modality(argv) == "text"
    modality = dataclasses.replace(TEXT, command=CheckTextCommand, name="check") if text else _images(CheckCommand, "check")
    config, command, found = read(argv, modality)
    findings = Findings(found)
    if not found:
        print(modality.describe(config))
        config = config.resolved()
    findings.attempt(check_machine, config)
    findings.attempt(_claimable, config)
    sound = not findings.problems
    with tempfile.TemporaryDirectory(prefix="diffalign-check-") as scratch, quiet_libraries():
        folders = {"output_dir": f"{scratch}/run", "cache_dir": f"{scratch}/cache", "report_to": "none"}
        trial = dataclasses.replace(config, **folders, **({} if sound else {"mixed_precision": "no"}))
        with setup.accelerated(trial) as accelerator:
            (_check_text if text else _check_images)(config, command, trial, accelerator, findings, sound)
    if findings.problems:
        count = len(findings.problems)
        raise ConfigError("\n".join([f"{count} problem{'s' * (count > 1)}:", *findings.problems]))
    print("no problems: diffalign train can start with these options")
    return 0


def run_cache(argv: list[str]) -> int:
    """The whole of ``diffalign cache``. Raises ConfigError for what is wrong."""
    if asked_modality(argv) == "text":
        raise ConfigError("diffalign cache encodes pictures, and modality is text: --precompute-ref-log-probs caches while training starts")
    config, _ = resolve(argv, _images(CacheCommand, "cache"))
    config = config.resolved()
    device = torch.device("cuda" if config.device == "auto" and torch.cuda.is_available() else "cpu")
    checkpoint.require_writable(config)
    with quiet_libraries(), setting_up():
        train, held_out, notes = read_records(config, config.point())
        print("\n".join(notes))
        model = setup.load_bare(config, device)
        store = setup.store_of(config, model, [*train, *held_out])
        before = store.there()
        left_out = setup.encode(config, model, store, quiet=False)
    for sentence in left_out:
        print(f"left out: {sentence}")
    for name, (had, needed) in before.items():
        print(f"{name}: {needed} needed, {had} were there, {max(0, store.there()[name][0] - had)} made")
    print(store.cache.folder)
    return 0


def _claimable(config) -> None:
    """Whether the run may have its folder. Raises ConfigError."""
    if (last := checkpoint.find(config)) is not None:
        print(f"{config.output_dir} holds this run: diffalign train goes on from {last.name}")
    checkpoint.require_writable(config)


def _images(command: type, name: str) -> Modality:
    return dataclasses.replace(IMAGE, command=command, name=name)


def _check_images(config, command, trial, accelerator, findings: Findings, sound: bool) -> None:
    """Data and model each by itself; where both are there, what a run would make of them."""
    rows = findings.attempt(about_data, config, command.decode, findings.add) if config.data else None
    make = setup.load if sound else setup.load_bare
    model = findings.attempt(make, trial, accelerator.device) if config.model else None
    if rows is None or model is None or not sound:
        return
    print(f"model: {model.family}; encoders, which are there while the cache is filled and validation images are drawn: "
          + readable(size([part for encoder in (model.vae, *model.text_encoders.values()) for part in encoder.parameters()])))  # fmt: skip
    records = findings.attempt(about_records, trial, model, *rows)
    if records is None:
        return
    few = setup.store_of(trial, model, samples(records, config.seed))
    if findings.attempt(setup.encode, trial, model, few, quiet=True) is None:
        return
    path = Path(command.sheet or f"{config.output_dir.rstrip('/')}.check.png")
    if findings.attempt(contact_sheet, model, few, path):
        print(f"contact sheet of {len(few)} records, as they come out of the cache: {path}")
    parts = findings.attempt(setup.assemble, trial, model, few.records, [], [], True)
    if parts is not None:
        print("\n".join(parts.notes))
        alike = [number for number in range(len(few)) if few.bucket_of(number) == few.bucket_of(0)]
        findings.attempt(_one_step, config, command, trial, accelerator, parts, alike[:2], findings)


def _check_text(config, command, trial, accelerator, findings: Findings, sound: bool) -> None:
    from diffalign.llm import setup as llm_setup
    from diffalign.llm.reading import read_texts

    parts = findings.attempt(llm_setup.build, trial, accelerator.device, True) if sound else None
    if parts is None:  # of the data alone, and of the model alone
        if config.data:
            asked = {"columns": config.columns, "ties": config.ties, "split": config.data_split, "on_bad": config.on_bad_data}
            findings.attempt(read_texts, config.data, **asked)
        return
    print("\n".join(parts.notes))
    longest = sorted(range(len(parts.store)), key=parts.store.length)[-2:]
    findings.attempt(_one_step, config, command, trial, accelerator, parts, longest, findings)


def _one_step(config, command, trial, accelerator, parts, indices: list[int], findings: Findings) -> None:
    """One step on two records, and what a step of the run will take of one of its processes."""
    accumulated = min(2, config.gradient_accumulation_steps)
    run = Run(dataclasses.replace(trial, train_batch_size=len(indices)), accelerator, parts, print)
    parts.order = Always(indices, accumulated)
    metrics = run.one_step()
    print(f"one step on {len(indices)} records: loss {metrics['loss']:.6g}, gradient norm {metrics.get('grad_norm', float('nan')):.4g}")
    found = measure(run, indices)
    counted = {name: size(tensors) for name, tensors in resident(parts).items()} | {"gradients": size(parts.trainable.values())}
    batch, accumulation = -(-config.train_batch_size // max(1, command.gpus)), config.gradient_accumulation_steps
    total, seconds = found.bytes_at(batch), found.seconds_at(batch, accumulation)
    listed = ", ".join(f"{name} {readable(counted[name])}" for name in ("weights", "gradients", "optimizer state", "copies"))
    print(f"memory of a step with batches of {batch}: about {readable(total)} ({listed}; the rest activations)")
    print(f"time of a step: about {seconds:.3g} s; of {config.max_train_steps} steps {_duration(seconds * config.max_train_steps)}, "
          "without validation and checkpoints")  # fmt: skip
    if accelerator.device.type == "cuda":
        room = torch.cuda.get_device_properties(accelerator.device).total_memory
        if total > room:
            findings.add(f"a step needs about {readable(total)} and the GPU has {readable(room)}: lower train_batch_size (and raise "
                         "gradient_accumulation_steps), or use gradient_checkpointing, train lora or mixed_precision bf16")  # fmt: skip


def readable(count: int) -> str:
    for unit, name in UNITS:
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count} bytes"


def _duration(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.0f} seconds"
