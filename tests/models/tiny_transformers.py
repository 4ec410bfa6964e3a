"""The tiny pipelines with a transformer: real classes, random weights, one or two blocks. ``tests.tiny.build`` calls them by kind."""

import json
import string
from pathlib import Path

from tests import tiny

WIDTH = 48  # of T5's states
QWEN_WORDS = [
    "the", "image", "by", "detailing", "color", "shape", "size", "texture", "quantity", "text", "spatial", "relationships", "of", "objects",
    "and", "background",
]  # fmt: skip
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
LABELS = {0: "tench, Tinca tinca", 1: "goldfish", 2: "great white shark, white shark"}


def build_sd3(kind: str, folder: Path):
    """sd3: no T5, plain attention. sd3.5: T5, normed queries and keys, a block with dual attention."""
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    large = kind == "sd3.5"
    first, second = (tiny.build_tokenizer(folder / name, pad=pad) for name, pad in (("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")))
    third = build_t5_tokenizer(folder / "tokenizer_3") if large else None
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=WIDTH, caption_projection_dim=16, pooled_projection_dim=16 + 24, pos_embed_max_size=12,
        dual_attention_layers=(0,) if large else (), qk_norm="rms_norm" if large else None,
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        transformer=transformer, scheduler=build_flow_scheduler(), vae=build_flow_vae(), tokenizer=first, tokenizer_2=second,
        text_encoder=tiny.build_text_encoder(first, 16, projection=True), tokenizer_3=third,
        text_encoder_2=tiny.build_text_encoder(second, 24, projection=True, act="gelu"),
        text_encoder_3=build_t5(third) if large else None,
    )  # fmt: skip


def build_flux(kind: str, folder: Path):
    """flux: dev, which is told the guidance scale. flux-schnell: not told."""
    from diffusers import FluxPipeline, FluxTransformer2DModel

    first, second = tiny.build_tokenizer(folder / "tokenizer"), build_t5_tokenizer(folder / "tokenizer_2")
    transformer = FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=WIDTH,
        pooled_projection_dim=32, guidance_embeds=kind == "flux", axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    return FluxPipeline(
        transformer=transformer, scheduler=build_flow_scheduler(use_dynamic_shifting=kind == "flux"), vae=build_flow_vae(),
        tokenizer=first, text_encoder=tiny.build_text_encoder(first, 32), tokenizer_2=second, text_encoder_2=build_t5(second),
    )  # fmt: skip


def build_pixart(kind: str, folder: Path):
    """pixart_alpha: conditioned on the size, which the stock pipeline does where sample_size is 128."""
    from diffusers import PixArtAlphaPipeline, PixArtSigmaPipeline, PixArtTransformer2DModel

    tokenizer, alpha = build_t5_tokenizer(folder / "tokenizer"), kind == "pixart_alpha"
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=8, num_layers=2, cross_attention_dim=24,
        sample_size=128 if alpha else 8, norm_num_groups=4, caption_channels=WIDTH, use_additional_conditions=alpha,
    )  # fmt: skip
    return (PixArtAlphaPipeline if alpha else PixArtSigmaPipeline)(
        transformer=transformer, scheduler=build_beta_scheduler(), vae=tiny.build_vae(upcast=False), tokenizer=tokenizer,
        text_encoder=build_t5(tokenizer),
    )  # fmt: skip


def build_lumina2(kind: str, folder: Path):
    from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel

    tokenizer = build_gemma_tokenizer(folder / "tokenizer")
    transformer = Lumina2Transformer2DModel(
        sample_size=8, in_channels=4, hidden_size=24, num_layers=1, num_refiner_layers=1, num_attention_heads=2, num_kv_heads=1,
        multiple_of=8, axes_dim_rope=(4, 4, 4), axes_lens=(300, 32, 32), cap_feat_dim=WIDTH,
    )  # fmt: skip
    return Lumina2Pipeline(
        transformer=transformer, scheduler=build_flow_scheduler(), vae=build_flow_vae(), tokenizer=tokenizer,
        text_encoder=build_gemma(tokenizer),
    )  # fmt: skip


def build_qwen_image(kind: str, folder: Path):
    from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = build_qwen_tokenizer(folder / "tokenizer")
    transformer = QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    vae = AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[False], latents_mean=[-0.2, 0.1, 0.3, 0.0],
        latents_std=[0.5, 0.8, 1.2, 0.7],
    )  # fmt: skip
    vae.decoder.conv_out.weight.data *= 4  # else it draws in greys, and no adapter shows
    text = dict(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
    )  # fmt: skip
    eyes = dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=WIDTH, fullatt_block_indexes=[0])
    config = Qwen2_5_VLConfig(text_config=text, vision_config=eyes)
    return QwenImagePipeline(
        transformer=transformer, scheduler=build_flow_scheduler(use_dynamic_shifting=True), vae=vae.eval(), tokenizer=tokenizer,
        text_encoder=Qwen2_5_VLForConditionalGeneration(config).eval(),
    )  # fmt: skip


