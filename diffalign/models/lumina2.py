"""Lumina-Image 2.0: a flow-matching transformer over one sequence of text and image tokens, with Gemma 2 (arXiv:2503.21758)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffalign.denoising import Path, flow_path
from diffalign.models.base import DiffusionModel

SYSTEM_PROMPT = (  # Lumina2Pipeline.system_prompt and the mark that ends it
    "You are an assistant designed to generate superior images with the superior degree of image-text alignment based on textual prompts "
    "or user prompts. <Prompt Start> "
)


class Lumina2(DiffusionModel):
    """Path: x_s = (1 - s) x0 + s noise, target noise - x0. The network counts the other way: it is told 1 - s and predicts x0 - noise, so
    ``predict`` gives its negative. The scheduler's shift is about sampling, as in ``sd3.py``.

    Conditioning:

    prompt_embeds          (N, 256, D)    Gemma's penultimate states of the system prompt and the prompt
    prompt_attention_mask  (N, 256) int64 1 where there is a token

    The unconditional state is "" *without* the system prompt, as in the stock pipeline; the prompt "" has it.
    """

    family = "lumina2"
    text_names = {"tokenizer": "text_encoder"}
    prompt_tokens = {"tokenizer": 256}  # the stock pipeline's max_sequence_length
    conditioning_keys = ("prompt_embeds", "prompt_attention_mask")
    timestep_sampler = "logit_normal"

    @staticmethod
    def pipeline_class():
        from diffusers import Lumina2Pipeline

        return Lumina2Pipeline

    def build_path(self, scheduler_config: dict) -> Path:
        return flow_path(scheduler_config)

    def encode_prompts(self, prompts: list[str]) -> dict[str, Tensor]:
        return self.encode(prompts if isinstance(prompts, str) else [f"{SYSTEM_PROMPT}{prompt}" for prompt in prompts])

    def empty_prompt(self) -> dict[str, Tensor]:
        if self._empty is None:
            self._empty = self.encode([""])
        return self._empty

    @torch.no_grad()
    def encode(self, texts: list[str]) -> dict[str, Tensor]:
        """Conditioning of texts as they are."""
        (ids,), (mask,) = self.tokens(texts)
        encoder = self.text_encoders["text_encoder"]
        with torch.autocast(ids.device.type, enabled=False):
            states = encoder(ids, attention_mask=mask, output_hidden_states=True).hidden_states[-2]
        return {"prompt_embeds": states.to(encoder.dtype), "prompt_attention_mask": mask}

    def call(self, network: Callable[..., Any], x_t: Tensor, time: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        return -network(
            hidden_states=x_t,
            timestep=(1 - time / self.path.num_timesteps).float(),
            encoder_hidden_states=conditioning["prompt_embeds"].to(x_t.dtype),
            encoder_attention_mask=conditioning["prompt_attention_mask"],
            return_dict=False,
        )[0]
