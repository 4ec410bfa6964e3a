"""ImageReward v1.0 (arXiv:2304.05977): BLIP's image tower and its text tower that attends to it, trained on people's rankings."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from diffalign.rewards import heads, tokenizers
from diffalign.rewards import weights as files
from diffalign.rewards.base import frozen
from diffalign.rewards.preprocess import OPENAI, PreparedReward
from diffalign.rewards.weights import Source

PUBLISHED = Source("THUDM/ImageReward", (("ImageReward.pt",),))
MEAN, STD = 0.16717362830052426, 1.0333394966054072
TOKENS = 35
VISION = dict(
    hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=224, patch_size=16,
    layer_norm_eps=1e-6,
)  # fmt: skip
TEXT = dict(vocab_size=30524, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
PARTS = ("blip.visual_encoder.", "blip.text_encoder.", "mlp.", "blip.vision_proj.", "blip.text_proj.")  # the last two are not used
# The published image tower's names -> those of transformers' BlipVisionModel; the text tower's are the same.
RENAMED = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^blocks\.(\d+)\.norm([12])\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^blocks\.(\d+)\.attn\.qkv\.", r"encoder.layers.\1.self_attn.qkv."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.projection."),
    (r"^blocks\.(\d+)\.mlp\.", r"encoder.layers.\1.mlp."),
    (r"^norm\.", "post_layernorm."),
)


class ImageReward(PreparedReward):
    """score = (head(first token of the text tower, which attends to the image) - mean) / std.

    The prompt's first token stays [CLS]: the tokenizer knows [ENC], and the published code does not put it there.
    """

    def __init__(self, name: str, vision: Any, text: Any, weight: Tensor, bias: Tensor, tokenizer: tokenizers.Tokenizer, **base: Any):
        super().__init__(name, OPENAI, vision.config.image_size, **base)
        self.vision, self.text, self.tokenizer, self.weight, self.bias = vision, text, tokenizer, weight, bias

    def measure(self, batch: Tensor, prompts: list[str]) -> Tensor:
        return self._judged(self._seen(batch), prompts)

    def measure_matrix(self, batch: Tensor, prompts: list[str]) -> Tensor:
        seen = self._seen(batch)
        return torch.stack([self._judged(seen, [prompt] * len(seen)) for prompt in prompts], dim=1)

    def _seen(self, batch: Tensor) -> Tensor:
        """(N, patches + 1, D): what the text tower attends to."""
        return self.vision(pixel_values=batch.to(self.vision.dtype)).last_hidden_state

    def _judged(self, seen: Tensor, prompts: list[str]) -> Tensor:
        tokens = self.tokenizer(prompts)
        first = self.text(
            input_ids=tokens["input_ids"].to(seen.device), attention_mask=tokens["attention_mask"].to(seen.device),
            encoder_hidden_states=seen, encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device),
            is_decoder=False,
        ).last_hidden_state[:, 0]  # fmt: skip
        return (heads.apply(first, self.weight, self.bias) - MEAN) / STD


def load(
    name: str, *, weights: str | None, config: Any, device: str | torch.device, dtype: torch.dtype, tokenizer: str | None = None
) -> ImageReward:
    """ImageReward, about -2.3 to 2.

    Args:
        weights: ``ImageReward.pt`` of ``THUDM/ImageReward``, or a folder that holds it and may hold the tokenizer's files.
        config: a ``BlipConfig``, or a dict with ``vision_config`` and ``text_config``.
        tokenizer: the folder of ``bert-base-uncased``; without it the weights' folder, else the hub.
    Source: THUDM/ImageReward ImageReward/ImageReward.py, models/BLIP.
    Errors: those of ``weights.Source.find`` and ``weights.build``.

    *Deviates:* every key of the checkpoint is accounted for, where the published code loads what fits. Of the published file the towers'
    own contrastive projections are not used, there or here. Different prompts are scored in one batch.
    """
    from transformers import BlipConfig, BlipTextModel, BlipVisionModel

    path = PUBLISHED.find(name, weights)[0]
    config = files.as_config(config, BlipConfig, lambda: BlipConfig(vision_config=VISION, text_config=TEXT))
    vision, text, head, _, _ = files.split(files.read_state(path), path, *PARTS)
    weight, bias = heads.affine(head, path)
    vision = files.build(lambda: BlipVisionModel(config.vision_config), renamed(vision), path)
    text = files.build(lambda: BlipTextModel(config.text_config, add_pooling_layer=False), text, path, ("*.position_ids",))
    spoken = tokenizers.BERT.find(name, tokenizer, option="tokenizer", beside=path.parent)
    return ImageReward(
        name, frozen(vision, device, dtype), frozen(text, device, dtype), weight.to(device), bias.to(device),
        tokenizers.load_blip(spoken, config.text_config.vocab_size, TOKENS), device=device, dtype=dtype, weights=files.facts(path),
    )  # fmt: skip


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published image tower's state under transformers' names."""
    for pattern, replacement in RENAMED:
        state = {re.sub(pattern, replacement, name): value for name, value in state.items()}
    return state
