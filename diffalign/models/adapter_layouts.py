"""How adapters of a family are laid out outside diffusers: where each of its layers goes in kohya's files and in ComfyUI's.

    kohya      lora_unet_ + the layer's name with _ for .     .lora_down.weight (r, in), .lora_up.weight (out, r), .alpha ()
    comfyui    diffusion_model. + the layer's name            the same three; for UNets kohya's names, which ComfyUI reads as well

    W x + alpha / r * up down x

The name is diffusers' own for Stable Diffusion 1.x and 2.x, Qwen-Image and Z-Image, and that of the original network for SDXL (SGM's), SD3
(MMDiT's) and FLUX, where queries, keys, values (and in FLUX's single blocks the MLP) are one layer. Adapters of layers that are one there
become one of the sum of their ranks, exactly: down on top of each other, up as a block-diagonal matrix, and an alpha that keeps
alpha / r, so three layers of rank 4 and alpha 2 are one of rank 12 and alpha 6.

Sources: the readers in diffusers 0.42.1 (``loaders/lora_conversion_utils.py``, ``loaders/single_file_utils.py``), which the tests load the
files with; and, read but not run, kohya-ss/sd-scripts and musubi-tuner (``networks/``), which write kohya's names, and ComfyUI
(``comfy/lora.py``), which maps them. What of it is tested, and how, is the table of docs/exports.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LORA_FORMATS = ("kohya", "comfyui")


@dataclass(frozen=True)
class Layer:
    """An adapter of one layer: diffusers' ``name``, down (r, in, ...), up (out, r, ...), and scale = alpha / r."""

    name: str
    down: Tensor
    up: Tensor
    scale: float


@dataclass(frozen=True)
class Place:
    """Where a layer goes.

    name: the original layer's. members: diffusers' names of all the layers whose rows, one after another, are that layer's. flipped: the
    two halves of its rows change places (scale and shift of a modulation).
    """

    name: str
    members: tuple[str, ...]
    flipped: bool = False


@dataclass(frozen=True)
class Blocks:
    """A list of blocks: what diffusers and the original network call it, and within a block {diffusers' layer: the original's} and
    {the original's layer: diffusers' layers in the order of its rows}."""

    ours: str
    original: str
    alone: dict[str, str]
    fused: dict[str, tuple[str, ...]]


_TIMES = {"timestep_embedder": "t_embedder.mlp", "text_embedder": "y_embedder.mlp"}
ORIGINAL = {
    "sd3": (
        Blocks("transformer_blocks", "joint_blocks", {
            "attn.to_out.0": "x_block.attn.proj", "attn2.to_out.0": "x_block.attn2.proj", "attn.to_add_out": "context_block.attn.proj",
            "ff.net.0.proj": "x_block.mlp.fc1", "ff.net.2": "x_block.mlp.fc2", "ff_context.net.0.proj": "context_block.mlp.fc1",
            "ff_context.net.2": "context_block.mlp.fc2", "norm1.linear": "x_block.adaLN_modulation.1",
            "norm1_context.linear": "context_block.adaLN_modulation.1",
        }, {
            "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"), "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
            "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
        }),
    ),
    "flux": (
        Blocks("transformer_blocks", "double_blocks", {
            "attn.to_out.0": "img_attn.proj", "attn.to_add_out": "txt_attn.proj", "ff.net.0.proj": "img_mlp.0", "ff.net.2": "img_mlp.2",
            "ff_context.net.0.proj": "txt_mlp.0", "ff_context.net.2": "txt_mlp.2", "norm1.linear": "img_mod.lin",
            "norm1_context.linear": "txt_mod.lin",
        }, {
            "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
            "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
        }),
        Blocks("single_transformer_blocks", "single_blocks", {"proj_out": "linear2", "norm.linear": "modulation.lin"}, {
            "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
        }),
    ),
}  # fmt: skip
OUTSIDE = {  # of the blocks: {diffusers' layer: the original's}
    "sd3": {
        "context_embedder": "context_embedder", "pos_embed.proj": "x_embedder.proj", "proj_out": "final_layer.linear",
        "norm_out.linear": "final_layer.adaLN_modulation.1",
        **{f"time_text_embed.{ours}.linear_{i + 1}": f"{theirs}.{2 * i}" for ours, theirs in _TIMES.items() for i in (0, 1)},
    },
    "flux": {
        "context_embedder": "txt_in", "x_embedder": "img_in", "proj_out": "final_layer.linear",
        "norm_out.linear": "final_layer.adaLN_modulation.1",
        **{
            f"time_text_embed.{ours}_embedder.linear_{i + 1}": f"{theirs}_in.{part}_layer"
            for ours, theirs in (("timestep", "time"), ("text", "vector"), ("guidance", "guidance")) for i, part in enumerate(("in", "out"))
        },
    },
}  # fmt: skip
RESNET = {"conv1": "in_layers.2", "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}
UNET_OUTSIDE = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2", "conv_in": "input_blocks.0.0", "conv_out": "out.2",
}  # fmt: skip


def same(name: str, config: Mapping[str, Any]) -> Place:
    """Families whose files have diffusers' names."""
    return Place(name, (name,))


