"""What a name stands for where a training run or an adapter may be named as well as a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from diffalign.models.lora_files import FILE, PEFT_FILE
from diffalign.models.places import embedded

CONFIG = "config.yaml"  # of a run of diffalign train: it names the model


@dataclass(frozen=True)
class Found:
    """What a name stands for.

    base: what ``load_model`` takes. trained_from: the model a run started from, where one is known; it decides the sampling of a world.
    adapter: the file of the adapter's weights. options: further ones of ``load_model``, as the run had them.
    """

    base: str
    trained_from: str
    adapter: Path | None = None
    options: dict[str, Any] = field(default_factory=dict)


def find(name: str, adapter: str | None = None, base: str | None = None) -> Found:
    """What ``name`` and ``adapter`` stand for.

    Args:
        name: what ``load_model`` takes; or the folder of a run of ``diffalign train``, or of its adapter (``lora``), or the adapter's file:
            these go with the model that the run's config.yaml names.
        adapter: a run, adapter folder or .safetensors file for the model ``name``. base: the model of an adapter that has no run around it.

    Raises ValueError for an adapter whose model is not known, a run of another modality or without a result, and options that do not fit.
    """
    place = Path(name).expanduser()
    is_model = (place / "model_index.json").is_file()
    is_run = (place / CONFIG).is_file() and not is_model
    own = _adapter_file(place) if not is_model and (place.is_dir() or place.name in (FILE, PEFT_FILE)) else None
    if not is_run and own is None:
        if base is not None:
            raise ValueError(f"base is {base!r}, and '{name}' is no adapter, which would need one: give --model {base} --adapter {name}")
        return Found(name, name, None if adapter is None else _adapter_of(adapter))
    if adapter is not None:
        raise ValueError(f"'{name}' is an adapter or a run already: give its model as --model, and one adapter")
    run = place if is_run else own.parent.parent
    config = _config(run / CONFIG)
    full = run / "model"
    if is_run and own is None and full.is_dir():
        if base is not None:
            raise ValueError(f"base is {base!r}, and '{name}' trained all weights of its model, {full}: leave it out")
        world = embedded(config["model"])
        length = config.get("max_sequence_length") or (world and world.max_sequence_length)
        return Found(str(full), config["model"], None, {} if length is None else {"max_sequence_length": length})
    if own is None:
        raise ValueError(f"'{name}' is a run without a result: neither {run / 'lora'} nor {full} is there; let it end first")
    if base is not None:
        return Found(base, base, own)
    if not config:
        raise ValueError(f"'{name}' is an adapter, and no {run / CONFIG} says of which model: name it with --base MODEL")
    options = {"config": config.get("model_config"), **{key: config.get(key) for key in ("vae", "variant", "max_sequence_length")}}
    return Found(config["model"], config["model"], own, {key: value for key, value in options.items() if value is not None})


def _adapter_of(given: str) -> Path:
    """The file of an adapter that is named by a run, a folder or a file."""
    place = Path(given).expanduser()
    file = place if place.is_file() and place.suffix == ".safetensors" else _adapter_file(place)
    if file is None:
        raise ValueError(f"adapter '{given}': there is no {FILE} or {PEFT_FILE} in it or in its folder lora: pass what training wrote")
    return file


def _adapter_file(place: Path) -> Path | None:
    """The weights of an adapter that is the file ``place``, or lies in the folder, or in ``lora`` of it."""
    if place.is_file():
        return place
    files = (folder / file for folder in (place, place / "lora") for file in (FILE, PEFT_FILE))
    return next((file for file in files if file.is_file()), None)


def _config(path: Path) -> dict[str, Any]:
    """A run's configuration, {} where there is none; ValueError for that of another modality."""
    config = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if (modality := config.get("modality", "image")) != "image":
        raise ValueError(f"{path} is of a run of modality {modality}, and a model of images is asked for: name a run that trained one")
    return config
