"""Checkpoints that are whole or not there, and runs that go on where they were killed, to the same bits.

Every random choice of a step comes from counters, so the state of a run is only: the step, the trained weights, the optimizer, the
learning-rate schedule, the moving averages and the watchers. ``torch.load`` is used with ``weights_only=True``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

from diffalign.train.errors import ConfigError
from diffalign.train.run_config import RunConfig

CONFIG = "config.yaml"  # last of what --fresh replaces: a folder with it holds a run
RUN_FILES = ("metrics.jsonl", "summary.json", "README.md", "lora", "model", "samples", "logs")


def write_text(path: Path, text: str) -> None:
    """The whole file or nothing: written beside it and moved over it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with open(part, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def find(config: RunConfig) -> Path | None:
    """The checkpoint that ``config`` goes on from, if any. Changes nothing.

    Raises:
        ConfigError: the output folder holds a run with another configuration (the differences are listed), or files of a run's names that
            are not a run's.
    """
    folder = Path(config.output_dir)
    stored = folder / CONFIG
    if not stored.exists():
        taken = [folder] if folder.is_file() else [folder / name for name in RUN_FILES if (folder / name).exists()]
        if taken:
            raise ConfigError(f"{', '.join(map(str, taken))} exists and no run of this program wrote it: use another --output-dir")
        return None
    try:
        old = yaml.safe_load(stored.read_text(encoding="utf-8"))
    except yaml.YAMLError:
        old = None
    if not isinstance(old, dict) or not {"model", "data", "output_dir"} <= set(old):
        raise ConfigError(f"{stored} was not written by this program: use another --output-dir")
    if config.fresh:
        return None
    new = config.to_dict()
    old = {**_defaults(config), **old}  # what a version before did not know was as it is unless asked for
    names = [name for name in {**old, **new} if name != "output_dir" and old.get(name) != new.get(name)]
    if names:
        lines = [f"  {name}: {old.get(name)!r} there, {new.get(name)!r} now" for name in names]
        advice = "Use another --output-dir, or --fresh to start over"
        raise ConfigError("\n".join([f"{folder} holds a run with another configuration:", *lines, advice]))
    return latest(folder)


def require_writable(config: RunConfig) -> None:
    """Raise ConfigError where nothing can be written into the output folder, or the cache's. Leaves nothing behind."""
    for option, place in (("output_dir", config.output_dir), ("cache_dir", config.cache_dir)):
        if place is not None:
            _try_to_write(option, Path(place))


def _try_to_write(option: str, folder: Path) -> None:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = error.strerror or error
        raise ConfigError(f"{option} is {folder}, which cannot be written to ({why}): use another --{option.replace('_', '-')}") from None
    finally:
        for path in missing:
            with suppress(OSError):
                path.rmdir()


def _defaults(config: RunConfig) -> dict[str, Any]:
    """field -> default, as the YAML has it."""
    found = {item.name: item.default for item in dataclasses.fields(config) if item.default is not dataclasses.MISSING}
    made = {item.name: item.default_factory() for item in dataclasses.fields(config) if item.default_factory is not dataclasses.MISSING}
    return {name: value for name, value in {**found, **made}.items() if name in config.to_dict()}


def finished(config: RunConfig) -> dict[str, Any] | None:
    """The summary of a run that ended, None while there is something left to do. Call after ``find``."""
    folder = Path(config.output_dir)
    if config.fresh or not (folder / "summary.json").exists():
        return None
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    result = folder / Path(summary["result"]).name  # the folder may have been moved
    return {**summary, "result": str(result)} if result.exists() else None


def claim(config: RunConfig, step: int) -> None:
    """Make the output folder this run's own. ``fresh`` empties it of what a run writes (the cache stays).

    Args:
        step: what the run goes on from, 0 for the beginning. Lines that a killed process wrote about later steps are dropped.
    """
    folder = Path(config.output_dir)
    if config.fresh:
        for entry in [*(folder / name for name in RUN_FILES), *folder.glob("checkpoint-*")]:
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)
    metrics = folder / "metrics.jsonl"
    if metrics.exists():
        whole = [line for line in metrics.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
        write_text(metrics, "".join(line for line in whole if json.loads(line)["step"] <= step))
    write_text(folder / CONFIG, config.to_yaml())


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint: an unfinished one still has the suffix ``.part``."""
    return max(_whole(folder), default=None)


def save(folder: Path, step: int, weights: dict[str, torch.Tensor], state: dict[str, Any], facts: dict[str, Any], keep: int) -> Path:
    """Write ``checkpoint-STEP`` atomically and drop all but the ``keep`` newest.

    Args:
        weights: trained tensors, saved as safetensors. state: tensors and numbers for ``torch.save``. facts: what fits JSON.
    """
    final = folder / f"checkpoint-{step:08d}"
    part = final.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, part / "trainable.safetensors")
    torch.save(state, part / "state.pt")
    (part / "state.json").write_text(json.dumps({"step": step, **facts}), encoding="utf-8")
    for path in part.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    shutil.rmtree(final, ignore_errors=True)
    os.replace(part, final)
    for old in _whole(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def load(checkpoint: Path, device="cpu") -> tuple[dict[str, torch.Tensor], dict[str, Any], dict[str, Any]]:
    """The three parts that ``save`` wrote: weights, state, facts."""
    state = torch.load(checkpoint / "state.pt", map_location=device, weights_only=True)
    facts = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    return load_file(checkpoint / "trainable.safetensors"), state, facts


def _whole(folder: Path) -> list[Path]:
    """The checkpoints that exist whole, oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if path.suffix != ".part"]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))
