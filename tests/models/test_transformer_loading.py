"""Where transformers come from: single files that hold the denoiser alone, missing text encoders, tokenizers that came up empty."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffalign.models import load_model
from tests.models.shared import inputs
from tests.tiny import TRANSFORMERS

SD3_NAMES = {  # diffusers -> Stability's original layout
    "pos_embed.proj": "x_embedder.proj", "pos_embed.pos_embed": "pos_embed", "proj_out": "final_layer.linear",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0", "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0", "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "norm_out.linear": "final_layer.adaLN_modulation.1", "norm1_context.linear": "context_block.adaLN_modulation.1",
    "norm1.linear": "x_block.adaLN_modulation.1", "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2", "ff.net.0.proj": "x_block.mlp.fc1", "ff.net.2": "x_block.mlp.fc2",
    "attn.to_out.0": "x_block.attn.proj", "attn2.to_out.0": "x_block.attn2.proj", "attn.to_add_out": "context_block.attn.proj",
    "attn.norm_added_q": "context_block.attn.ln_q", "attn.norm_added_k": "context_block.attn.ln_k",
    "attn.norm_q": "x_block.attn.ln_q", "attn.norm_k": "x_block.attn.ln_k",
    "attn2.norm_q": "x_block.attn2.ln_q", "attn2.norm_k": "x_block.attn2.ln_k",
}  # fmt: skip
FUSED = {  # the first of three -> all three, and their common name
    "attn.to_q": ("attn.to_k", "attn.to_v", "x_block.attn.qkv"),
    "attn2.to_q": ("attn2.to_k", "attn2.to_v", "x_block.attn2.qkv"),
    "attn.add_q_proj": ("attn.add_k_proj", "attn.add_v_proj", "context_block.attn.qkv"),
}


def sd3_file(folder, path):
    """The transformer of a tiny SD3 as the original checkpoint's ``model.diffusion_model.*``."""
    (file,) = (folder / "transformer").glob("*.safetensors")
    state, out = load_file(file), {}
    last = max(int(key.split(".")[1]) for key in state if key.startswith("transformer_blocks."))
    for key, value in state.items():
        block, name = re.fullmatch(r"(transformer_blocks\.\d+\.)?(.*)", key).groups()
        name, _, kind = name.rpartition(".") if name != "pos_embed.pos_embed" else (name, "", "")
        place = (block or "").replace("transformer_blocks", "joint_blocks")
        if name in FUSED:
            *others, fused = FUSED[name]
            out[f"{place}{fused}.{kind}"] = torch.cat([value, *(state[f"{block}{other}.{kind}"] for other in others)])
        elif name in SD3_NAMES:
            if name == "norm_out.linear" or (name == "norm1_context.linear" and block == f"transformer_blocks.{last}."):
                value = torch.cat(value.chunk(2)[::-1])  # scale and shift change places
            out[f"{place}{SD3_NAMES[name]}.{kind}".rstrip(".")] = value
        elif not any(name in others for others in FUSED.values()):
            out[key] = value
    save_file({f"model.diffusion_model.{key}": value.contiguous() for key, value in out.items()}, path)
    return str(path)


@pytest.mark.parametrize("kind", ["sd3", "sd3.5"])
def test_a_single_file_gives_the_transformer_and_config_the_rest(kind, folders, tmp_path):
    file, model = sd3_file(Path(folders(kind)), tmp_path / "sd3.safetensors"), load_model(folders(kind))
    ours = load_model(file, config=folders(kind))
    assert ours.family == "sd3" and ours.provenance() == model.provenance()
    assert torch.equal(ours.predict(*inputs(ours)), model.predict(*inputs(model)))
    ours.release_encoders()
    assert ours.pipeline().transformer is ours.denoiser
    with pytest.raises(ValueError, match="gives the transformer of family 'sd3' alone: pass config="):
        load_model(file)
    with pytest.raises(ValueError, match="of family 'sd3' and config=.* of family 'flux'"):
        load_model(file, config=folders("flux"))


