"""Stable Diffusion 3 and 3.5: an MMDiT trained by flow matching, two CLIP text encoders and T5 (arXiv:2403.03206)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from diffalign.denoising import Path, flow_path
from diffalign.models.base import DiffusionModel

T5_TOKENS = 256  # StableDiffusion3Pipeline's max_sequence_length, unless load_model is told another


class StableDiffusion3(DiffusionModel):
    """Path: x_s = (1 - s) x0 + s noise, target noise - x0; the network is told the time 1000 s.

    The scheduler's ``shift`` (3 for SD3) is about sampling: it moves the steps of the solver towards noise,

        s' = shift s / (1 + (shift - 1) s)        logit(s') = logit(s) + ln(shift)

    Training has the same straight path whatever the shift; how often each s is trained is the timestep sampler's choice, by default the
    paper's logit-normal(0, 1). ``logit_mean = ln(shift)`` trains where a shifted sampler steps.

    Conditioning:

    prompt_embeds         (N, L + M, D)  penultimate states of both CLIP encoders side by side, padded with zeros to T5's width D, then T5's
                          final states; zeros of T5's shape where the model has no ``text_encoder_3``, as the stock pipeline does. M is
                          ``max_sequence_length``, 256 unless ``load_model`` is told another; 0 leaves those zeros out
    pooled_prompt_embeds  (N, P1 + P2)   both CLIP encoders' projections
    """

    family = "sd3"
    text_names = {"tokenizer": "text_encoder", "tokenizer_2": "text_encoder_2", "tokenizer_3": "text_encoder_3"}
    may_lack = ("text_encoder_3",)
    prompt_tokens = {"tokenizer_3": T5_TOKENS}
    conditioning_keys = ("prompt_embeds", "pooled_prompt_embeds")
    options = {"image_encoder": None, "feature_extractor": None}  # of IP adapters
    single_file = "denoiser"
    timestep_sampler = "logit_normal"

    @staticmethod
    def pipeline_class():
        from diffusers import StableDiffusion3Pipeline

        return StableDiffusion3Pipeline

    @staticmethod
    def denoiser_class():
        from diffusers import SD3Transformer2DModel

        return SD3Transformer2DModel

    def build_path(self, scheduler_config: dict) -> Path:
        return flow_path(scheduler_config)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """As everywhere; also ValueError for images larger than the table of position embeddings."""
        largest = self.denoiser.config.pos_embed_max_size * self.image_multiple
        if max(height, width) > largest:
            raise ValueError(
                f"an image of {height} x {width} is larger than '{self.name}' has positions for: {largest} pixels a side at most"
            )
        return super().latent_shape(height, width)

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> dict[str, Tensor]:
        ids, _ = self.tokens(prompts)
        first, second, *t5 = self.text_encoders.values()
        with torch.autocast(ids[0].device.type, enabled=False):
            one, two = first(ids[0], output_hidden_states=True), second(ids[1], output_hidden_states=True)
            clip = torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=-1)
            width = self.denoiser.config.joint_attention_dim
            long = t5[0](ids[2])[0] if t5 else clip.new_zeros(len(clip), self.max_sequence_length, width)
        states = torch.cat([pad(clip, (0, long.shape[-1] - clip.shape[-1])), long], dim=-2)
        return {"prompt_embeds": states, "pooled_prompt_embeds": torch.cat([one.text_embeds, two.text_embeds], dim=-1)}

    def call(self, network: Callable[..., Any], x_t: Tensor, time: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        return network(
            hidden_states=x_t,
            timestep=time.float(),
            encoder_hidden_states=conditioning["prompt_embeds"].to(x_t.dtype),
            pooled_projections=conditioning["pooled_prompt_embeds"].to(x_t.dtype),
            return_dict=False,
        )[0]
