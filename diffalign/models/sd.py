"""Stable Diffusion 1.x and 2.x: epsilon- and v-prediction, one CLIP text encoder."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffalign.models.unet import UNetModel


class StableDiffusion(UNetModel):
    """Conditioning: ``prompt_embeds`` (N, L, D), the text encoder's final, layer-normed hidden state (``clip_skip=None``)."""

    family = "sd"
    text_names = {"tokenizer": "text_encoder"}
    conditioning_keys = ("prompt_embeds",)
    options = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}  # 1.2 GB that training has no use for

    @staticmethod
    def pipeline_class():
        from diffusers import StableDiffusionPipeline

        return StableDiffusionPipeline

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> dict[str, Tensor]:
        (ids,), (mask,) = self.tokens(prompts)
        encoder = self.text_encoders["text_encoder"]
        masked = encoder.config.to_dict().get("use_attention_mask", False)  # an extra key in some configs, read by the stock pipeline
        with torch.autocast(ids.device.type, enabled=False):
            return {"prompt_embeds": encoder(ids, attention_mask=mask if masked else None)[0]}

    def call(self, network: Callable[..., Any], x_t: Tensor, time: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        return network(x_t, time, encoder_hidden_states=conditioning["prompt_embeds"].to(x_t.dtype), return_dict=False)[0]