def build_z_image(kind: str, folder: Path):
    from diffusers import ZImagePipeline, ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    tokenizer = build_qwen_tokenizer(folder / "tokenizer")
    transformer = ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=WIDTH, axes_dims=[4, 6, 6],
        axes_lens=[600, 32, 32],
    )  # fmt: skip
    qwen = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16,
    )  # fmt: skip
    return ZImagePipeline(
        transformer=transformer, scheduler=build_flow_scheduler(), vae=build_flow_vae(), tokenizer=tokenizer,
        text_encoder=Qwen3Model(qwen).eval(),
    )  # fmt: skip


def build_sana(kind: str, folder: Path):
    """The scheduler of the released checkpoints: a DPM solver told to step along a flow."""
    from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel

    tokenizer = build_gemma_tokenizer(folder / "tokenizer")
    transformer = SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=2, num_cross_attention_heads=2,
        cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=WIDTH, sample_size=8,
    )  # fmt: skip
    vae = AutoencoderDC(
        latent_channels=4, attention_head_dim=4, encoder_block_types="ResBlock", decoder_block_types="ResBlock",
        encoder_block_out_channels=(8, 8, 8), decoder_block_out_channels=(8, 8, 8), encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1), scaling_factor=0.41407,
    )  # fmt: skip
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return SanaPipeline(
        transformer=transformer, scheduler=scheduler, vae=vae.eval(), tokenizer=tokenizer, text_encoder=build_gemma(tokenizer)
    )


def build_dit(kind: str, folder: Path):
    from diffusers import DiTPipeline, DiTTransformer2DModel

    from diffalign.models.dit_moe import DiTMoETransformer2DModel

    size = dict(num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8, norm_num_groups=4)
    mixture = kind == "dit_moe"
    transformer = DiTMoETransformer2DModel(num_experts=4, mlp_ratio=2.0, **size) if mixture else DiTTransformer2DModel(**size)
    return DiTPipeline(transformer=transformer, scheduler=build_beta_scheduler(), vae=tiny.build_vae(upcast=False), id2label=LABELS)


def build_t5_tokenizer(folder: Path):
    """A Unigram T5 tokenizer whose pieces are printable characters and the words of ``tiny.WORDS``, and enough others to pass."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import T5TokenizerFast

    pieces = {"<pad>": 0.0, "</s>": 0.0, "<unk>": -10.0, "\u2581": -4.0, **dict.fromkeys(string.printable.strip(), -6.0)}
    pieces |= {"\u2581" + word: -1.0 for word in tiny.WORDS if len(word) > 1} | {f"<piece_{i}>": -20.0 for i in range(200)}
    core = Tokenizer(models.Unigram(list(pieces.items()), unk_id=2))
    core.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always")
    core.post_processor = processors.TemplateProcessing(single=["$A", "</s>"], special_tokens=[("</s>", 1)])
    folder.mkdir(parents=True, exist_ok=True)
    core.save(str(folder / "tokenizer.json"))
    return T5TokenizerFast.from_pretrained(folder, model_max_length=512, extra_ids=0)


def build_gemma_tokenizer(folder: Path):
    """Characters, and enough other entries to pass."""
    from transformers import GemmaTokenizerFast

    entries = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "\u2581", *string.printable.strip(), *(f"<entry_{i}>" for i in range(200))]
    tokenizer = GemmaTokenizerFast({entry: i for i, entry in enumerate(dict.fromkeys(entries))}, [], model_max_length=512)
    tokenizer.save_pretrained(folder)
    return tokenizer


def build_gemma(tokenizer):
    from transformers import Gemma2Config, Gemma2Model

    config = Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16,
    )  # fmt: skip
    return Gemma2Model(config).eval()


def build_qwen_tokenizer(folder: Path):
    """Byte-level, with a token for each of ``tiny.WORDS`` and of the words in Qwen-Image's template, so that 34 tokens begin it."""
    from transformers import Qwen2Tokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    spaced = ["\u0120" + word for word in (*tiny.WORDS, *QWEN_WORDS)]  # U+0120 is the space before a word
    words = [*spaced, "system", "user", "assistant", "Describe"]  # these begin a line
    merges = dict.fromkeys(f"{word[:i]} {word[i]}" for word in words for i in range(1, len(word)))
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*bytes_to_unicode().values(), *(merge.replace(" ", "") for merge in merges), *marks]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(dict.fromkeys(tokens))}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    tokenizer = Qwen2Tokenizer.from_pretrained(folder, model_max_length=2048, additional_special_tokens=marks[1:])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_t5(tokenizer):
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer), d_model=WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
        )  # fmt: skip
    ).eval()


def build_flow_vae():
    """As SD3's and FLUX's: latents have a shift, and there is no quantisation layer."""
    return tiny.build_vae(upcast=False, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False)


def build_flow_scheduler(**options):
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(shift=3.0, **options)


def build_beta_scheduler():
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear")


BUILDERS = {
    "sd3": build_sd3, "sd3.5": build_sd3, "flux": build_flux, "flux-schnell": build_flux,
    "pixart_sigma": build_pixart, "pixart_alpha": build_pixart, "lumina2": build_lumina2, "dit": build_dit,
    "dit_moe": build_dit, "qwen_image": build_qwen_image, "z_image": build_z_image, "sana": build_sana,
}  # fmt: skip
