"""From a name to a model: hub id, diffusers folder, single checkpoint file, or an embedded world.

load_model("stabilityai/stable-diffusion-xl-base-1.0", variant="fp16", dtype=torch.float16)
load_model("/models/my-sdxl")                                                    a folder with model_index.json
load_model("/models/my-sdxl.safetensors", config="/models/sdxl-configs")         the original checkpoint layout; no hub needed
load_model("builtin:shapes")                                                     the model shipped with the package
"""

import importlib
import importlib.resources
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffalign.models.base import DiffusionModel

FAMILIES = {"sd": "diffalign.models.sd:StableDiffusion", "sdxl": "diffalign.models.sdxl:StableDiffusionXL"}
PIPELINES = {"StableDiffusionPipeline": "sd", "StableDiffusionXLPipeline": "sdxl"}  # model_index.json's _class_name -> family
BUILTIN = {"shapes": "diffalign.worlds.shapes"}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Source:
    """Where a model comes from, and how to read its parts again."""

    name: str  # as the user wrote it
    place: str  # folder, file or hub id
    is_file: bool
    family: str
    config: str | None
    vae: str | None
    dtype: torch.dtype
    variant: str | None
    revision: str | None

    def load(self, **parts: Any):
        """The stock pipeline; ``parts`` are used in place of what would be read (None leaves a part out)."""
        family = family_class(self.family)
        stock, parts = family.pipeline_class(), {**family.options, **_dtype_argument(self.dtype), **parts}
        try:
            if "vae" not in parts:
                parts["vae"] = self.load_vae()
            if self.is_file:
                return stock.from_single_file(self.place, config=self.config, **parts)
            return stock.from_pretrained(self.place, variant=self.variant, revision=self.revision, use_safetensors=True, **parts)
        except OSError as error:
            raise ValueError(f"'{self.name}' could not be loaded: {_first_line(error)}. {_offline_advice(self.is_file)}") from error

    def load_vae(self):
        """The VAE, read in float32, and cast to ``dtype`` unless its ``force_upcast`` asks for float32 (SDXL's overflows in float16)."""
        from diffusers import AutoencoderKL

        exact = _dtype_argument(torch.float32)
        own = dict(subfolder="vae", variant=self.variant, revision=self.revision, use_safetensors=True)
        if self.vae is None and self.is_file:
            vae = AutoencoderKL.from_single_file(self.place, config=self.config, subfolder="vae", **exact)
        elif self.vae is None:
            vae = AutoencoderKL.from_pretrained(self.place, **own, **exact)
        elif self.vae.endswith(".safetensors"):
            vae = AutoencoderKL.from_single_file(self.vae, config=self.config if self.is_file else self.place, subfolder="vae", **exact)
        else:
            vae = AutoencoderKL.from_pretrained(self.vae, **exact)
        return vae if vae.config.force_upcast or self.dtype == torch.float32 else vae.to(self.dtype)


