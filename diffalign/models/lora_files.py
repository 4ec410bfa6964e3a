"""How adapters are named and stored for each class of networks: diffusers' files where it has a loader, else peft's folder."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

FILE = "pytorch_lora_weights.safetensors"
PEFT_FILE = "adapter_model.safetensors"
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2")
JOINT_ATTENTION = (*ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")  # the text stream has projections of its own
JOINT_FEED_FORWARD = (*FEED_FORWARD, "ff_context.net.0.proj", "ff_context.net.2")
EXPERTS = ("gate_proj", "up_proj", "down_proj")
TWO_STREAMS = ("img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2")
GATED_LAYERS = ("feed_forward.w1", "feed_forward.w2", "feed_forward.w3")
POINTWISE = ("ff.conv_inverted", "ff.conv_point")  # Sana: convolutions of one pixel, which are linear layers; not the depthwise one between
GATED_FEED_FORWARD = ("feed_forward.linear_1", "feed_forward.linear_2", "feed_forward.linear_3")
SINGLE_STREAM = ("proj_mlp", "single_transformer_blocks.*.proj_out")  # FLUX: attention's output and the MLP's are one projection


@dataclass(frozen=True)
class Stock:
    """How diffusers reads and writes the adapters of a class of networks.

    pipeline: the pipeline with ``load_lora_weights``, or None where diffusers has none. prefix: of the file's keys, the component's name.
    attention, feed_forward: endings (or, with a *, patterns) of the names of the linear layers meant by "attention" and "attention+ff".
    """

    pipeline: str | None
    prefix: str = "transformer"
    attention: tuple[str, ...] = ATTENTION
    feed_forward: tuple[str, ...] = FEED_FORWARD


STOCK = {
    "UNet2DConditionModel": Stock("StableDiffusionPipeline", "unet"),
    "SD3Transformer2DModel": Stock("StableDiffusion3Pipeline", attention=JOINT_ATTENTION, feed_forward=JOINT_FEED_FORWARD),
    "FluxTransformer2DModel": Stock("FluxPipeline", attention=JOINT_ATTENTION, feed_forward=(*JOINT_FEED_FORWARD, *SINGLE_STREAM)),
    "Lumina2Transformer2DModel": Stock("Lumina2Pipeline", feed_forward=GATED_FEED_FORWARD),
    "QwenImageTransformer2DModel": Stock("QwenImagePipeline", attention=JOINT_ATTENTION, feed_forward=TWO_STREAMS),
    "ZImageTransformer2DModel": Stock("ZImagePipeline", feed_forward=GATED_LAYERS),
    "SanaTransformer2DModel": Stock("SanaPipeline", feed_forward=POINTWISE),
    "PixArtTransformer2DModel": Stock(None),
    "DiTTransformer2DModel": Stock(None),
    "DiTMoETransformer2DModel": Stock(None, feed_forward=EXPERTS),
    "TokenLogps": Stock(None),  # a language model (llm/models.py), whose layers are named by llm/adapters.py
}


def stock(denoiser: nn.Module) -> Stock:
    """The row of a network; ValueError for a class outside the table."""
    kind = type(denoiser).__name__
    if kind not in STOCK:
        raise ValueError(f"adapters of a {kind} are not supported; supported are {', '.join(STOCK)}")
    return STOCK[kind]


def pipeline_class(denoiser: nn.Module):
    """The stock pipeline class that reads and writes this network's adapters."""
    import diffusers

    name = stock(denoiser).pipeline
    if name == "StableDiffusionPipeline" and denoiser.config.addition_embed_type == "text_time":
        name = "StableDiffusionXLPipeline"
    return getattr(diffusers, name)


def adapter_layers(denoiser: nn.Module) -> list:
    """The layers that carry adapters, in order."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in denoiser.modules() if isinstance(module, BaseTunerLayer)]


def inject(denoiser: nn.Module, config, name: str) -> None:
    """Add an adapter and make it the active one."""
    if stock(denoiser).pipeline is None:  # a class without diffusers' adapter mixin
        from peft import inject_adapter_in_model

        inject_adapter_in_model(config, denoiser, adapter_name=name)
        for layer in adapter_layers(denoiser):
            layer.set_adapter(name)
    else:
        denoiser.add_adapter(config, adapter_name=name)


def read_file(denoiser: nn.Module, file: Path, name: str) -> dict[str, torch.Tensor]:
    """Put the adapter of a file in any layout that diffusers reads into the denoiser; returns its values by peft's names, in float32."""
    from diffusers.utils import convert_unet_state_dict_to_peft

    prefix, place = stock(denoiser).prefix, dict(weight_name=file.name, local_files_only=True, use_safetensors=True)
    reader = pipeline_class(denoiser).lora_state_dict
    if prefix == "unet":
        state, alphas, metadata = reader(str(file.parent), unet_config=denoiser.config, return_lora_metadata=True, **place)
    elif type(denoiser).__name__ == "FluxTransformer2DModel":
        state, alphas, metadata = reader(str(file.parent), return_alphas=True, return_lora_metadata=True, **place)
    else:
        (state, metadata), alphas = reader(str(file.parent), return_lora_metadata=True, **place), None
    if other := next((key for key in state if not key.startswith(f"{prefix}.")), None):
        raise ValueError(f"{file} changes more than the denoiser ({other}): only adapters of the denoiser can be trained further")
    denoiser.load_lora_adapter(state, prefix=prefix, network_alphas=alphas, adapter_name=name, metadata=metadata)
    state = {key.removeprefix(f"{prefix}."): value.float() for key, value in state.items()}
    return state if all(".lora_A." in key or ".lora_B." in key for key in state) else convert_unet_state_dict_to_peft(state)


def save_for_peft(config, state: dict[str, torch.Tensor], folder: Path) -> Path:
    """Write what ``peft.PeftModel.from_pretrained`` reads; returns the file of the weights."""
    from safetensors.torch import save_file

    config.save_pretrained(str(folder))
    save_file(
        {f"base_model.model.{key}": value.contiguous() for key, value in state.items()}, folder / PEFT_FILE, metadata={"format": "pt"}
    )
    return folder / PEFT_FILE


def read_for_peft(denoiser: nn.Module, file: Path, name: str) -> dict[str, torch.Tensor]:
    """As ``read_file``, from a folder in peft's format."""
    from peft import LoraConfig, set_peft_model_state_dict
    from safetensors.torch import load_file

    if not (file.parent / "adapter_config.json").is_file():
        raise ValueError(f"{file} has no adapter_config.json beside it, which says rank and alpha: pass the whole folder that was saved")
    state = {key.removeprefix("base_model.model."): value.float() for key, value in load_file(file).items()}
    config = LoraConfig.from_pretrained(str(file.parent), local_files_only=True)
    config.inference_mode = False
    with torch.random.fork_rng(devices=[]):
        inject(denoiser, config, name)
    unknown = set_peft_model_state_dict(denoiser, state, adapter_name=name).unexpected_keys
    if unknown:
        raise ValueError(f"{file} is an adapter of another network: this one has no {unknown[0]}")
    return state
