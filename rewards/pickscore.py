"""PickScore (arXiv:2305.01569): CLIP ViT-H/14 trained on people's choices between two images of one prompt."""

from __future__ import annotations

from typing import Any

import torch

from diffalign.rewards import preprocess, towers
from diffalign.rewards.clip import LAION_H, TwoTowers

REPOSITORY = "yuvalkirstain/PickScore_v1"
SCALES = ("logit", "cosine", "flowgrpo")
FLOW_GRPO = 26.0


def load(
    name: str, *, weights: str | None, config: Any, device: str | torch.device, dtype: torch.dtype,
    scale: str = "logit", tokenizer: str | None = None,
) -> TwoTowers:  # fmt: skip
    """score = exp(logit_scale) cos(image, prompt), eq. 1; the softmax of two images' scores is the probability that one is preferred.

    Args:
        weights: a folder with ``config.json`` and ``model.safetensors`` (or ``pytorch_model.bin``) of ``yuvalkirstain/PickScore_v1``.
        config: a ``CLIPConfig`` or its arguments.
        scale: logit, as published (about 17 to 25); cosine, without exp(logit_scale), as DiffusionDPO, Diffusion-SDPO and SmPO label with
            (0.17 to 0.25); flowgrpo, the published one over 26.
        tokenizer: a folder with the tokenizer of ``laion/CLIP-ViT-H-14-laion2B-s32B-b79K``, where the weights' has none.
    Source: yuvalkirstain/PickScore README.md. Images are resized by PIL, as transformers did before its version 5.
    Errors: ValueError for another scale; those of ``weights.Source.find`` and ``weights.build``.
    """
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}, got {scale!r}")
    pair, facts = towers.load_transformers(
        name, REPOSITORY, weights, config, device, dtype, tokenizer=tokenizer, tokenizer_repository=LAION_H
    )
    factor = {"logit": pair.scale, "cosine": 1.0, "flowgrpo": pair.scale / FLOW_GRPO}[scale]
    return TwoTowers(name, pair, preprocess.TRANSFORMERS, factor, device=device, dtype=dtype, **facts)
