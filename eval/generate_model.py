"""What draws pictures: a stock pipeline from a model's name, an adapter, or the folder of a training run."""

from __future__ import annotations

import hashlib
import inspect
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from diffalign.models import load_model, lora
from diffalign.models.base import DiffusionModel
from diffalign.models.lora_files import FILE, PEFT_FILE
from diffalign.models.parts import fingerprint
from diffalign.models.places import embedded
from diffalign.rewards.base import sha256
from diffalign.train.validate import quiet_libraries
from diffalign.worlds import shapes

CONFIG = "config.yaml"  # of a run of diffalign train: it names the model
BATCH, BATCH_OF_A_WORLD = 4, 64  # pictures a call unless told


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


@dataclass(frozen=True)
class Drawer:
    """A stock pipeline, with what its pictures depend on.

    identity: family, hashes of denoiser, VAE and adapter, sampler and dtype: equal where the same calls give the same pictures.
    defaults: ``num_inference_steps`` and the guidance scale unless told: a world's own, else the pipeline's.
    about: names and places, for the reader. batch_size: pictures a call unless told.
    """

    model: DiffusionModel
    pipeline: Any
    name: str
    identity: dict[str, Any]
    defaults: dict[str, Any]
    about: dict[str, Any]
    batch_size: int

    def arguments(self, prompts: list[str], height: int, width: int) -> dict[str, Any]:
        """``sampling_arguments`` of one call with several prompts: texts and lists one a prompt, all else the same for all."""
        each = [self.model.sampling_arguments(prompt, height, width) for prompt in prompts]
        joined = dict(each[0])
        for name, value in each[0].items():
            if isinstance(value, str):
                joined[name] = [arguments[name] for arguments in each]
            elif isinstance(value, list):
                joined[name] = [part for arguments in each for part in arguments[name]]
        return joined


def find(name: str, adapter: str | None = None, base: str | None = None) -> Found:
    """What ``name`` and ``adapter`` stand for.

    Args:
        name: what ``load_model`` takes; or the folder of a run of ``diffalign train``, or of its adapter (``lora``), or the adapter's file:
            these are drawn with the model that the run's config.yaml names.
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


def load_drawer(
    name: str, *, adapter: str | None = None, base: str | None = None, dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu", **options: Any,
) -> Drawer:
    """A pipeline that draws. ``name``, ``adapter`` and ``base`` as in ``find``; ``options`` of ``load_model``. Errors as of both."""
    found = find(name, adapter, base)
    given = {key: value for key, value in options.items() if value is not None}
    with quiet_libraries():
        model = load_model(found.base, dtype=dtype, device=device, **{**found.options, **given})
        identity = {"family": model.family, "denoiser": fingerprint(model.denoiser), "vae": fingerprint(model.vae)}
        if found.adapter is not None:
            identity["adapter"] = sha256(found.adapter)
            lora.load(model.denoiser, found.adapter, trainable=False)
        model.denoiser.eval()
        pipeline = model.pipeline()
    identity |= {"sampler": _sampler(pipeline.scheduler), "dtype": str(dtype).removeprefix("torch.")}
    call = inspect.signature(type(pipeline).__call__).parameters
    defaults = {key: call[key].default for key in ("num_inference_steps", model.guidance_argument)}
    world = shapes.SAMPLING.get(found.trained_from)
    about = {"base": found.base, "adapter": None if found.adapter is None else str(found.adapter), "device": str(device)}
    return Drawer(model, pipeline, name, identity, {**defaults, **(world or {})}, about, BATCH_OF_A_WORLD if world else BATCH)


def _sampler(scheduler: Any) -> str:
    """Class and, in short, settings of a scheduler."""
    settings = sorted((key, str(value)) for key, value in scheduler.config.items() if not key.startswith("_"))
    return f"{type(scheduler).__name__} {hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]}"


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
        raise ValueError(f"{path} is of a run of modality {modality}, and pictures are drawn: name a run that trained a model of images")
    return config