def load_model(
    name_or_path: str,
    *,
    family: str | None = None,
    config: str | None = None,
    vae: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    variant: str | None = None,
    revision: str | None = None,
) -> DiffusionModel:
    """Load a model and take it apart for training.

    Args:
        name_or_path: a hub id, a diffusers folder, a ``.safetensors`` file in the original (LDM) layout, or ``builtin:NAME``.
        family: "sd" or "sdxl"; found out by itself (from ``model_index.json``, or a file's keys), and an error where it contradicts them.
        config: for a single file, a local folder (or hub id) with the pipeline's configs; without it diffusers asks the hub.
        vae: a folder, hub id or ``.safetensors`` of a replacement VAE, such as the float16-safe one of SDXL.
        dtype: of denoiser, text encoders and VAE; the VAE stays in float32 where its ``force_upcast`` says it must.
        variant, revision: of the weights, as in diffusers ("fp16"; a branch, tag or commit).
    Errors: ValueError that names what was given, what is allowed and what to do, for every way this can fail.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(map(str, DTYPES))}, got {dtype!r}")
    if family is not None and family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
    name = str(name_or_path)
    place, is_file = locate(name)
    vae = None if vae is None else str(Path(vae).expanduser()) if Path(vae).expanduser().exists() else vae
    if is_file:
        config = None if config is None else str(Path(config).expanduser())
        found = family_of_file(place)
        if config is not None and (other := family_of_index(read_index(config, None), config)) != found:
            raise ValueError(
                f"'{name}' is of family '{found}' and config='{config}' of family '{other}': pass the configs of its own family"
            )
    elif config is not None:
        raise ValueError(f"config= is for single checkpoint files; '{name}' brings its own configs, so leave config out")
    else:
        index = read_index(place, revision)
        found = family_of_index(index, name)
        if vae is None and index.get("vae", [None])[0] is None:
            raise ValueError(f"'{name}' has no VAE in its model_index.json: pass one with vae= (a folder, hub id or .safetensors file)")
        if vae is None and Path(place).is_dir() and not (Path(place) / "vae").is_dir():
            raise ValueError(f"'{name}' names a VAE in its model_index.json but has no folder vae/: copy it there, or pass one with vae=")
    if family is not None and family != found:
        raise ValueError(f"family='{family}' was asked for, but '{name}' is of family '{found}': leave family out, or load another model")
    source = Source(name, place, is_file, found, config, vae, dtype, variant, revision)
    return family_class(found)(source.load().to(device), source)


def locate(name: str) -> tuple[str, bool]:
    """(folder, file or hub id, whether it is a file) for a name; ValueError where nothing is there."""
    if name.startswith("builtin:"):
        world = name.removeprefix("builtin:")
        if world not in BUILTIN:
            raise ValueError(f"there is no embedded model '{name}'; there is: {', '.join('builtin:' + world for world in BUILTIN)}")
        folder = importlib.resources.files(BUILTIN[world]) / "assets" / "model"
        if not folder.is_dir():
            raise ValueError(f"'{name}' is not in this installation ({folder} is missing): train it with python -m {BUILTIN[world]}.recipe")
        return str(folder), False
    path = Path(name).expanduser()
    if path.suffix in (".ckpt", ".pt", ".pth", ".bin"):
        raise ValueError(
            f"'{name}' is a pickle, which can run code when it is opened: convert it to safetensors first, "
            f"safetensors.torch.save_file(torch.load('{path.name}', weights_only=True)['state_dict'], '{path.stem}.safetensors')"
        )
    if path.is_file() and path.suffix == ".safetensors":
        return str(path), True
    if path.is_file():
        raise ValueError(f"'{name}' is a {path.suffix or 'nameless'} file: a model is a .safetensors file, a diffusers folder or a hub id")
    if path.is_dir():
        return str(path), False
    if path.suffix == ".safetensors" or name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise ValueError(f"'{name}' does not exist: pass a diffusers folder, a .safetensors file, a hub id (owner/name) or builtin:shapes")
    return name, False


def read_index(place: str, revision: str | None) -> dict:
    """The content of a folder's or a hub model's ``model_index.json``."""
    if Path(place).is_dir():
        file = Path(place) / "model_index.json"
        if not file.is_file():
            raise ValueError(f"'{place}' has no model_index.json: pass the top folder of a diffusers pipeline (it holds unet/, vae/ ...)")
        return json.loads(file.read_text())
    from diffusers import DiffusionPipeline

    try:
        return DiffusionPipeline.load_config(place, revision=revision)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"'{place}' is no folder here and could not be fetched from the hub: {_first_line(error)}. {_offline_advice(False)}"
        ) from error


def family_of_index(index: dict, name: str) -> str:
    """The family of a pipeline's index; ValueError for a class outside the table."""
    name_of_class = index.get("_class_name")
    if name_of_class not in PIPELINES:
        raise ValueError(f"'{name}' is a {name_of_class}, supported are {', '.join(PIPELINES)}")
    return PIPELINES[name_of_class]


def family_of_file(path: str) -> str:
    """The family of a checkpoint in the original layout, from its keys; ValueError where they are of neither."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        keys = set(file.keys())
    if not any(key.startswith("model.diffusion_model.") for key in keys):
        some = ", ".join(sorted(keys)[:3])
        raise ValueError(
            f"'{path}' is not a whole checkpoint in the original layout (no model.diffusion_model.* in it; its keys: {some}, ...): "
            f"LoRA files are loaded with lora.load, a bare UNet belongs in a diffusers folder"
        )
    if any(key.startswith("conditioner.embedders.1.") for key in keys):
        return "sdxl"
    if any(key.startswith("cond_stage_model.") for key in keys):
        return "sd"
    raise ValueError(f"'{path}' holds neither Stable Diffusion's (cond_stage_model.*) nor SDXL's (conditioner.embedders.1.*) text encoders")


def family_class(family: str) -> type[DiffusionModel]:
    module, name = FAMILIES[family].split(":")
    return vars(importlib.import_module(module))[name]


def _dtype_argument(dtype: torch.dtype) -> dict[str, torch.dtype]:
    """diffusers called this argument ``torch_dtype`` until 0.42, which warns of the old name."""
    import diffusers

    renamed = tuple(int(part) for part in diffusers.__version__.split(".")[:2]) >= (0, 42)
    return {"dtype" if renamed else "torch_dtype": dtype}


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")


def _offline_advice(is_file: bool) -> str:
    if is_file:
        return (
            "Without the hub, pass config= with a local folder that holds the pipeline's configs (model_index.json, unet/config.json ...)"
        )
    return "Without the hub, pass a local diffusers folder or a .safetensors file; a gated model needs `hf auth login` first"
