"""MPS (CVPR 2024, "Learning Multi-dimensional Human Preference"): CLIP ViT-H/14 whose image tokens look at the prompt's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffalign.rewards import crossmodel, tokenizers, towers
from diffalign.rewards import weights as files
from diffalign.rewards.base import frozen
from diffalign.rewards.clip import LAION_H
from diffalign.rewards.preprocess import TRANSFORMERS, PreparedReward
from diffalign.rewards.weights import Source

PUBLISHED = Source("RE-N-Y/mpsv1", (("model.safetensors",),))
OVERALL = (
    "light, color, clarity, tone, style, ambiance, artistry, shape, face, hair, hands, limbs, structure, instance, texture, quantity, "
    "attributes, position, number, location, word, things."
)
LAION_H_CONFIG = dict(
    projection_dim=1024,
    text_config=dict(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, hidden_act="gelu", eos_token_id=2,
    ),
    vision_config=dict(
        hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16, patch_size=14, hidden_act="gelu",
    ),
)  # fmt: skip


class MPS(PreparedReward):
    """score = exp(logit_scale) cos(prompt, cross model(image tokens, prompt tokens)'s first token).

    Of the prompt, only the tokens that have to do with the condition are looked at: token i is kept if
    max_j <prompt_i, condition_j>, over its own maximum over i, is above ``threshold``. Both are padded to the full length, and padding
    takes part like any token.
    """

    def __init__(
        self, name: str, network: Any, cross: crossmodel.CrossModel, tokenizer: tokenizers.Tokenizer, scale: float, condition: str,
        threshold: float, **base: Any,
    ):  # fmt: skip
        super().__init__(name, TRANSFORMERS, network.config.vision_config.image_size, condition=condition, threshold=threshold, **base)
        self.network, self.cross, self.tokenizer, self.scale, self.threshold = network, cross, tokenizer, scale, threshold
        with torch.no_grad():
            self.condition = self._said([condition])[0][0]

    def measure(self, batch: Tensor, prompts: list[str]) -> Tensor:
        return self._judged(self._seen(batch), prompts)

    def measure_matrix(self, batch: Tensor, prompts: list[str]) -> Tensor:
        seen = self._seen(batch)
        return torch.stack([self._judged(seen, [prompt] * len(seen)) for prompt in prompts], dim=1)

    def _seen(self, batch: Tensor) -> Tensor:
        """(N, patches + 1, D): the image's tokens, projected without the layer norm that pooling has."""
        states = self.network.vision_model(pixel_values=batch.to(self.network.logit_scale.dtype)).last_hidden_state
        return self.network.visual_projection(states)

    def _said(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """(M, L, D), (M, D): the prompts' tokens and their pooled end-of-text, projected."""
        ids = self.tokenizer(prompts)["input_ids"].to(self.network.logit_scale.device)
        states = self.network.text_model(input_ids=ids)
        return self.network.text_projection(states.last_hidden_state), self.network.text_projection(states.pooler_output)

    def _judged(self, seen: Tensor, prompts: list[str]) -> Tensor:
        wanted = {prompt: row for row, prompt in enumerate(dict.fromkeys(tokenizers.strings(prompts)))}
        rows = [wanted[prompt] for prompt in prompts]
        with torch.no_grad():
            tokens, pooled = self._said(list(wanted))
            related = (tokens @ self.condition.T).amax(dim=-1)
            kept = related / related.amax(dim=-1, keepdim=True) > self.threshold
            mask = torch.zeros_like(related).masked_fill(~kept, float("-inf"))
        found = self.cross(seen, tokens[rows], mask[rows])[:, 0]
        return self.scale * (towers.unit(pooled)[rows] * towers.unit(found)).sum(dim=-1)


def load(
    name: str, *, weights: str | None, config: Any, device: str | torch.device, dtype: torch.dtype,
    threshold: float = 0.3, condition: str = OVERALL, tokenizer: str | None = None,
) -> MPS:  # fmt: skip
    """MPS's overall preference, about 9 on Pick-a-Pic's images.

    Args:
        weights: ``model.safetensors`` of ``RE-N-Y/mpsv1`` (CLIP under ``mps.model.``, the cross model under ``mps.cross_model.``), or a
            folder that holds it and may hold the tokenizer's files. The authors' own file is a pickled module, which is refused.
        config: a ``CLIPConfig`` or its arguments; the cross model's sizes are read off the weights.
        threshold: 0.3, of both evaluation scripts of the authors; their README's path and imscore use 0.01.
        condition: what tokens must have to do with; the authors' words for overall preference unless given.
        tokenizer: the folder of ``laion/CLIP-ViT-H-14-laion2B-s32B-b79K``; without it the weights' folder, else the hub.
    Source: Kwai-Kolors/MPS eval_overall_mps_on_hpdv2.py, trainer/models/clip_model.py; imscore's file layout.
    Errors: ValueError for a threshold outside [0, 1); those of ``weights.Source.find`` and ``weights.build``.

    *Deviates:* the maximum a token is held against is its own prompt's, where the model class takes the batch's and scores change with the
    company (one pair at a time, as the evaluation scripts run, both are the same). float32 where the published code is float16 only.
    """
    from transformers import CLIPConfig, CLIPModel

    if not 0 <= threshold < 1:
        raise ValueError(f"threshold is a share of the largest similarity, in [0, 1), got {threshold!r}")
    path = PUBLISHED.find(name, weights)[0]
    config = files.as_config(config, CLIPConfig, lambda: CLIPConfig(**LAION_H_CONFIG))
    clip_state, cross_state = files.split(files.read_state(path), path, "mps.model.", "mps.cross_model.")
    network = files.build(lambda: CLIPModel(config), clip_state, path, ("*.position_ids",))
    cross = files.build(lambda: crossmodel.CrossModel(**crossmodel.sizes(cross_state)), cross_state, path)
    spoken, text = tokenizers.clip_source(LAION_H).find(name, tokenizer, option="tokenizer", beside=path.parent), config.text_config
    scale = towers.scale_of(network)
    return MPS(
        name, frozen(network, device, dtype), frozen(cross, device, dtype),
        tokenizers.load_clip(spoken, text.vocab_size, text.max_position_embeddings, "max_length"), scale, condition, threshold,
        device=device, dtype=dtype, weights=files.facts(path),
    )  # fmt: skip
