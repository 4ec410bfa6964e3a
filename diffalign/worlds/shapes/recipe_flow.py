"""The recipe of ``builtin:shapes-flow``: the same world by flow matching, an MMDiT in the pipeline format of Stable Diffusion 3.

    python -m diffalign.worlds.shapes.recipe_flow FOLDER           train; FOLDER/model is the whole pipeline
    python -m diffalign.worlds.shapes.recipe_flow FOLDER pack      into the package, without the parts that builtin:shapes ships already

Autoencoder and text encoders are those of ``builtin:shapes``, frozen. Captions are wrong as often as there (``recipe.MISTAKES``), so what
is left to alignment is the same.
"""

import json
import math
import random
import shutil
import sys
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from diffusers.training_utils import EMAModel

from diffalign.denoising import denoising_error, timesteps
from diffalign.models import load_model
from diffalign.worlds.shapes import ASSETS, MODEL, scenes
from diffalign.worlds.shapes.flow import text_parts
from diffalign.worlds.shapes.recipe import CHANNELS, EMPTY_CAPTIONS, MISTAKES, PATCH, patch_code

WIDTH, HEADS, LAYERS = 64, 2, 4
# Of logit(s), from the first step to the last: the layout first, which high noise decides (the paper's (0, 1) has 1.4 % above s = 0.9),
# then the shapes.
LOGIT_MEAN, LOGIT_STD = (0.6, -0.1), 1.2


def build_transformer(text: int, pooled: int) -> SD3Transformer2DModel:
    """A token per latent, queries and keys normed as in SD 3.5. text, pooled: widths of the conditioning."""
    side = scenes.RESOLUTION // PATCH
    return SD3Transformer2DModel(
        sample_size=side, patch_size=1, in_channels=CHANNELS, out_channels=CHANNELS, num_layers=LAYERS,
        attention_head_dim=WIDTH // HEADS, num_attention_heads=HEADS, joint_attention_dim=text, caption_projection_dim=WIDTH,
        pooled_projection_dim=pooled, pos_embed_max_size=side, qk_norm="rms_norm",
    )  # fmt: skip


def build_pipeline() -> StableDiffusion3Pipeline:
    """Around an untrained transformer."""
    parts = text_parts()
    configs = [parts[name].config for name in ("text_encoder", "text_encoder_2")]
    return StableDiffusion3Pipeline(
        transformer=build_transformer(sum(c.hidden_size for c in configs), sum(c.projection_dim for c in configs)),
        vae=AutoencoderKL.from_pretrained(MODEL / "vae"), scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        text_encoder_3=None, tokenizer_3=None, **parts,
    )  # fmt: skip


def train_base(folder: Path, steps: int = 9000, batch: int = 48, learning_rate: float = 3e-3, seed: int = 0) -> dict:
    """Rectified flow on the patch code: mean of |v(x_s, s) - (noise - x0)|^2 with x_s = (1 - s) x0 + s noise and logit(s) normal
    (arXiv:2403.03206, sections 2 and 3.1), every s of equal weight; AdamW, cosine to zero. What is saved is the moving average.

    *Deviates:* the mean of logit(s) moves over the run (``LOGIT_MEAN``)."""
    torch.manual_seed(seed)
    rng, code_of, start = random.Random(seed + 1), patch_code(), time.time()
    pool = [scenes.random_scene(rng, "train") for _ in range(30_000)]
    latents = torch.cat([code_of(scenes.draw(pool[i : i + 500], rng) * 2 - 1) for i in range(0, len(pool), 500)])
    build_pipeline().save_pretrained(folder / "start")
    model = load_model(str(folder / "start"), max_sequence_length=0)
    network = model.denoiser.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1, i / 200) * (0.5 + 0.5 * math.cos(math.pi * i / steps)))
    ema = EMAModel(network.parameters(), decay=0.998)
    average = 0.0
    for step in range(steps):
        rows = [rng.randrange(len(pool)) for _ in range(batch)]
        said = [scenes.miscaption(pool[i], rng, MISTAKES).caption for i in rows]
        conditioning = model.encode_prompts(["" if rng.random() < EMPTY_CAPTIONS else caption for caption in said])
        mean = LOGIT_MEAN[0] + (LOGIT_MEAN[1] - LOGIT_MEAN[0]) * step / steps
        sampler = timesteps.get("logit_normal", logit_mean=mean, logit_std=LOGIT_STD)
        x0, t = latents[rows], sampler(torch.rand(batch, dtype=torch.float64), model.path)
        noise = torch.randn(x0.shape)
        prediction = model.predict(model.path.add_noise(x0, noise, t), t, conditioning)
        loss = denoising_error(prediction, model.path.target(x0, noise, t)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        ema.step(network.parameters())
        average = 0.98 * average + 0.02 * loss.item() if step else loss.item()
        if step % 200 == 0 or step == steps - 1:
            print(f"flow {step} loss {average:.4f} {time.time() - start:.0f} s", flush=True)
        if (step + 1) % 2000 == 0 or step == steps - 1:
            ema.store(network.parameters())
            ema.copy_to(network.parameters())
            save(folder / ("model" if step == steps - 1 else f"model-{step + 1}"), model)
            ema.restore(network.parameters())
    facts = {"steps": steps, "seconds": round(time.time() - start), "learning_rate": learning_rate, "final_loss": round(average, 4)}
    return {**facts, "logit_mean": LOGIT_MEAN, "logit_std": LOGIT_STD, "mistakes": MISTAKES, "empty_captions": EMPTY_CAPTIONS}


def save(folder: Path, model) -> None:
    """The whole pipeline in diffusers' folder format; the transformer's weights in half precision, the other parts as they were."""
    model.pipeline().save_pretrained(folder)
    network = SD3Transformer2DModel.from_pretrained(folder / "transformer").half()
    network.save_pretrained(folder / "transformer")


def pack(folder: Path) -> None:
    """The trained transformer into the package, with the facts of its training."""
    target = ASSETS / "flow"
    shutil.rmtree(target, ignore_errors=True)
    for name in ("scheduler", "transformer"):
        shutil.copytree(folder / "model" / name, target / name)
    for file in (folder / "model" / "model_index.json", folder / "recipe.json"):
        shutil.copy(file, target)
    for file in target.rglob("*.safetensors"):
        file.chmod(0o644)  # safetensors writes them for their owner alone


def main() -> None:
    folder, *stage = sys.argv[1:] or [""]
    if not folder or stage not in ([], ["pack"]):
        sys.exit("usage: python -m diffalign.worlds.shapes.recipe_flow FOLDER [pack]")
    if stage:
        pack(Path(folder))
    else:
        (Path(folder) / "recipe.json").write_text(json.dumps(train_base(Path(folder)), indent=1))


if __name__ == "__main__":
    main()
