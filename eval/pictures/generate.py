"""Pictures of many prompts by a stock pipeline, each from a seed of its own."""

from __future__ import annotations

import hashlib

import torch
from tqdm import tqdm


def seed_of(prompt: str, index: int = 0, seed: int = 0) -> int:
    """The seed of a prompt's ``index``-th picture: a hash, so a picture does not depend on the others around it."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{index}/{prompt}".encode()).digest()[:6], "big")


def generate(
    pipeline, prompts: list[str], *, index: int = 0, seed: int = 0, batch_size: int = 64, name: str = "", quiet: bool = False, **settings
) -> torch.Tensor:
    """One picture a prompt.

    Args:
        pipeline: any diffusers text-to-image pipeline. settings: passed to it (``num_inference_steps``, ``guidance_scale``, ...).
        name: what the progress bar says is drawn.
        index, seed: which picture of a prompt; the starting noise is a function of (seed, index, prompt) alone.

    Returns:
        (N, 3, H, W) float32 in [0, 1] on the CPU.
    """
    pictures = []
    for start in tqdm(range(0, len(prompts), batch_size), desc=f"draw {name}".rstrip(), unit="batch", disable=quiet):
        batch = prompts[start : start + batch_size]
        pictures.append(draw(pipeline, [seed_of(prompt, index, seed) for prompt in batch], prompt=batch, **settings))
    return torch.cat(pictures)


def draw(pipeline, seeds: list[int], **arguments) -> torch.Tensor:
    """One call of a pipeline, each of its pictures from a generator of its own, on the CPU: the same noise on every device.

    Args:
        seeds: of the B pictures. arguments: of the call, with B prompts.

    Returns:
        (B, 3, H, W) float32 in [0, 1] on the CPU, as the pipeline gives them: not finite where it overflowed.
    """
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    return pipeline(**arguments, generator=generators, output_type="pt").images.float().cpu()
