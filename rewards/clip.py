"""CLIP score, with its backbone in the name, and what every two-tower reward shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffalign.rewards import preprocess, towers
from diffalign.rewards.preprocess import Preparation, PreparedReward
from diffalign.rewards.tokenizers import strings
from diffalign.rewards.weights import Source

PROMPTS_AT_ONCE = 64
LAION_H = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
OPEN_CLIP_FILES = (("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),)


class TwoTowers(PreparedReward):
    """score = scale * cos(image, prompt), or scale * max(cos, 0) with ``floor``.

    ``prefix`` goes before every prompt. Each prompt of a batch is encoded once, and those of the last batch are kept: scores of many images
    against the same prompts, and ``score_matrix``, are one pass of each tower.
    """

    def __init__(
        self, name: str, pair: towers.TransformersCLIP | towers.OpenCLIP, preparation: Preparation, scale: float, *,
        prefix: str = "", floor: bool = False, **base: Any,
    ):  # fmt: skip
        super().__init__(name, preparation, pair.image_size, scale=scale, prefix=prefix, floor=floor, **base)
        self.towers, self.scale, self.prefix, self.floor, self.packages = pair, scale, prefix, floor, pair.packages
        self._rows: dict[str, int] = {}
        self._texts = torch.zeros(0)

    def measure(self, batch: Tensor, prompts: list[str]) -> Tensor:
        return self._scaled((self.towers.image(batch) * self._text(prompts)).sum(dim=-1))

    def measure_matrix(self, batch: Tensor, prompts: list[str]) -> Tensor:
        return self._scaled(self.towers.image(batch) @ self._text(prompts).T)

    def _scaled(self, cosine: Tensor) -> Tensor:
        return self.scale * (cosine.clamp(min=0) if self.floor else cosine)

    @torch.no_grad()
    def _text(self, prompts: list[str]) -> Tensor:
        """(len(prompts), D): the towers' features of the prompts."""
        wanted = list(dict.fromkeys(strings(prompts)))
        if not all(prompt in self._rows for prompt in wanted):
            full = [self.prefix + prompt for prompt in wanted]
            chunks = [self.towers.text(full[start : start + PROMPTS_AT_ONCE]) for start in range(0, len(full), PROMPTS_AT_ONCE)]
            self._rows, self._texts = {prompt: row for row, prompt in enumerate(wanted)}, torch.cat(chunks)
        return self._texts[[self._rows[prompt] for prompt in prompts]]


@dataclass(frozen=True)
class Variant:
    """One published CLIP score. ``architecture`` is open_clip's name where the checkpoint is in its format, else it is transformers'."""

    repository: str
    preparation: Preparation
    architecture: str = ""
    scale: float = 1.0
    prefix: str = ""
    floor: bool = False


VARIANTS = {
    # cos, openai/CLIP's ViT-L/14: ImageReward's CLIPScore (ImageReward/models/CLIPScore.py)
    "clip-l14": Variant("openai/clip-vit-large-patch14", preprocess.OPENAI),
    # 2.5 max(cos, 0), ViT-B/32, "A photo depicts": CLIPScore, arXiv:2104.08718 eq. 1 (jmhessel/clipscore clipscore.py)
    "clip-b32": Variant("openai/clip-vit-base-patch32", preprocess.OPENAI, scale=2.5, prefix="A photo depicts ", floor=True),
    # 100 cos, ViT-L/14 on PIL: torchmetrics.functional.multimodal.clip_score, a sample's own
    "clip-torchmetrics": Variant("openai/clip-vit-large-patch14", preprocess.TRANSFORMERS, scale=100.0),
    # cos, LAION's ViT-H/14: AIDC-AI/Diffusion-SDPO utils/clip_utils.py
    "clip-h14": Variant(LAION_H, preprocess.OPENAI, "ViT-H-14"),
    # cos, LAION's ViT-H/14 behind HPSv2's letterbox: SalesforceAIResearch/DiffusionDPO utils/clip_utils.py
    "clip-h14-letterbox": Variant(LAION_H, preprocess.HPS, "ViT-H-14"),
    # cos, Apple's DFN5B ViT-H/14 at 378 pixels, squashed: DanceGRPO's
    "clip-dfn-h14": Variant("apple/DFN5B-CLIP-ViT-H-14-378", preprocess.SQUASH, "ViT-H-14-378-quickgelu"),
}


def load(
    name: str, *, weights: str | None, config: Any, device: str | torch.device, dtype: torch.dtype,
    scale: float | None = None, tokenizer: str | None = None,
) -> TwoTowers:  # fmt: skip
    """A CLIP score by the id of its variant (docs/rewards.md has the table).

    Args:
        weights: a transformers folder (``clip-l14``, ``clip-b32``, ``clip-torchmetrics``), else a file in open_clip's format.
        config: a ``CLIPConfig`` or its arguments; for open_clip's format a dict like its model configs.
        scale: 1 or 100 instead of the variant's own.
        tokenizer: a folder with CLIP's ``vocab.json`` and ``merges.txt``, where the weights' has none (transformers' format only).
    Errors: ValueError for another scale; those of ``weights.Source.find`` and ``weights.build``.

    *Deviates:* torchmetrics cuts the end-of-text token of a long prompt off, which moves the place it pools at; here it stays. It clamps
    the mean over samples at 0, and a sample's score here is not clamped.
    """
    variant = VARIANTS[name]
    if scale not in (None, 1, 100):
        raise ValueError(f"scale must be 1 (the cosine) or 100, or left out for the published one ({variant.scale:g}), got {scale!r}")
    if variant.architecture:
        if tokenizer is not None:
            raise ValueError(f"reward '{name}' uses the tokenizer in open_clip's package: leave tokenizer out")
        source = Source(variant.repository, OPEN_CLIP_FILES)
        pair, facts = towers.load_open_clip(name, variant.architecture, source, weights, config, device, dtype)
    else:
        pair, facts = towers.load_transformers(name, variant.repository, weights, config, device, dtype, tokenizer=tokenizer)
    return TwoTowers(
        name, pair, variant.preparation, float(variant.scale if scale is None else scale),
        prefix=variant.prefix, floor=variant.floor, device=device, dtype=dtype, **facts,
    )  # fmt: skip
