"""Adapters for other programs, and a model with its adapter folded in.

    diffusers    load_lora_weights of a stock pipeline: the file training writes, with more in its header
    kohya        kohya's sd-scripts, A1111 and what descends from it (``adapter_layouts``)
    comfyui      ComfyUI (``adapter_layouts``)
    merged       W + alpha / r * B A in place of W: a pipeline that ``from_pretrained`` loads, with no adapter left

alpha is the adapter's own, layer by layer. (diffusers' ``convert_state_dict_to_kohya`` writes alpha = rank, which plays an adapter of rank
16 and alpha 32 at half its strength.) DoRA and adapters of biases are refused: those layouts would drop what makes them differ.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from torch import Tensor, nn

from diffalign import __version__
from diffalign.models import lora
from diffalign.models.adapter_layouts import LORA_FORMATS, Layer, formats, lay_out
from diffalign.models.base import DiffusionModel
from diffalign.models.lora_files import FILE, adapter_layers, stock

FORMATS = ("diffusers", *LORA_FORMATS, "merged")


def export(model: DiffusionModel, output: str | Path, layout: str, *, name: str = "default", dtype: torch.dtype | None = None) -> Path:
    """Write adapter ``name`` of a model, or the model with it, as ``output``; all of it or nothing.

    Args:
        model: with the adapter (``lora.load``). "merged" folds it in for good.
        output: a .safetensors file; for "merged" a folder. It must not be there yet.
        layout: one of FORMATS. dtype: of the adapter's weights, their own (float32) unless given; a merged model keeps the one it has.
    Returns: ``output``.
    Errors: ValueError for a place that is taken or of the wrong kind, an unknown layout, a family or layer without a known name in it,
    adapters it cannot hold, and merged weights that are not finite.
    """
    output = Path(output).expanduser()
    if layout not in FORMATS:
        raise ValueError(f"the format must be one of {', '.join(FORMATS)}, got {layout!r}")
    check_output(output, layout)
    if name not in lora.adapter_names(model.denoiser):
        raise ValueError(f"the model has no adapter named '{name}': load one with lora.load")
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(output.name + ".part")
    try:
        if layout == "merged":
            merge(model.denoiser, name)
            shutil.rmtree(part, ignore_errors=True)
            model.pipeline().save_pretrained(part)
        else:
            _write(model, part, layout, name, dtype)
        os.replace(part, output)
    finally:
        shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink(missing_ok=True)
    return output


def check_output(output: Path, layout: str) -> None:
    """ValueError where ``output`` is taken, or is no name for what ``layout`` writes."""
    is_file = output.suffix == ".safetensors"
    if layout == "merged" and is_file:
        raise ValueError(f"a merged model is a folder, and the output '{output}' is named as a file: leave .safetensors out")
    if layout != "merged" and not is_file:
        raise ValueError(f"an adapter for {layout} is one file, and the output '{output}' is none: name it '{output / FILE}', say")
    if output.exists():
        raise ValueError(f"the output '{output}' is there already: name another, or remove it first")


def layers_of(denoiser: nn.Module, name: str = "default") -> list[Layer]:
    """The adapter layer by layer, in float32; ValueError for one that is more than down and up."""
    config = denoiser.peft_config[name]
    if config.use_dora or config.lora_bias:
        what = "DoRA (a magnitude of each output)" if config.use_dora else "an adapter with biases"
        raise ValueError(f"the adapter is {what}, which kohya's and ComfyUI's names for LoRA do not hold: export it merged")
    found, names = [], {module: path for path, module in denoiser.named_modules()}
    for module in _with(denoiser, name):
        down, up = (part[name].weight.detach().float().cpu() for part in (module.lora_A, module.lora_B))
        found.append(Layer(names[module], down, up, float(module.scaling[name])))
    return found


def merge(denoiser: nn.Module, name: str = "default") -> None:
    """Fold adapter ``name`` into the weights and take all adapters off: W <- W + alpha / r * B A, computed in float32, rounded once.

    Errors: ValueError where a weight is not finite afterwards (an adapter of a diverged run; float16 that overflows).
    """
    from diffusers.utils.peft_utils import recurse_remove_peft_layers

    for layer in _with(denoiser, name):
        layer.merge(adapter_names=[name])
        if not torch.isfinite(layer.get_base_layer().weight).all():
            raise ValueError(f"adapter '{name}' merges to weights that are not finite: is it of a diverged run, or too large for float16?")
    recurse_remove_peft_layers(denoiser)
    del denoiser.peft_config


def metadata(model: DiffusionModel, title: str, name: str = "default") -> dict[str, str]:
    """What the header of a file says: diffalign's version, the base and its family; rank and alpha as kohya names them, where all layers
    have the same; and, for models that sd-scripts has a name for, that name and ModelSpec's fields."""
    adapters = _with(model.denoiser, name)
    ranks, alphas = {layer.r[name] for layer in adapters}, {float(layer.scaling[name] * layer.r[name]) for layer in adapters}
    found = {"format": "pt", "diffalign.version": __version__, "diffalign.base_model": model.name, "diffalign.family": model.family}
    if len(ranks) == 1 and len(alphas) == 1:
        found |= {"ss_network_dim": str(ranks.pop()), "ss_network_alpha": str(alphas.pop())}
    version, architecture, implementation = _named(model)
    if version is None:
        return found
    found |= {
        "ss_base_model_version": version, "modelspec.sai_model_spec": "1.0.0", "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": implementation, "modelspec.title": title,
    }  # fmt: skip
    if model.family != "flux":
        found["modelspec.prediction_type"] = "v" if model.path.prediction_type == "v_prediction" else "epsilon"
    return found