def sgm(name: str, config: Mapping[str, Any]) -> Place:
    """SDXL's, whose original network counts its blocks through: ``layers_per_block`` resnets and a sampler are a block of diffusers'."""
    layers, match = config["layers_per_block"], re.fullmatch(r"(down|mid|up)_block(?:s\.(\d+))?\.(\w+)\.(\d+)\.(.+)", name)
    if match is None:
        return Place(_known(UNET_OUTSIDE, name), (name,))
    side, block, kind, i, rest = match[1], int(match[2] or 0), match[3], int(match[4]), match[5]
    first, part = block * (layers + 1), int(kind == "attentions")
    if side == "mid":
        place = f"middle_block.{1 if part else 2 * i}"
    elif side == "down":
        sampler = kind == "downsamplers"
        place = f"input_blocks.{1 + first + (layers if sampler else i)}.{part}"
        rest = "op" if sampler else rest
    elif kind == "upsamplers":
        place = f"output_blocks.{first + layers}.{2 if 'CrossAttn' in config['up_block_types'][block] else 1}"
    else:
        place = f"output_blocks.{first + i}.{part}"
    return Place(f"{place}.{RESNET[rest] if kind == 'resnets' else rest}", (name,))


def original(family: str) -> Callable[[str, Mapping[str, Any]], Place]:
    """Of a family in ``ORIGINAL``."""

    def place(name: str, config: Mapping[str, Any]) -> Place:
        for blocks in ORIGINAL[family]:
            if match := re.fullmatch(rf"{blocks.ours}\.(\d+)\.(.+)", name):
                start, inner = f"{blocks.original}.{match[1]}.", match[2]
                for target, members in blocks.fused.items():
                    if inner in members:
                        return Place(start + target, tuple(f"{blocks.ours}.{match[1]}.{member}" for member in members))
                last = family == "sd3" and int(match[1]) == config["num_layers"] - 1  # its text stream ends there, as the network does
                return Place(start + _known(blocks.alone, inner, name), (name,), flipped=last and inner == "norm1_context.linear")
        return Place(_known(OUTSIDE[family], name), (name,), flipped=name == "norm_out.linear")

    return place


PLACES = {"sd": same, "sdxl": sgm, "sd3": original("sd3"), "flux": original("flux"), "qwen_image": same, "z_image": same}
UNETS = ("sd", "sdxl")
WITHOUT_LOADER = ("pixart_sigma", "pixart_alpha", "dit", "dit_moe")  # in diffusers (``lora_files.STOCK``)
REFUSED = {
    "lumina2": "its original layout fuses queries, keys and values, and diffusers reads that only of files with every layer and no alpha",
    "sana": "no reader of such files is known",
    "pixart_sigma": "diffusers reads no adapters of it (ComfyUI maps diffusers' names, which was not tried)",
    "pixart_alpha": "diffusers reads no adapters of it (ComfyUI maps diffusers' names, which was not tried)",
    "dit": "no reader of such files is known",
    "dit_moe": "no reader of such files is known",
}


def lay_out(layers: list[Layer], family: str, layout: str, config: Mapping[str, Any], rows: Mapping[str, int]) -> dict[str, Tensor]:
    """The tensors of a file.

    Args:
        layers: the adapter, by diffusers' names. layout: "kohya" or "comfyui". config: of the network.
        rows: outputs of each of the network's layers, of those without an adapter too, whose rows in a fused layer are zeros.
    Errors: ValueError for a family or a layer whose name in that layout is not known.
    """
    if family not in PLACES:
        raise ValueError(f"no adapters of family '{family}' are written for {layout}: {REFUSED[family]}. Formats for it: {formats(family)}")
    targets: dict[str, tuple[Place, dict[str, Layer]]] = {}
    for layer in layers:
        place = PLACES[family](layer.name, config)
        targets.setdefault(place.name, (place, {}))[1][layer.name] = layer
    dotted, out = layout == "comfyui" and family not in UNETS, {}
    for name, (place, parts) in targets.items():
        key = f"diffusion_model.{name}" if dotted else f"lora_unet_{name.replace('.', '_')}"
        down, up, scale = _joined(place, parts, rows)
        alpha = torch.tensor(scale * len(down), dtype=torch.float32)
        out |= {f"{key}.lora_down.weight": down.contiguous(), f"{key}.lora_up.weight": up.contiguous(), f"{key}.alpha": alpha}
    return out


def formats(family: str) -> str:
    """Those that ``export`` knows for a family, in words."""
    return ", ".join(([] if family in WITHOUT_LOADER else ["diffusers"]) + (list(LORA_FORMATS) if family in PLACES else []) + ["merged"])


def _joined(place: Place, parts: dict[str, Layer], rows: Mapping[str, int]) -> tuple[Tensor, Tensor, float]:
    """down, up and scale of the adapters of one original layer; scales that differ go into up, so that the largest serves all."""
    if len(place.members) == 1:
        (layer,) = parts.values()
        return layer.down, torch.cat(layer.up.chunk(2)[::-1]) if place.flipped else layer.up, layer.scale
    scale = max(layer.scale for layer in parts.values()) or 1.0
    down = torch.cat([parts[member].down for member in place.members if member in parts])
    ups = [parts[m].up * (parts[m].scale / scale) if m in parts else down.new_zeros(rows[m], 0) for m in place.members]
    return down, torch.block_diag(*ups), scale


def _known(names: Mapping[str, str], name: str, whole: str | None = None) -> str:
    if name not in names:
        raise ValueError(f"the adapter changes '{whole or name}', a layer without a known name in this layout: export it for diffusers")
    return names[name]
