"""Preference pairs from a model's own samples: several pictures a prompt, scored, the best against the worst."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image as PILImage

from diffalign import data
from diffalign.eval.pictures.generate import generate

Score = Callable[[torch.Tensor, list[str]], torch.Tensor]


def build_pairs(
    pipeline, prompts: list[str], score: Score, *, samples: int = 4, min_gap: float = 0.1, seed: int = 0, quiet: bool = False, **settings
) -> list[data.Pair]:
    """On-policy pairs: of ``samples`` pictures of a prompt the best-scored is chosen and the worst-scored rejected.

    Args:
        pipeline: any diffusers text-to-image pipeline; settings are passed to it.
        score: (images (N, 3, H, W) in [0, 1], prompts) -> (N,), higher is better.
        min_gap: a prompt whose best and worst differ by less gives no pair (their order would be noise).
        seed: of the pictures; each is a function of (seed, sample index, prompt).

    Returns:
        at most one pair a prompt, with both scores; prompts whose samples differ too little are left out.
    """
    if samples < 2:
        raise ValueError(f"samples is {samples}; a pair needs at least 2 pictures a prompt")
    pictures = torch.stack([generate(pipeline, prompts, index=k, seed=seed, quiet=quiet, **settings) for k in range(samples)])
    pictures = (pictures * 255).round() / 255  # the 8 bits that are stored, so that the scores are those of the stored pictures
    scores = torch.stack([score(images, prompts) for images in pictures])  # (samples, N)
    best, worst = scores.argmax(0), scores.argmin(0)
    pairs = []
    for i, prompt in enumerate(prompts):
        high, low = scores[best[i], i].item(), scores[worst[i], i].item()
        if high - low >= min_gap:
            chosen, rejected = (data.Image(data=png(pictures[k, i])) for k in (best[i], worst[i]))
            pairs.append(data.Pair(id=None, prompt=prompt, chosen=chosen, rejected=rejected, scores=(high, low), origin="on-policy"))
    return pairs


def png(image: torch.Tensor) -> bytes:
    """A (3, H, W) tensor in [0, 1] as PNG bytes."""
    out = io.BytesIO()
    to_pil(image).save(out, "PNG", optimize=True)
    return out.getvalue()


def to_pil(image: torch.Tensor) -> PILImage.Image:
    return PILImage.fromarray((image.permute(1, 2, 0) * 255).round().byte().numpy())


def write(pairs: list[data.Pair], path: str | Path) -> Path:
    """Pairs as one parquet file that ``diffalign train --data`` reads."""
    data.write_parquet(pairs, path)
    return Path(path)