def _named(model: DiffusionModel) -> tuple[str, str, str] | tuple[None, None, None]:
    """(ss_base_model_version, modelspec.architecture, modelspec.implementation) as sd-scripts writes them; Nones where it has none, or
    (SD3) tells apart what the weights do not."""
    config, v = model.denoiser.config, model.path.prediction_type == "v_prediction"
    if model.family == "sdxl":
        return "sdxl_base_v1-0", "stable-diffusion-xl-v1-base", "https://github.com/Stability-AI/generative-models"
    if model.family == "flux":
        return "flux1", "flux-1-dev" if config.guidance_embeds else "flux-1-schnell", "https://github.com/black-forest-labs/flux"
    if model.family == "sd" and config.use_linear_projection:  # the second version's UNet, as the first's has convolutions there
        return "sd_v2_v" if v else "sd_v2", "stable-diffusion-v2-768-v" if v else "stable-diffusion-v2-512", "diffusers"
    if model.family == "sd":
        return "sd_v1_v" if v else "sd_v1", "stable-diffusion-v1", "diffusers"
    return None, None, None


def _write(model: DiffusionModel, file: Path, layout: str, name: str, dtype: torch.dtype | None) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    header = metadata(model, file.name.removesuffix(".part").removesuffix(".safetensors"), name)
    if layout == "diffusers":
        if stock(model.denoiser).pipeline is None:
            raise ValueError(
                f"diffusers has no loader for adapters of family '{model.family}': the adapter's folder is in peft's format already, "
                f"which PeftModel.from_pretrained reads. Formats for it: {formats(model.family)}"
            )
        folder = file.with_name(file.name + ".folder")
        try:
            saved = lora.save(model, folder, name)
            with safe_open(saved, framework="pt") as opened:
                header |= opened.metadata()
            tensors = load_file(saved)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    else:
        rows = {key.removesuffix(".weight").removesuffix(".base_layer"): len(value) for key, value in _weights(model.denoiser).items()}
        tensors = lay_out(layers_of(model.denoiser, name), model.family, layout, model.denoiser.config, rows)
    if dtype is not None:
        tensors = {key: value if key.endswith(".alpha") else value.to(dtype) for key, value in tensors.items()}
    save_file(tensors, file, metadata=header)


def _weights(denoiser: nn.Module) -> dict[str, Tensor]:
    return {key: value for key, value in denoiser.named_parameters() if key.endswith(".weight") and ".lora_" not in key}


def _with(denoiser: nn.Module, name: str) -> list[nn.Module]:
    """The layers that adapter ``name`` changes, in order."""
    return [layer for layer in adapter_layers(denoiser) if name in layer.lora_A]
