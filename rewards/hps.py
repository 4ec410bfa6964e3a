"""HPSv2 and HPSv2.1 (arXiv:2306.09341): CLIP ViT-H/14 trained on people's rankings, one checkpoint a version."""

from __future__ import annotations

from dataclasses import replace

import torch

from diffalign.rewards import towers
from diffalign.rewards.clip import TwoTowers
from diffalign.rewards.preprocess import HPS, OPENAI
from diffalign.rewards.weights import Source

REPOSITORY = "xswu/HPSv2"
PREPROCESSES = ("hps", "clip")


def load(
    name: str, *, weights: str | None, config: dict | None, device: str | torch.device, dtype: torch.dtype, file: str,
    antialias: bool = True, scale: float = 1, preprocess: str = "hps",
) -> TwoTowers:  # fmt: skip
    """score = cos(image, prompt): no logit scale, which the checkpoint has and its authors do not use.

    The version is part of the id, as the published package scores with v2.0 and evaluates with v2.1 unless told otherwise.

    Args:
        weights: ``HPS_v2_compressed.pt`` or ``HPS_v2.1_compressed.pt`` of ``xswu/HPSv2``, or a folder that holds it.
        config: a dict like open_clip's model configs.
        antialias: of the letterbox. torchvision's default, which the published code takes, was False before 0.17 and is True since;
            ``hpsv2.1-legacy`` is False. It may be why users get 28.71 today where the README has 30.63 (SDXL-0.9); that is not verified.
        scale: 1, as ``hpsv2.score``, or 100, as its benchmark reports.
        preprocess: hps, the published letterbox; clip, shortest side and centre crop as forks use it (the same for no but square images).
    Source: tgxs002/HPSv2 hpsv2/img_score.py.
    Errors: ValueError for another scale or preprocess; those of ``weights.Source.find`` and ``weights.build``; ImportError without
        open_clip.

    *Deviates:* scores are float32 also on a GPU, where the published ones are float16 and tie where they should not.
    """
    if scale not in (1, 100):
        raise ValueError(f"scale must be 1 (hpsv2.score) or 100 (its benchmark), got {scale!r}")
    if preprocess not in PREPROCESSES:
        raise ValueError(f"preprocess must be one of {', '.join(PREPROCESSES)}, got {preprocess!r}")
    if preprocess == "clip" and not antialias:
        raise ValueError("antialias=False is a choice of preprocess='hps': PIL, which preprocess='clip' resizes with, always antialiases")
    preparation = replace(HPS, antialias=antialias) if preprocess == "hps" else OPENAI
    pair, facts = towers.load_open_clip(name, "ViT-H-14", Source(REPOSITORY, ((file,),)), weights, config, device, dtype)
    return TwoTowers(name, pair, preparation, float(scale), device=device, dtype=dtype, **facts)
