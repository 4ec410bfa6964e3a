"""CLIP's two towers behind one face, whichever library the checkpoint is written for: unit features of images and of prompts.

A pair of towers has

    image(pixels (N, 3, size, size)) -> (N, D)      text(prompts, M) -> (M, D)      both of length 1, float32 or better
    scale       exp(logit_scale), about 100 in trained models
    image_size  what the image tower was built for, in pixels
    packages    whose version can change a feature
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diffalign.extras import require
from diffalign.rewards import tokenizers, weights
from diffalign.rewards.base import frozen
from diffalign.rewards.weights import Source


class TransformersCLIP:
    """``transformers.CLIPModel`` and its tokenizer. Text attends causally and is pooled at end-of-text, so padding is never read."""

    packages = ("torch", "transformers", "pillow")

    def __init__(self, network: Any, tokenizer: tokenizers.Tokenizer, scale: float):
        self.network, self.tokenizer, self.scale = network, tokenizer, scale
        self.image_size = network.config.vision_config.image_size

    def image(self, pixels: Tensor) -> Tensor:
        return unit(pooled(self.network.get_image_features(pixel_values=pixels.to(self.network.logit_scale.dtype))))

    def text(self, prompts: list[str]) -> Tensor:
        ids = self.tokenizer(prompts)["input_ids"].to(self.network.logit_scale.device)
        return unit(pooled(self.network.get_text_features(input_ids=ids)))


class OpenCLIP:
    """open_clip's ``CLIP`` and its tokenizer."""

    packages = ("torch", "open_clip_torch", "pillow")

    def __init__(self, network: Any, tokenizer: tokenizers.OpenClipTokenizer, scale: float, image_size: int):
        self.network, self.tokenizer, self.scale, self.image_size = network, tokenizer, scale, image_size

    def image(self, pixels: Tensor) -> Tensor:
        return unit(self.network.encode_image(pixels.to(self.network.logit_scale.dtype)))

    def text(self, prompts: list[str]) -> Tensor:
        return unit(self.network.encode_text(self.tokenizer(prompts).to(self.network.logit_scale.device)))


def unit(features: Tensor) -> Tensor:
    """(N, D) at length 1, in float32 or better; a zero vector stays one."""
    return F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)


def pooled(features: Any) -> Tensor:
    """The projected embedding: what ``get_*_features`` returns in transformers 4, its ``pooler_output`` in transformers 5."""
    return features if isinstance(features, Tensor) else features.pooler_output


def scale_of(network: Any) -> float:
    """exp(logit_scale), to be taken before the network's precision is lowered: in bfloat16 it would be off by 1 %."""
    return float(network.logit_scale.detach().double().exp())


def load_transformers(
    reward: str, repository: str, given: str | Path | None, config: Any, device: Any, dtype: torch.dtype, *,
    tokenizer: str | Path | None = None, tokenizer_repository: str | None = None,
) -> tuple[TransformersCLIP, dict[str, Any]]:  # fmt: skip
    """A transformers folder (``config.json`` and weights; the weights alone with ``config=``) -> the towers and their provenance.

    The tokenizer's files are looked for in ``tokenizer``, in the same folder, and in ``tokenizer_repository``.
    """
    network, path = load_network(reward, repository, given, config)
    files = tokenizers.clip_source(tokenizer_repository or repository).find(reward, tokenizer, option="tokenizer", beside=path.parent)
    text = network.config.text_config
    spoken = tokenizers.load_clip(files, text.vocab_size, text.max_position_embeddings)
    scale = scale_of(network)
    return TransformersCLIP(frozen(network, device, dtype), spoken, scale), {"weights": weights.facts(path)}


def load_network(
    reward: str, repository: str, given: str | Path | None, config: Any, *, option: str = "weights", beside: str | Path | None = None
) -> tuple[Any, Path]:
    """transformers' ``CLIPModel`` as it is in the file, and that file. ``config``: a ``CLIPConfig`` or a dict of its arguments."""
    from transformers import CLIPConfig, CLIPModel

    files = weights.HF_MODEL if config is None else (weights.HF_WEIGHTS,)
    found = Source(repository, files).find(reward, given, option=option, beside=beside)
    config = weights.as_config(config, CLIPConfig, lambda: CLIPConfig.from_pretrained(found[0].parent))
    return weights.build(lambda: CLIPModel(config), weights.read_state(found[-1]), found[-1], ("*.position_ids",)), found[-1]


def load_open_clip(
    reward: str, architecture: str, source: Source, given: str | Path | None, config: dict | None, device: Any, dtype: torch.dtype
) -> tuple[OpenCLIP, dict[str, Any]]:
    """A checkpoint in open_clip's own names -> the towers and their provenance. ``config``: a dict like open_clip's model configs."""
    open_clip = require("open_clip", extra="rewards")
    if config is not None and not isinstance(config, dict):
        raise ValueError(f"config must be a dict like open_clip.get_model_config('{architecture}') returns, got {type(config).__name__}")
    config = config or open_clip.get_model_config(architecture)
    path = source.find(reward, given)[0]
    network = weights.build(lambda: open_clip.CLIP(**config), weights.read_state(path), path)
    text = config["text_cfg"]
    spoken = tokenizers.OpenClipTokenizer(text["vocab_size"], text["context_length"])
    scale = scale_of(network)
    towers = OpenCLIP(frozen(network, device, dtype), spoken, scale, config["vision_cfg"]["image_size"])
    return towers, {"weights": weights.facts(path), "architecture": architecture}