def test_the_family_of_other_files(tmp_path, folders):
    """FLUX's own layout is known by its keys; diffusers translates it, with FLUX's real width written into the translation."""
    keys = ("double_blocks.0.img_attn.qkv.weight", "single_blocks.0.linear1.weight", "vector_in.in_layer.weight")
    save_file({key: torch.zeros(1) for key in keys}, tmp_path / "flux.safetensors")
    with pytest.raises(ValueError, match="gives the transformer of family 'flux' alone"):
        load_model(str(tmp_path / "flux.safetensors"))
    for name, first in (("pixart_sigma", "t_block.1.weight"), ("dit", "t_embedder.mlp.0.weight")):
        save_file({key: torch.zeros(1) for key in (first, "y_embedder.y", "blocks.0.mlp.fc1.weight")}, tmp_path / "other.safetensors")
        with pytest.raises(ValueError, match=f"of family '{name}', which diffusers reads no single files of: pass a diffusers folder"):
            load_model(str(tmp_path / "other.safetensors"))


def changed_copy(folder, to, **index):
    shutil.copytree(folder, to)
    file = to / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | index))
    return str(to)


def test_only_t5_of_sd3_may_be_missing(folders, tmp_path):
    model = load_model(changed_copy(folders("sd3.5"), tmp_path / "a", text_encoder_3=[None, None], tokenizer_3=[None, None]))
    states = model.encode_prompts(["a circle"])["prompt_embeds"]
    assert list(model.text_encoders) == ["text_encoder", "text_encoder_2"] and not states[:, -256:].any() and states[:, :-256].any()
    for kind, part in (("sd3.5", "text_encoder_2"), ("flux", "text_encoder_2"), ("pixart_sigma", "text_encoder")):
        folder = changed_copy(folders(kind), tmp_path / f"{kind}-{part}", **{part: [None, None]})
        with pytest.raises(ValueError, match=f"has no {part} in its model_index.json, and prompts need it"):
            load_model(folder)


@pytest.mark.parametrize(("kind", "name"), [("sd3.5", "tokenizer_3"), ("flux", "tokenizer_2"), ("pixart_alpha", "tokenizer")])
def test_an_empty_t5_tokenizer_is_refused(kind, name, folders, tmp_path):
    folder = shutil.copytree(folders(kind), tmp_path / "model")
    (folder / name / "tokenizer.json").unlink()  # transformers 5 makes a tokenizer of four entries from what is left
    with pytest.raises(ValueError, match=f"{name} of .* has a vocabulary of .* spiece.model, which needs the package sentencepiece"):
        load_model(str(folder))


def test_networks_with_further_inputs_are_refused(folders, tmp_path):
    import diffusers

    qwen, nine = diffusers.QwenImageTransformer2DModel, {"in_channels": 9}
    cases = [
        ("sd3", diffusers.SD3Transformer2DModel, nine, "takes 9 channels and latents have 4"),
        ("flux", diffusers.FluxTransformer2DModel, {"in_channels": 32}, "takes 32 channels and packed latents have 16: Fill and Control"),
        ("pixart_sigma", diffusers.PixArtTransformer2DModel, nine, "takes 9 channels and latents have 4"),
        ("dit", diffusers.DiTTransformer2DModel, {"in_channels": 5}, "takes 5 channels and latents have 4"),
        ("qwen_image", qwen, {"in_channels": 32}, "takes 32 channels and packed latents have 16: load a text-to-image model"),
        ("qwen_image", qwen, {"guidance_embeds": True}, "has guidance_embeds, an input that is not supported"),
        ("qwen_image", qwen, {"use_additional_t_cond": True}, "has use_additional_t_cond, an input that is not supported"),
        ("z_image", diffusers.ZImageTransformer2DModel, nine, "takes 9 channels and latents have 4"),
        ("sana", diffusers.SanaTransformer2DModel, nine, "takes 9 channels and latents have 4"),
        ("sana", diffusers.SanaTransformer2DModel, {"guidance_embeds": True}, "is told a guidance scale, as Sana-Sprint's is"),
    ]
    for i, (kind, network, changes, message) in enumerate(cases):
        folder = shutil.copytree(folders(kind), tmp_path / f"{i}")
        config = network.load_config(folder / "transformer")
        network.from_config(config | changes).save_pretrained(folder / "transformer")
        with pytest.raises(ValueError, match=message):
            load_model(str(folder))


def test_every_family_of_transformers_has_a_tiny_one():
    from diffalign.models.loading import FAMILIES
    from diffalign.models.places import NETWORKS, PIPELINES

    assert set(TRANSFORMERS.values()) == set(FAMILIES) - {"sd", "sdxl"} and {*PIPELINES.values(), *NETWORKS.values()} == set(FAMILIES)
