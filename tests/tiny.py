"""Real pipelines at tiny size, made without a network: build("sd15" | "sd21" | "sd21-zero-snr" | "sdxl" | a transformer's kind, folder).

Every class is the real one with the real layout of its family (which blocks attend, which projections are linear, how the tokenizers
pad), random weights, and sizes that run in milliseconds. ``to_single_file`` (tests/models/ldm.py) writes them as one checkpoint.
Pipelines with a transformer are in tests/models/tiny_transformers.py.
"""

import json
from pathlib import Path

import torch

from tests.models.ldm import to_single_file

__all__ = ["FAMILIES", "TOKENS", "build", "build_tokenizer", "to_single_file"]

TOKENS = 24  # the tokenizers' model_max_length: nothing may assume 77
WORDS = ["a", "large", "small", "red", "blue", "green", "circle", "square", "triangle", "above", "below", "on", "white", "background"]
FAMILIES = {"sd15": "sd", "sd21": "sd", "sd21-zero-snr": "sd", "sdxl": "sdxl"}
TRANSFORMERS = {
    "sd3": "sd3", "sd3.5": "sd3", "flux": "flux", "flux-schnell": "flux",
    "pixart_sigma": "pixart_sigma", "pixart_alpha": "pixart_alpha", "lumina2": "lumina2", "dit": "dit", "dit_moe": "dit_moe",
    "qwen_image": "qwen_image", "z_image": "z_image", "sana": "sana",
}  # fmt: skip


def build(kind: str, folder: Path, seed: int = 0, force_zeros: bool = True) -> Path:
    """Save the tiny pipeline ``kind`` in ``folder`` and return it. ``force_zeros``: SDXL's ``force_zeros_for_empty_prompt``."""
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    folder = Path(folder)
    if kind in TRANSFORMERS:
        return _build_transformer(kind, folder, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = build_tokenizer(folder / "tokenizer", pad="<|endoftext|>" if kind != "sd21" else "!")
        parts = dict(vae=build_vae(upcast=kind == "sdxl"), unet=build_unet(kind), scheduler=build_scheduler(kind), tokenizer=tokenizer)
        if kind == "sdxl":
            second = build_tokenizer(folder / "tokenizer_2", pad="!")
            pipeline = StableDiffusionXLPipeline(
                text_encoder=build_text_encoder(tokenizer, 32), tokenizer_2=second,
                text_encoder_2=build_text_encoder(second, 48, projection=True, act="gelu"),
                force_zeros_for_empty_prompt=force_zeros, add_watermarker=False, **parts,
            )  # fmt: skip
        else:
            pipeline = StableDiffusionPipeline(
                text_encoder=build_text_encoder(tokenizer, 32, act="quick_gelu" if kind == "sd15" else "gelu"),
                safety_checker=None, feature_extractor=None, requires_safety_checker=False, **parts,
            )  # fmt: skip
    pipeline.save_pretrained(folder)
    return folder


def _build_transformer(kind: str, folder: Path, seed: int) -> Path:
    """Weights that DiTs initialise to zero, which would hide mistakes, are made random."""
    from tests.models.tiny_transformers import BUILDERS, LABELS

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        pipeline = BUILDERS[kind](kind, folder)
        for parameter in pipeline.transformer.parameters():
            if not parameter.any():
                parameter.normal_(std=0.2)
    pipeline.save_pretrained(folder)
    if kind.startswith("dit"):  # diffusers does not save it
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps(index | {"id2label": LABELS}))
    return folder


def build_tokenizer(folder: Path, pad: str = "<|endoftext|>"):
    """A byte-level CLIP tokenizer whose merges make each of WORDS one token; from files, which transformers 4 and 5 both read."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    tokens, merges = letters + [letter + "</w>" for letter in letters], []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            pair = f"{pieces[0]} {pieces[1]}"
            if pair not in merges:
                merges.append(pair)
                tokens.append(pieces[0] + pieces[1])
            pieces[:2] = [pieces[0] + pieces[1]]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*tokens, "<|startoftext|>", "<|endoftext|>"]))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    return CLIPTokenizer.from_pretrained(folder, model_max_length=TOKENS, pad_token=pad)


def build_text_encoder(tokenizer, size: int, projection: bool = False, act: str = "quick_gelu"):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=size, intermediate_size=2 * size, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=TOKENS, projection_dim=size, hidden_act=act,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def build_vae(upcast: bool, **changes):
    from diffusers import AutoencoderKL

    config = dict(
        block_out_channels=(8, 16), down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=16, force_upcast=upcast, scaling_factor=0.18215,
    )  # fmt: skip
    return AutoencoderKL(**(config | changes)).eval()


def build_unet(kind: str):
    """SD 1.5: convolutional projections, attention in the outer blocks. SD 2.1: linear ones. SDXL: inner blocks, text_time."""
    from diffusers import UNet2DConditionModel

    outer = ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D")
    inner = ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")
    down, up = inner if kind == "sdxl" else outer
    extra = dict(
        cross_attention_dim=80, transformer_layers_per_block=(1, 1, 2), addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=48 + 6 * 8,
    ) if kind == "sdxl" else dict(cross_attention_dim=32)  # fmt: skip
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 16, 32), down_block_types=down, up_block_types=up,
        layers_per_block=1, attention_head_dim=2, norm_num_groups=8, use_linear_projection=kind != "sd15", **extra,
    ).eval()  # fmt: skip


def build_scheduler(kind: str):
    from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler

    betas = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
    if kind == "sd15":
        return PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, **betas)
    if kind == "sdxl":
        return EulerDiscreteScheduler(timestep_spacing="leading", **betas)
    zero_snr = dict(rescale_betas_zero_snr=True, timestep_spacing="trailing") if kind == "sd21-zero-snr" else {}
    return DDIMScheduler(prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, **betas, **zero_snr)
