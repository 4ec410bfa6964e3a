"""The recipe of ``builtin:shapes``: how the shipped model was trained, from nothing but drawn scenes.

    python -m diffalign.worlds.shapes.recipe vae  runs/shapes        autoencoder
    python -m diffalign.worlds.shapes.recipe base runs/shapes        text encoders and UNet, on top of that autoencoder
    python -m diffalign.worlds.shapes.recipe pack runs/shapes        into the package

The result is a folder in the SDXL pipeline format. Each word of a training caption that says something is wrong with a stated probability
(``MISTAKES``), so the base draws wrong colours, shapes, sizes and sides itself, and removing those is what is left to alignment. Only
scenes of the ``train`` split are drawn.
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

from diffalign.worlds.shapes import ASSETS, scenes
from diffalign.worlds.shapes.recipe_text import build_text_encoders, build_tokenizer, encode_text, teach_text

# How often a training caption is wrong about each (colour, shape and size: about each of the two things); see scenes.miscaption.
MISTAKES = {"relation": 0.15, "background": 0.15, "colour": 0.10, "shape": 0.20, "size": 0.20}
# Steps, learning rate and largest weight: the layout first, then the edges, which low noise decides.
PHASES = ((4000, 1.5e-3, 5.0), (3000, 1e-3, 50.0))
EMPTY_CAPTIONS = 0.10  # share of training captions left empty, for classifier-free guidance
CHANNELS, PATCH = 8, 4  # of a latent, and pixels to its side


def build_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 48, 64),
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=scenes.RESOLUTION,
        scaling_factor=1.0,
        shift_factor=0.0,  # said, because SD3's pipeline adds it (recipe_flow.py)
        force_upcast=False,
    )


def build_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
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
    return DPMSolverMultistepScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="trailing")


def patch_code():
    """(N, 3, 32, 32) in [-1, 1] -> (N, 8, 8, 8): what the latents are taught to be, the leading principal components of 4 x 4 patches, each
    over the root of its standard deviation, all together of unit variance."""
    rng = random.Random(0)
    drawings = scenes.draw([scenes.random_scene(rng, "train") for _ in range(4000)], rng) * 2 - 1
    patches = F.pixel_unshuffle(drawings, PATCH).movedim(1, -1).flatten(0, 2)
    mean = patches.mean(0)
    variance, axes = torch.linalg.eigh(torch.cov((patches - mean).T))
    deviation, axes = variance[-CHANNELS:].sqrt(), axes[:, -CHANNELS:]
    axes = axes / deviation.sqrt() / deviation.mean().sqrt()  # a component then has variance deviation / mean(deviation)
    return lambda images: ((F.pixel_unshuffle(images, PATCH).movedim(1, -1) - mean) @ axes).movedim(-1, 1)


def train_vae(folder: Path, steps: int = 2500, batch: int = 32, learning_rate: float = 2e-3, seed: int = 0) -> dict:
    """Encoder: the likelihood of the patch code under its posterior. Decoder: L1 from the code with up to 0.3 of noise, so that it mends
    what a sampler leaves unclear. AdamW, cosine; saves ``folder/vae``."""
    torch.manual_seed(seed)
    rng, vae, code_of, start = random.Random(seed), build_vae(), patch_code(), time.time()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1, i / 100) * (0.5 + 0.5 * math.cos(math.pi * i / steps)))
    for step in range(steps):
        images = scenes.draw([scenes.random_scene(rng, "train") for _ in range(batch)], rng) * 2 - 1
        code = code_of(images)
        with torch.autocast("cpu", torch.bfloat16, enabled=step < 0.85 * steps):
            posterior = vae.encode(images).latent_dist
            decoded = vae.decode(code + 0.3 * torch.rand(batch, 1, 1, 1) * torch.randn_like(code)).sample
        squared, log_variance = (posterior.mean.float() - code).square(), posterior.logvar.float().clamp(-9, 2)
        likelihood = 0.5 * (squared * (-log_variance).exp() + log_variance).mean()
        loss = (decoded.float() - images).abs().mean() + squared.mean() + 0.02 * likelihood
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            facts = {"loss": loss.item(), "code_error": squared.mean().item(), "seconds": round(time.time() - start)}
            print(f"vae {step} {facts}", flush=True)
    vae.save_pretrained(folder / "vae")
    return {"steps": steps, **facts}


def train_base(folder: Path, phase: int = 0, batch: int = 48, seed: int = 0) -> dict:
    """UNet and text encoders together, on the patch code itself: eps-prediction, weight clamp(snr, 0.2, largest) / snr (min-SNR leaves next
    to nothing of the high noise, where the layout is decided), AdamW, cosine. A phase goes on from the moving average that the one before
    it ended with; what ships is that of the last, ``folder/base-1``."""
    steps, learning_rate, largest = PHASES[phase]
    torch.manual_seed(seed + phase)
    rng, start, code_of = random.Random(seed + 1 + phase), time.time(), patch_code()
    pool = [scenes.random_scene(rng, "train") for _ in range(30_000)]
    latents = torch.cat([code_of(scenes.draw(pool[i : i + 500], rng) * 2 - 1) for i in range(0, len(pool), 500)])
    tokenizer = build_tokenizer()
    first, second = build_text_encoders(tokenizer)
    model = torch.nn.ModuleDict({"unet": build_unet(), "first": first, "second": second})
    if phase == 0:
        right = teach_text(tokenizer, first, second, rng)
        print(f"base: text encoders read {right:.4f} right, {time.time() - start:.0f} s", flush=True)
    else:
        before = StableDiffusionXLPipeline.from_pretrained(folder / f"base-{phase - 1}")
        for name, part in (("unet", before.unet), ("first", before.text_encoder), ("second", before.text_encoder_2)):
            model[name].load_state_dict(part.float().state_dict())
    scheduler = build_scheduler()
    alphas = scheduler.alphas_cumprod = torch.cumprod(1 - scheduler.betas, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1, i / 200) * (0.5 + 0.5 * math.cos(math.pi * i / steps)))
    ema = EMAModel(model.parameters(), decay=0.998)
    time_ids = torch.tensor([[scenes.RESOLUTION, scenes.RESOLUTION, 0, 0, scenes.RESOLUTION, scenes.RESOLUTION]]).float()
    average = 0.0
    for step in range(steps):
        rows = [rng.randrange(len(pool)) for _ in range(batch)]
        said = [scenes.miscaption(pool[i], rng, MISTAKES).caption for i in rows]
        states, pooled, _ = encode_text(["" if rng.random() < EMPTY_CAPTIONS else caption for caption in said], tokenizer, first, second)
        extra = {"text_embeds": pooled, "time_ids": time_ids.expand(batch, -1)}
        noise, t = torch.randn(latents[rows].shape), torch.randint(0, 1000, (batch,))
        alpha = alphas[t].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents[rows] + (1 - alpha).sqrt() * noise
        predicted = model["unet"](noisy, t, states, added_cond_kwargs=extra).sample
        snr = compute_snr(scheduler, t)
        loss = ((predicted - noise).square().mean((1, 2, 3)) * snr.clamp(0.2, largest) / snr).mean()
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
            vae = AutoencoderKL.from_pretrained(folder / "vae")
            ema.store(model.parameters())
            ema.copy_to(model.parameters())
            save(folder / (f"base-{phase}" if step == steps - 1 else f"base-{phase}-{step + 1}"), vae, tokenizer, model)
            ema.restore(model.parameters())
    facts = {"steps": steps, "seconds": round(time.time() - start), "learning_rate": learning_rate, "final_loss": round(average, 4)}
    return {**facts, "largest_weight": largest, "mistakes": MISTAKES, "empty_captions": EMPTY_CAPTIONS}


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
    shutil.rmtree(ASSETS / "model", ignore_errors=True)
    shutil.copytree(folder / f"base-{len(PHASES) - 1}", ASSETS / "model")
    facts = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("vae", *(f"base-{i}" for i in range(len(PHASES))))}
    (ASSETS / "recipe.json").write_text(json.dumps(facts, indent=1))
    return facts


def main() -> None:
    if len(sys.argv) != 3 or sys.argv[1] not in ("vae", "base", "pack"):
        sys.exit("usage: python -m diffalign.worlds.shapes.recipe vae|base|pack FOLDER")
    stage, folder = sys.argv[1], Path(sys.argv[2])
    if stage == "vae":
        (folder / "vae.json").write_text(json.dumps(train_vae(folder)))
    elif stage == "base":
        for phase in range(len(PHASES)):
            (folder / f"base-{phase}.json").write_text(json.dumps(train_base(folder, phase)))
    else:
        print(json.dumps(pack(folder), indent=1))


if __name__ == "__main__":
    main()
