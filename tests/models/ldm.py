"""Write a diffusers folder as one checkpoint in the original layout (CompVis' LDM, Stability's SGM): what ``from_single_file`` undoes.

    model.diffusion_model.                UNet             input_blocks.N, middle_block.N, output_blocks.N
    first_stage_model.                    VAE              encoder.down.N.block.N, mid.block_1 attn_1 block_2; attention as 1x1 convolutions
    cond_stage_model.transformer.         SD 1.x's CLIP    as in transformers
    cond_stage_model.model.               SD 2.x's CLIP    as in open_clip: resblocks.N, q k v in one in_proj
    conditioner.embedders.0.transformer.  SDXL's first     as in transformers
    conditioner.embedders.1.model.        SDXL's second    as in open_clip, with text_projection transposed
"""

import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

State = dict[str, torch.Tensor]


def to_single_file(folder: Path, path: Path) -> Path:
    """The pipeline in ``folder`` (SD 1.x, SD 2.x or SDXL) as the single checkpoint ``path``; returns it."""
    folder = Path(folder)
    layers = json.loads((folder / "unet" / "config.json").read_text())["layers_per_block"]
    linear = json.loads((folder / "unet" / "config.json").read_text())["use_linear_projection"]
    out = _prefixed("model.diffusion_model.", unet(_weights(folder / "unet"), layers))
    out |= _prefixed("first_stage_model.", vae(_weights(folder / "vae")))
    first = _weights(folder / "text_encoder")
    if (folder / "text_encoder_2").is_dir():
        out |= _prefixed("conditioner.embedders.0.transformer.", clip(first))
        out |= _prefixed("conditioner.embedders.1.model.", open_clip(_weights(folder / "text_encoder_2")))
    elif linear:
        out |= _prefixed("cond_stage_model.model.", open_clip(first))
    else:
        out |= _prefixed("cond_stage_model.transformer.", clip(first))
    save_file({key: value.contiguous() for key, value in out.items()}, path)
    return path


def unet(state: State, layers: int) -> State:
    """Blocks are counted through: a down block is ``layers`` resnets and a downsampler, an up block ``layers + 1`` resnets."""
    groups = len({key.split(".")[1] for key in state if key.startswith("down_blocks.")})
    named = {
        "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
        "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2", "conv_norm_out": "out.0", "conv_out": "out.2",
    }  # fmt: skip
    for j, (kind, position) in enumerate((("resnets", 0), ("attentions", 1), ("resnets", 2))):
        named[f"mid_block.{kind}.{j // 2}"] = f"middle_block.{position}"
    for block in range(groups):
        for i in range(layers):
            place = 1 + block * (layers + 1) + i
            named[f"down_blocks.{block}.resnets.{i}"] = f"input_blocks.{place}.0"
            named[f"down_blocks.{block}.attentions.{i}"] = f"input_blocks.{place}.1"
        named[f"down_blocks.{block}.downsamplers.0.conv"] = f"input_blocks.{1 + block * (layers + 1) + layers}.0.op"
        for i in range(layers + 1):
            place = block * (layers + 1) + i
            named[f"up_blocks.{block}.resnets.{i}"] = f"output_blocks.{place}.0"
            named[f"up_blocks.{block}.attentions.{i}"] = f"output_blocks.{place}.1"
        attends = any(key.startswith(f"up_blocks.{block}.attentions.") for key in state)
        last = block * (layers + 1) + layers
        named[f"up_blocks.{block}.upsamplers.0.conv"] = f"output_blocks.{last}.{2 if attends else 1}.conv"
    resnet = {
        "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
        "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
    }  # fmt: skip
    out = {}
    for key, value in state.items():
        old = next(name for name in named if key.startswith(name + "."))
        rest = key.removeprefix(old + ".")
        if ".resnets." in key:
            part, kind = rest.split(".")
            rest = f"{resnet[part]}.{kind}"
        out[f"{named[old]}.{rest}"] = value
    return out


def vae(state: State) -> State:
    ups = len({key.split(".")[2] for key in state if key.startswith("decoder.up_blocks.")})
    attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    out = {}
    for key, value in state.items():
        new = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        new = re.sub(r"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)", r"encoder.down.\1.block.\2", new)
        new = re.sub(r"encoder\.down_blocks\.(\d+)\.downsamplers\.0", r"encoder.down.\1.downsample", new)
        new = re.sub(r"decoder\.up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"decoder.up.{ups - 1 - int(m[1])}.block.{m[2]}", new)
        new = re.sub(r"decoder\.up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"decoder.up.{ups - 1 - int(m[1])}.upsample", new)
        new = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", new)
        if ".mid_block.attentions.0." in new:
            before, rest = new.split("mid_block.attentions.0.")
            part, kind = rest.rsplit(".", 1)
            new = f"{before}mid.attn_1.{attention[part]}.{kind}"
            value = value[:, :, None, None] if value.ndim == 2 else value
        out[new] = value
    return out


def clip(state: State) -> State:
    """transformers' own names, as version 4 wrote them: under ``text_model.``."""
    return {f"text_model.{key.removeprefix('text_model.')}": value for key, value in state.items()}


def open_clip(state: State) -> State:
    named = {
        "embeddings.position_embedding.weight": "positional_embedding", "embeddings.token_embedding.weight": "token_embedding.weight",
        "final_layer_norm.weight": "ln_final.weight", "final_layer_norm.bias": "ln_final.bias",
    }  # fmt: skip
    parts = {
        "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj",
    }  # fmt: skip
    state = {key.removeprefix("text_model."): value for key, value in state.items()}
    out = {}
    for key, value in state.items():
        if key in named:
            out[named[key]] = value
        elif key == "text_projection.weight":
            out["text_projection"] = value.T
        elif match := re.fullmatch(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)", key):
            whole = [state[key.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            out[f"transformer.resblocks.{match[1]}.attn.in_proj_{match[2]}"] = torch.cat(whole)
        elif not re.search(r"\.[kv]_proj\.", key):
            _, _, layer, rest = key.split(".", 3)
            part, kind = rest.rsplit(".", 1)
            out[f"transformer.resblocks.{layer}.{parts[part]}.{kind}"] = value
    return out


def _weights(folder: Path) -> State:
    (file,) = folder.glob("*.safetensors")
    state = load_file(file)
    return {key: value for key, value in state.items() if not key.endswith("position_ids")}


def _prefixed(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}
