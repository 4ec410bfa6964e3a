"""From a name to a model: hub id, diffusers folder, single checkpoint file, or an embedded world.

load_model("stabilityai/stable-diffusion-xl-base-1.0", variant="fp16", dtype=torch.float16)
load_model("/models/my-sdxl")                                                    a folder with model_index.json
load_model("/models/my-sdxl.safetensors", config="/models/sdxl-configs")         the original checkpoint layout; no hub needed
load_model("/models/flux1-dev.safetensors", config="/models/flux-dev")           the file gives the transformer, config= all else
load_model("builtin:shapes")                                                     a model shipped with the package (``places.BUILTIN``)
"""

import importlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from diffalign.models.base import DiffusionModel
from diffalign.models.places import embedded, family_of_file, family_of_index, first_line, locate, offline_advice, read_index

FAMILIES = {
    "sd": "diffalign.models.sd:StableDiffusion",
    "sdxl": "diffalign.models.sdxl:StableDiffusionXL",
    "sd3": "diffalign.models.sd3:StableDiffusion3",
    "flux": "diffalign.models.flux:Flux",
    "pixart_sigma": "diffalign.models.pixart:PixArtSigma",
    "pixart_alpha": "diffalign.models.pixart:PixArtAlpha",
    "lumina2": "diffalign.models.lumina2:Lumina2",
    "qwen_image": "diffalign.models.qwen_image:QwenImage",
    "z_image": "diffalign.models.z_image:ZImage",
    "sana": "diffalign.models.sana:Sana",
    "dit": "diffalign.models.dit:DiT",
    "dit_moe": "diffalign.models.dit_moe:DiTMoE",
}
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
    guidance: float | None = None  # what a guidance-distilled network is told
    max_sequence_length: int | None = None  # the stock call's argument; the family's default unless given

    def load(self, **parts: Any):
        """The stock pipeline; ``parts`` are used in place of what would be read (None leaves a part out)."""
        family = family_class(self.family)
        stock, parts = family.pipeline_class(), {**family.options, **_dtype_argument(self.dtype), **parts}
        try:
            if "vae" not in parts:
                parts["vae"] = self.load_vae()
            if self.is_file and family.single_file == "pipeline":
                return stock.from_single_file(self.place, config=self.config, **parts)
            if self.is_file and family.denoiser_name not in parts:
                parts[family.denoiser_name] = self.load_denoiser()
            parts = self.missing_texts() | self.shared_parts(without=parts) | parts
            return stock.from_pretrained(self.folder, variant=self.variant, revision=self.revision, use_safetensors=True, **parts)
        except SafetensorError as error:
            raise ValueError(f"'{self.name}' could not be loaded, a .safetensors file is damaged ({error}): fetch it again") from error
        except OSError as error:
            local = not self.is_file and Path(self.place).is_dir()
            advice = "Is it whole? Fetch it again" if local and self.vae is None else offline_advice(self.is_file)
            raise ValueError(f"'{self.name}' could not be loaded: {first_line(error)}. {advice}") from error

    def shared_parts(self, without: Collection[str]) -> dict[str, Any]:
        """What an embedded model has in common with another, but for the components named."""
        world = embedded(self.name)
        if world is None or world.parts is None:
            return {}
        module, function = world.parts.split(":")
        parts = {name: part for name, part in vars(importlib.import_module(module))[function]().items() if name not in without}
        return {name: part.to(self.dtype) if isinstance(part, torch.nn.Module) else part for name, part in parts.items()}

    @property
    def folder(self) -> str:
        """The diffusers folder (or hub id) that the parts are read from, where they are not in a file."""
        return self.config if self.is_file else self.place

    def missing_texts(self) -> dict[str, None]:
        """The text encoders (and tokenizers) that the model comes without; ValueError for one it cannot do without."""
        family, index, missing = family_class(self.family), read_index(self.folder, self.revision), {}
        for tokenizer, encoder in family.text_names.items():
            if (index.get(encoder) or [None])[0] is None:
                if encoder not in family.may_lack:
                    raise ValueError(f"'{self.name}' has no {encoder} in its model_index.json, and prompts need it: load the whole model")
                missing |= {tokenizer: None, encoder: None}
        return missing

    def load_denoiser(self):
        """The network of a file that holds no whole pipeline; diffusers translates the original layout."""
        family, dtype = family_class(self.family), _dtype_argument(self.dtype)
        return family.denoiser_class().from_single_file(self.place, config=self.config, subfolder=family.denoiser_name, **dtype)

    def load_vae(self):
        """The VAE, read in float32, and cast to ``dtype`` unless its ``force_upcast`` asks for float32 (SDXL's overflows in float16)."""
        kind, exact = family_class(self.family).vae_class(), _dtype_argument(torch.float32)
        own = dict(subfolder="vae", variant=self.variant, revision=self.revision, use_safetensors=True)
        if self.vae is None and self.is_file and family_class(self.family).single_file == "pipeline":
            vae = kind.from_single_file(self.place, config=self.config, subfolder="vae", **exact)
        elif self.vae is None:
            vae = kind.from_pretrained(self.folder, **own, **exact)
        elif self.vae.endswith(".safetensors"):
            vae = kind.from_single_file(self.vae, config=self.folder, subfolder="vae", **exact)
        else:
            vae = kind.from_pretrained(self.vae, **exact)
        return vae if vae.config.get("force_upcast", False) or self.dtype == torch.float32 else vae.to(self.dtype)


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
    guidance: float | None = None,
    max_sequence_length: int | None = None,
) -> DiffusionModel:
    """Load a model and take it apart for training.

    Args:
        name_or_path: a hub id, a diffusers folder, a ``.safetensors`` file in the original layout, or ``builtin:NAME``.
        family: one of ``FAMILIES``; found out by itself (from ``model_index.json``, or a file's keys), and an error where it contradicts
            them.
        config: for a single file, a local folder (or hub id) with the pipeline's configs; without it diffusers asks the hub. A file of sd3
            or flux gives the transformer alone, and everything else is read from ``config``, which has to be a whole pipeline. Families
            that diffusers reads no single files of are refused.
        vae: a folder, hub id or ``.safetensors`` of a replacement VAE, such as the float16-safe one of SDXL.
        dtype: of denoiser, text encoders and VAE; the VAE stays in float32 where its ``force_upcast`` says it must.
        variant, revision: of the weights, as in diffusers ("fp16"; a branch, tag or commit).
        guidance: the scale that a guidance-distilled network (FLUX.1-dev) is told, the same for policy and reference.
        max_sequence_length: tokens of a prompt for the text encoder that the stock call's argument of this name is about (T5; Gemma), where
            not the stock default. Whoever samples passes the same to the stock call (``sampling_arguments`` has it).
    Errors: ValueError that names what was given, what is allowed and what to do, for every way this can fail.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(map(str, DTYPES))}, got {dtype!r}")
    if family is not None and family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
    name = str(name_or_path)
    place, is_file = locate(name)
    world = embedded(name)
    if world and vae is None and world.vae:
        vae = str(world.assets / world.vae)
    if world and max_sequence_length is None:
        max_sequence_length = world.max_sequence_length
    if vae is not None:
        locate(vae)  # refuses a path where nothing is
    vae = None if vae is None else str(Path(vae).expanduser()) if Path(vae).expanduser().exists() else vae
    if is_file:
        config = None if config is None else str(Path(config).expanduser())
        found = family_of_file(place)
        if family_class(found).single_file is None:
            raise ValueError(
                f"'{name}' is of family '{found}', which diffusers reads no single files of: pass a diffusers folder or a hub id"
            )
        if config is None and family_class(found).single_file == "denoiser":
            raise ValueError(
                f"'{name}' gives the transformer of family '{found}' alone: pass config= with the folder or hub id of a whole pipeline, "
                f"which the text encoders and the VAE are read from"
            )
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
        if Path(place).is_dir() and (world is None or world.parts is None):
            texts = [part for pair in family_class(found).text_names.items() for part in pair]
            for part in (family_class(found).denoiser_name, "scheduler", *texts):
                if index.get(part, [None])[0] is not None and not (Path(place) / part).is_dir():
                    raise ValueError(f"'{name}' names a {part} in its model_index.json but has no folder {part}/: fetch the whole model")
    if family is not None and family != found:
        raise ValueError(f"family='{family}' was asked for, but '{name}' is of family '{found}': leave family out, or load another model")
    if guidance is not None and found != "flux":
        raise ValueError(f"guidance={guidance} is read by family 'flux' only, and '{name}' is of family '{found}': leave it out")
    if max_sequence_length is not None and not family_class(found).prompt_tokens:
        who = ", ".join(other for other in FAMILIES if family_class(other).prompt_tokens)
        raise ValueError(
            f"max_sequence_length={max_sequence_length} is read by families {who} only, and '{name}' is of family '{found}': leave it out"
        )
    source = Source(name, place, is_file, found, config, vae, dtype, variant, revision, guidance, max_sequence_length)
    return family_class(found)(source.load().to(device), source)


def family_class(family: str) -> type[DiffusionModel]:
    module, name = FAMILIES[family].split(":")
    return vars(importlib.import_module(module))[name]


def _dtype_argument(dtype: torch.dtype) -> dict[str, torch.dtype]:
    """diffusers called this argument ``torch_dtype`` until 0.42, which warns of the old name."""
    import diffusers

    renamed = tuple(int(part) for part in diffusers.__version__.split(".")[:2]) >= (0, 42)
    return {"dtype" if renamed else "torch_dtype": dtype}
