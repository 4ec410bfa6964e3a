"""The recipe of ``builtin:shapes``: how the shipped model was trained, from nothing but drawn scenes.

    python -m diffalign.worlds.shapes.recipe vae  runs/shapes        autoencoder
    python -m diffalign.worlds.shapes.recipe base runs/shapes        text encoders and UNet, on top of that autoencoder
    python -m diffalign.worlds.shapes.recipe pack runs/shapes        into the package

The result is a folder in the SDXL pipeline format. The base is trained on captions of which a stated share carries one categorical
mistake (``scenes.miscaption``; which ones, and how often, is ``PHASES``), so it makes categorical mistakes itself, which
is what alignment then has to remove. Only scenes of the ``train`` split are drawn.
"""

import copy
import json
import math
import random
import shutil
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.training_utils import EMAModel, compute_snr
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from diffalign.worlds.shapes import ASSETS, scenes

WRONG_CAPTIONS = 0.50  # share of training captions with one categorical mistake
PHASES = (  # steps, learning rate, and which mistakes: the first mix hides what belongs together, so the second mostly spares it
    (5000, 1.5e-3, {"relation": 0.4, "exchange": 0.4, "shape": 0.2}),
    (3500, 1.2e-3, {"relation": 0.1, "exchange": 0.1, "shape": 0.3, "colour": 0.3, "size": 0.1, "background": 0.1}),
)
EMPTY_CAPTIONS = 0.10  # share of training captions left empty, for classifier-free guidance
TOKENS = 18


def build_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 48, 64),
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=scenes.RESOLUTION,
        force_upcast=False,
    )


def build_tokenizer() -> CLIPTokenizer:
    """A byte-level CLIP tokenizer whose merges make each word of the captions one token."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    learner = trainers.BpeTrainer(vocab_size=1000, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False)
    bpe.train_from_iterator((scenes.random_scene(random.Random(i)).caption for i in range(500)), learner)
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    letters = sorted(alphabet)
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS)


def build_text_encoders(tokenizer: CLIPTokenizer):
    shape = dict(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=TOKENS, projection_dim=64, hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return CLIPTextModel(CLIPTextConfig(**shape)), CLIPTextModelWithProjection(CLIPTextConfig(**shape))


def build_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(48, 72),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        transformer_layers_per_block=1,
        attention_head_dim=(3, 4),  # the number of heads, as in SDXL's own config
        cross_attention_dim=128,
        use_linear_projection=True,
        norm_num_groups=8,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=64 + 6 * 8,
    )


def build_scheduler() -> DPMSolverMultistepScheduler:
    """SDXL's noise schedule with a solver that needs 8 steps for these pictures."""
    return DPMSolverMultistepScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1
    )


def train_vae(folder: Path, steps: int = 3000, batch: int = 32, learning_rate: float = 2e-3, seed: int = 0) -> dict:
    """L1 + 1e-3 KL (mean over latent elements), AdamW, cosine; saves ``folder/vae`` with its latents' 1 / std as scaling factor."""
    torch.manual_seed(seed)
    rng, vae, start = random.Random(seed), build_vae(), time.time()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1, i / 100) * (0.5 + 0.5 * math.cos(math.pi * i / steps)))
    for step in range(steps):
        images = scenes.draw([scenes.random_scene(rng, "train") for _ in range(batch)], rng) * 2 - 1
        with torch.autocast("cpu", torch.bfloat16, enabled=step < 0.85 * steps):
            posterior = vae.encode(images).latent_dist
            decoded = vae.decode(posterior.sample()).sample
        loss = (decoded.float() - images).abs().mean() + 1e-3 * posterior.kl().mean() / posterior.mean[0].numel()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            psnr = -10 * math.log10(F.mse_loss(decoded.float() / 2, images / 2).item())
            print(
                f"vae {step} loss {loss.item():.4f} psnr {psnr:.1f} std {posterior.mean.std().item():.2f} {time.time() - start:.0f} s",
                flush=True,
            )
    with torch.no_grad():
        images = scenes.draw([scenes.random_scene(rng, "train") for _ in range(512)], rng) * 2 - 1
        latents = vae.encode(images).latent_dist.sample()
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 4))
    vae.save_pretrained(folder / "vae")
    return {"vae_steps": steps, "vae_psnr": psnr, "vae_seconds": round(time.time() - start)}


def encode_text(captions, tokenizer, first, second):
    """SDXL's conditioning: both penultimate hidden states side by side (N, L, 128), and the second encoder's projection (N, 64)."""
    tokens = tokenizer(captions, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt").input_ids
    one, two = (encoder(tokens, output_hidden_states=True) for encoder in (first, second))
    return torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=-1), two.text_embeds


