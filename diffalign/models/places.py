"""What a name stands for, and of which family it is: embedded worlds, folders, hub ids, checkpoint files."""

import importlib.resources
import json
from dataclasses import dataclass
from pathlib import Path

from diffalign.models.parts import reading

PIPELINES = {  # model_index.json's _class_name -> family
    "StableDiffusionPipeline": "sd",
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusion3Pipeline": "sd3",
    "FluxPipeline": "flux",
    "PixArtSigmaPipeline": "pixart_sigma",
    "PixArtAlphaPipeline": "pixart_alpha",
    "Lumina2Pipeline": "lumina2",
    "QwenImagePipeline": "qwen_image",
    "ZImagePipeline": "z_image",
    "SanaPipeline": "sana",
    "DiTPipeline": "dit",
}
NETWORKS = {"DiTMoETransformer2DModel": "dit_moe"}  # the transformer's class -> family, where the pipeline is another family's too
FILE_MARKS = {  # family -> how the keys of its network's original layout start
    "sd3": {"joint_blocks"},
    "flux": {"double_blocks", "single_blocks", "vector_in"},
    "pixart_sigma": {"t_block", "y_embedder", "blocks"},
    "dit": {"t_embedder", "y_embedder", "blocks"},
}


@dataclass(frozen=True)
class Embedded:
    """A model that comes with a world of ours.

    package: the world's; the model is the folder ``assets/FOLDER`` of it. recipe: what trains it, a module of the world's.
    vae, parts: where in ``assets`` the VAE is, and ``module:function`` that gives further components, for a model that shares them with
        another so that no bytes ship twice. Its folder is no whole pipeline; ``load_model(...).pipeline()`` is, and saves one.
    max_sequence_length: what it was trained with, unless ``load_model`` is told another.
    """

    package: str
    folder: str = "model"
    recipe: str = "recipe"
    vae: str | None = None
    parts: str | None = None
    max_sequence_length: int | None = None

    @property
    def assets(self) -> Path:
        return Path(str(importlib.resources.files(self.package))) / "assets"


BUILTIN = {
    "shapes": Embedded("diffalign.worlds.shapes"),
    "shapes-flow": Embedded(
        "diffalign.worlds.shapes", folder="flow", recipe="recipe_flow", vae="model/vae", parts="diffalign.worlds.shapes.flow:text_parts",
        max_sequence_length=0,
    ),
}  # fmt: skip


def embedded(name: str) -> Embedded | None:
    """The embedded model of a name "builtin:...", None for other names; ValueError where there is none of that name."""
    if not name.startswith("builtin:"):
        return None
    if (world := name.removeprefix("builtin:")) not in BUILTIN:
        raise ValueError(f"there is no embedded model '{name}'; there is: {', '.join('builtin:' + world for world in BUILTIN)}")
    return BUILTIN[world]


def locate(name: str) -> tuple[str, bool]:
    """(folder, file or hub id, whether it is a file) for a name; ValueError where nothing is there."""
    if world := embedded(name):
        folder, recipe = world.assets / world.folder, f"{world.package}.{world.recipe}"
        if not folder.is_dir():
            raise ValueError(f"'{name}' is not in this installation ({folder} is missing): train it with python -m {recipe}")
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
            raise ValueError(
                f"'{place}' has no model_index.json: pass the top folder of a diffusers pipeline (it holds vae/, unet/ or transformer/)"
            )
        try:
            return dict(json.loads(file.read_text()))
        except (ValueError, TypeError) as error:  # the first of json and of bytes that are no text
            raise ValueError(f"{file} is no JSON of a diffusers pipeline ({error}): fetch the model again") from error
    from diffusers import DiffusionPipeline

    lost = f"'{place}' is no folder here and could not be fetched from the hub: {{}}. {offline_advice(False)}"
    if why := unreachable(place, "model_index.json", revision):
        raise ValueError(lost.format(why))
    try:
        return DiffusionPipeline.load_config(place, revision=revision)
    except (OSError, ValueError) as error:
        raise ValueError(lost.format(first_line(error))) from error


def unreachable(place: str, file: str, revision: str | None) -> str | None:
    """Why the hub cannot be asked for a model's file that its cache does not hold; None where it answers, or need not.

    One request, without a second try. Where a file is not cached, loading it asks six times in 23 seconds (the backoff of huggingface_hub's
    downloads, which no setting of it shortens but HF_HUB_OFFLINE=1), and then does not say why.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(try_to_load_from_cache(place, file, revision=revision), str):
        return None
    try:
        get_hf_file_metadata(hf_hub_url(place, file, revision=revision))
    except HfHubHTTPError:  # it answers: loading says what is wrong with the model
        return None
    except Exception as error:  # of the HTTP client, which is another one from version to version
        return first_line(error)
    return None


def family_of_index(index: dict, name: str) -> str:
    """The family of a pipeline's index; ValueError for a class outside the table."""
    name_of_class = index.get("_class_name")
    if name_of_class not in PIPELINES:
        families = ", ".join(f"{pipeline} ({family})" for pipeline, family in PIPELINES.items())
        raise ValueError(f"'{name}' is a {name_of_class}, supported are {families}")
    return NETWORKS.get((index.get("transformer") or [None, None])[1], PIPELINES[name_of_class])


def family_of_file(path: str) -> str:
    """The family of a checkpoint in the original layout, from its keys; ValueError where they are of neither."""
    from safetensors import safe_open

    with reading(path), safe_open(path, framework="pt") as file:
        keys = set(file.keys())
    starts = {key.removeprefix("model.diffusion_model.").split(".")[0] for key in keys}
    for family, marks in FILE_MARKS.items():
        if marks <= starts:
            return family
    if any(key.startswith("conditioner.embedders.1.") for key in keys):
        return "sdxl"
    if any(key.startswith("cond_stage_model.") for key in keys):
        return "sd"
    if not any(key.startswith("model.diffusion_model.") for key in keys):
        some = ", ".join(sorted(keys)[:3])
        raise ValueError(
            f"'{path}' is not a whole checkpoint in the original layout (no model.diffusion_model.* in it; its keys: {some}, ...): "
            f"LoRA files are loaded with lora.load, a bare UNet belongs in a diffusers folder"
        )
    raise ValueError(f"'{path}' holds neither Stable Diffusion's (cond_stage_model.*) nor SDXL's (conditioner.embedders.1.*) text encoders")


def first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")


def offline_advice(is_file: bool) -> str:
    if is_file:
        return (
            "Without the hub, pass config= with a local folder that holds the pipeline's configs (model_index.json, unet/config.json ...)"
        )
    return "Without the hub, pass a local diffusers folder or a .safetensors file; a gated model needs `hf auth login` first"
