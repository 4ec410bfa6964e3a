"""Checkpoints that are whole or not there, and runs that go on where they were killed, to the same bits.

Every random choice of a step comes from counters, so the state of a run is only: the step, the trained weights, the optimizer, the
learning-rate schedule, the moving averages and the watchers. ``torch.load`` is used with ``weights_only=True``.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from diffalign.train.config import ConfigError, TrainConfig

RUN_FILES = ("config.yaml", "metrics.jsonl", "summary.json", "README.md", "lora", "model", "samples", "logs")


def write_text(path: Path, text: str) -> None:
    """The whole file or nothing: written beside it and moved over it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with open(part, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def claim(config: TrainConfig) -> Path | None:
    """Make the output folder this run's own, and return the checkpoint to go on from, if any.

    A folder with the identical resolved configuration is resumed; ``fresh`` empties it of what a run writes (the cache stays).

    Raises:
        ConfigError: the folder holds a run with another configuration; the differences are listed.
    """
    folder = Path(config.output_dir)
    stored = folder / "config.yaml"
    if config.fresh:
        for entry in [*(folder / name for name in RUN_FILES), *folder.glob("checkpoint-*")]:
            shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)
    elif stored.exists() and stored.read_text() != config.to_yaml():
        import yaml

        old, new = yaml.safe_load(stored.read_text()) or {}, config.to_dict()
        lines = [f"  {key}: {old.get(key)!r} there, {new.get(key)!r} now" for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
        raise ConfigError(
            f"{folder} holds a run with another configuration:\n" + "\n".join(lines) + "\nUse another --output-dir, or --fresh to start over"
        )
    write_text(stored, config.to_yaml())
    return latest(folder)


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint: an unfinished one still has the suffix ``.part``."""
    found = [path for path in folder.glob("checkpoint-*") if path.suffix != ".part"]
    return max(found, key=lambda path: int(path.name.split("-")[1]), default=None)


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
    (part / "state.json").write_text(json.dumps({"step": step, **facts}))
    for path in part.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    shutil.rmtree(final, ignore_errors=True)
    os.replace(part, final)
    for old in sorted(path for path in folder.glob("checkpoint-*") if path.suffix != ".part")[:-keep]:
        shutil.rmtree(old)
    return final


def load(checkpoint: Path, device="cpu") -> tuple[dict[str, torch.Tensor], dict[str, Any], dict[str, Any]]:
    """The three parts that ``save`` wrote: weights, state, facts."""
    state = torch.load(checkpoint / "state.pt", map_location=device, weights_only=True)
    return load_file(checkpoint / "trainable.safetensors"), state, json.loads((checkpoint / "state.json").read_text())