def train_base(folder: Path, phase: int = 0, batch: int = 48, seed: int = 0) -> dict:
    """Text encoders and UNet together: eps-prediction, min-SNR 5, AdamW, cosine, EMA. A phase starts from the EMA that the one before it
    ended with, and the shipped weights are the EMA at the end of the last."""
    steps, learning_rate, kinds = PHASES[phase]
    torch.manual_seed(seed + phase)
    rng, start = random.Random(seed + 1 + phase), time.time()
    vae = AutoencoderKL.from_pretrained(folder / "vae").eval()
    with torch.no_grad():  # a pool of drawn scenes, encoded once
        pool = [scenes.random_scene(rng, "train") for _ in range(40_000)]
        latents = torch.cat([
            vae.encode(scenes.draw(pool[i : i + 500], rng) * 2 - 1).latent_dist.sample() for i in range(0, len(pool), 500)
        ]) * vae.config.scaling_factor  # fmt: skip
    print(f"base: pool encoded, {time.time() - start:.0f} s", flush=True)
    tokenizer = build_tokenizer()
    first, second = build_text_encoders(tokenizer)
    model = torch.nn.ModuleDict({"unet": build_unet(), "first": first, "second": second})
    if phase > 0:
        before = StableDiffusionXLPipeline.from_pretrained(folder / f"base-{phase - 1}")
        for name, part in (("unet", before.unet), ("first", before.text_encoder), ("second", before.text_encoder_2)):
            model[name].load_state_dict(part.float().state_dict())
    scheduler = build_scheduler()
    alphas = torch.cumprod(1 - scheduler.betas, 0)
    scheduler.alphas_cumprod = alphas
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1, i / 200) * (0.5 + 0.5 * math.cos(math.pi * i / steps)))
    ema = EMAModel(model.parameters(), decay=0.998)
    time_ids = torch.tensor([[scenes.RESOLUTION, scenes.RESOLUTION, 0, 0, scenes.RESOLUTION, scenes.RESOLUTION]]).float()
    average = 0.0
    for step in range(steps):
        rows = [rng.randrange(len(pool)) for _ in range(batch)]
        said = [scenes.miscaption(pool[i], rng, kinds) if rng.random() < WRONG_CAPTIONS else pool[i] for i in rows]
        captions = ["" if rng.random() < EMPTY_CAPTIONS else scene.caption for scene in said]
        noise, t = torch.randn(batch, 4, 8, 8), torch.randint(0, 1000, (batch,))
        alpha = alphas[t].view(-1, 1, 1, 1)
        states, pooled = encode_text(captions, tokenizer, first, second)
        extra = {"text_embeds": pooled, "time_ids": time_ids.expand(batch, -1)}
        noisy = alpha.sqrt() * latents[rows] + (1 - alpha).sqrt() * noise
        predicted = model["unet"](noisy, t, states, added_cond_kwargs=extra).sample
        snr = compute_snr(scheduler, t)
        loss = ((predicted - noise).square().mean((1, 2, 3)) * snr.clamp(max=5) / snr).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        ema.step(model.parameters())
        average = 0.98 * average + 0.02 * loss.item() if step else loss.item()
        if step % 200 == 0 or step == steps - 1:
            print(f"base {step} loss {average:.4f} {time.time() - start:.0f} s", flush=True)
        if (step + 1) % 1000 == 0 or step == steps - 1:
            ema.store(model.parameters())
            ema.copy_to(model.parameters())
            save(folder / (f"base-{phase}" if step == steps - 1 else f"base-{phase}-{step + 1}"), vae, tokenizer, model)
            ema.restore(model.parameters())
    facts = {"steps": steps, "seconds": round(time.time() - start), "learning_rate": learning_rate, "final_loss": round(average, 4)}
    return {**facts, "wrong_captions": WRONG_CAPTIONS, "mistakes": kinds}


def save(folder: Path, vae, tokenizer, model) -> None:
    """The pipeline in diffusers' folder format, weights in half precision."""
    parts = {name: copy.deepcopy(part).eval().half() for name, part in {"vae": vae, **model}.items()}
    StableDiffusionXLPipeline(
        vae=parts["vae"], text_encoder=parts["first"], text_encoder_2=parts["second"], tokenizer=tokenizer, tokenizer_2=tokenizer,
        unet=parts["unet"], scheduler=build_scheduler(), force_zeros_for_empty_prompt=False, add_watermarker=False,
    ).save_pretrained(folder)  # fmt: skip
    for name in ("tokenizer", "tokenizer_2"):  # the two files that transformers before version 5 reads, beside tokenizer.json
        bpe = json.loads((folder / name / "tokenizer.json").read_text())["model"]
        (folder / name / "vocab.json").write_text(json.dumps(bpe["vocab"]))
        (folder / name / "merges.txt").write_text("#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in bpe["merges"]))


def pack(folder: Path) -> dict:
    """The finished base into the package, with the facts of its training."""
    last = len(PHASES) - 1
    shutil.rmtree(ASSETS / "model", ignore_errors=True)
    shutil.copytree(folder / f"base-{last}", ASSETS / "model")
    facts = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("vae", *(f"base-{i}" for i in range(last + 1)))}
    (ASSETS / "recipe.json").write_text(json.dumps(facts, indent=1))
    return facts


def main() -> None:
    stage, folder, options = sys.argv[1], Path(sys.argv[2]), {k: int(v) for k, v in (text.split("=") for text in sys.argv[3:])}
    if stage == "vae":
        (folder / "vae.json").write_text(json.dumps(train_vae(folder, **options)))
    elif stage == "base":
        for phase in range(options.get("phase", 0), len(PHASES)):
            (folder / f"base-{phase}.json").write_text(json.dumps(train_base(folder, phase)))
    elif stage == "pack":
        print(json.dumps(pack(folder), indent=1))
    else:
        sys.exit(f"unknown stage {stage!r}; use vae, base or pack")


if __name__ == "__main__":
    main()
