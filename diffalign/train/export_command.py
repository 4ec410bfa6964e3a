"""``diffalign export``: a run's adapter for other programs, or its model with the adapter folded in."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from diffalign.models import DiffusionModel, load_model, lora
from diffalign.models.export import check_output, export
from diffalign.models.lora_files import adapter_layers
from diffalign.models.runs import find
from diffalign.train.errors import ConfigError
from diffalign.train.validate import quiet_libraries

READERS = {
    "diffusers": "pipeline.load_lora_weights reads it",
    "kohya": "kohya's scripts read it, and what reads their files",
    "comfyui": "ComfyUI reads it",
    "merged": "DiffusionPipeline.from_pretrained reads it",
}


@dataclass(frozen=True)
class ExportCommand:
    """Write the adapter of a training run for diffusers, kohya's scripts and A1111, or ComfyUI; or the model with the adapter folded in.

    The strength is the trained one in every format: alpha is taken from the adapter. docs/exports.md says what was tested for which model.
    """

    adapter: Annotated[str, tyro.conf.Positional]
    """A run of diffalign train, its folder lora, or the .safetensors file of an adapter (then with --base)."""
    format: Literal["diffusers", "kohya", "comfyui", "merged"]
    """diffusers, kohya and comfyui write one .safetensors file, merged writes the folder of a pipeline."""
    output: str
    """The file or folder to write; it must not be there yet."""
    base: str | None = None
    """The model of the adapter, where no config.yaml of a run beside it says so."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights that are written."""
    model_config: str | None = None
    """Folder with the pipeline's configs, for a single-file checkpoint where the hub cannot be reached."""
    vae: str | None = None
    """Another VAE for the merged model: folder, hub id or .safetensors file."""
    variant: str | None = None
    """Weight variant of a diffusers model, such as fp16."""
    revision: str | None = None
    """Branch, tag or commit of a model on the hub."""


def run(argv: list[str]) -> int:
    """The whole command; the exit code: 0. Raises ConfigError for a mistake in the call, before anything is written."""
    command = tyro.cli(ExportCommand, args=argv, prog="diffalign export")
    try:
        check_output(Path(command.output).expanduser(), command.format)
        found = find(command.adapter) if command.base is None else find(command.base, adapter=command.adapter)
        if found.adapter is None:
            raise ValueError(_no_adapter(command.adapter, found.base))
        given = {"config": command.model_config, "vae": command.vae, "variant": command.variant, "revision": command.revision}
        options = found.options | {key: value for key, value in given.items() if value is not None}
        dtype = getattr(torch, command.dtype)
        with quiet_libraries():
            # an adapter's file has no weights of the base: half the memory does
            model = load_model(found.base, dtype=dtype if command.format == "merged" else torch.bfloat16, **options)
            _load_adapter(model, found.adapter)
            path = export(model, command.output, command.format, dtype=dtype)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    print(f"{path}  ({model.family}, {READERS[command.format]})")
    if command.format == "merged" and (lacking := model.lacking()):
        print(f"note: from_pretrained wants to be told what this model came without: {', '.join(f'{part}=None' for part in lacking)}")
    return 0


def _load_adapter(model: DiffusionModel, file: Path) -> None:
    """``lora.load``; ValueError in one line where the adapter is of another network, or where layers of it would be left out."""
    import diffusers.utils.logging
    from safetensors import safe_open

    other = f"the adapter {file} is not of the model '{model.name}': name its own with --base"
    diffusers.utils.logging.set_verbosity(logging.CRITICAL)  # it names every layer that does not fit; quiet_libraries puts this back
    try:
        lora.load(model.denoiser, file)
    except RuntimeError as error:  # shapes
        raise ValueError(other) from error
    with safe_open(file, framework="pt") as opened:
        own = sum(key.endswith(".lora_A.weight") for key in opened.keys())  # noqa: SIM118
    if own and own != (found := len(adapter_layers(model.denoiser))):
        raise ValueError(f"{other} ({found} of its {own} layers are there)")


def _no_adapter(name: str, base: str) -> str:
    if base != name:
        return f"the run '{name}' trained all weights: {base} is a whole pipeline already, and there is no adapter to export"
    return (
        f"'{name}' is no run and no adapter: pass the folder of a run of diffalign train, its folder lora, or the .safetensors file of an "
        f"adapter with --base MODEL"
    )
