"""FLUX.1 (dev and schnell): a flow-matching transformer over packed latents, CLIP's pooled state and T5 (black-forest-labs/flux)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffalign.denoising import Path, flow_path
from diffalign.models.base import DiffusionModel

T5_TOKENS = 512  # FluxPipeline's max_sequence_length, unless load_model is told another
PACK = 2  # 2 x 2 latents make one token
GUIDANCE = 3.5  # FluxPipeline's guidance_scale


class Flux(DiffusionModel):
    """Path: x_s = (1 - s) x0 + s noise, target noise - x0. Shifts (dev's depends on the resolution) are about sampling, as in ``sd3.py``.

    Outside of this class latents are (N, 16, h, w); the network sees (N, h/2 * w/2, 64) and position ids.

    Guidance: dev is distilled from guided predictions and is told the guidance scale; schnell is not told. Training gives every sample of
    policy and reference the same ``guidance``, 3.5 (what the stock pipeline samples with) unless ``load_model(..., guidance=)`` says
    otherwise. There is no unconditional branch in stock inference, so dropped captions teach nothing that sampling uses.

    Conditioning:

    prompt_embeds         (N, M, D)  T5's final states, M = ``max_sequence_length``, 512 unless ``load_model`` is told another
    pooled_prompt_embeds  (N, P)     CLIP's pooled state
    """

    family = "flux"
    text_names = {"tokenizer": "text_encoder", "tokenizer_2": "text_encoder_2"}
    prompt_tokens = {"tokenizer_2": T5_TOKENS}
    conditioning_keys = ("prompt_embeds", "pooled_prompt_embeds")
    options = {"image_encoder": None, "feature_extractor": None}  # of IP adapters
    single_file = "denoiser"
    timestep_sampler = "logit_normal"

    @staticmethod
    def pipeline_class():
        from diffusers import FluxPipeline

        return FluxPipeline

    @staticmethod
    def denoiser_class():
        from diffusers import FluxTransformer2DModel

        return FluxTransformer2DModel

    def check(self) -> None:
        """Errors: ValueError for networks with further inputs (Fill, Control), and for a guidance scale that the network does not read."""
        channels, latents = self.denoiser.config.in_channels, self.vae_config["latent_channels"]
        if channels != PACK * PACK * latents:
            raise ValueError(
                f"the transformer of '{self.name}' takes {channels} channels and packed latents have {PACK * PACK * latents}: Fill and "
                f"Control models are not supported; load a text-to-image model"
            )
        self.guidance: float | None = GUIDANCE if self.denoiser.config.guidance_embeds else None
        if self.source.guidance is not None:
            self.set_guidance(self.source.guidance)

    def set_guidance(self, guidance: float) -> None:
        """The guidance scale that policy and reference are told, >= 0; ValueError for models that take none (schnell)."""
        if self.guidance is None:
            raise ValueError(
                f"guidance={guidance}, but '{self.name}' is not told a guidance scale (FLUX.1-schnell is not): leave guidance out"
            )
        if guidance < 0:
            raise ValueError(f"guidance must be at least 0, got {guidance}; FLUX.1-dev is sampled with {GUIDANCE}")
        self.guidance = float(guidance)

    def build_path(self, scheduler_config: dict) -> Path:
        return flow_path(scheduler_config)

    @property
    def patch_size(self) -> int:
        return PACK

    @property
    def default_resolution(self) -> int:
        return 128 * self.spatial_factor  # FluxPipeline's default_sample_size; the network's config has none

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> dict[str, Tensor]:
        ids, _ = self.tokens(prompts)
        clip, t5 = self.text_encoders.values()
        with torch.autocast(ids[0].device.type, enabled=False):
            return {"prompt_embeds": t5(ids[1])[0], "pooled_prompt_embeds": clip(ids[0]).pooler_output}

    def call(self, network: Callable[..., Any], x_t: Tensor, time: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        states = conditioning["prompt_embeds"].to(x_t.dtype)
        height, width = x_t.shape[2] // PACK, x_t.shape[3] // PACK
        rows, columns = torch.arange(height, device=x_t.device), torch.arange(width, device=x_t.device)
        places = torch.stack([rows.new_zeros(height * width), rows.repeat_interleave(width), columns.repeat(height)], dim=1)
        prediction = network(
            hidden_states=packed(x_t),
            timestep=time.to(x_t.dtype) / 1000,
            guidance=None if self.guidance is None else torch.full((len(x_t),), self.guidance, device=x_t.device),
            pooled_projections=conditioning["pooled_prompt_embeds"].to(x_t.dtype),
            encoder_hidden_states=states,
            txt_ids=states.new_zeros(states.shape[1], 3),
            img_ids=places.to(x_t.dtype),
            return_dict=False,
        )[0]
        return unpacked(prediction, height, width)


def packed(latents: Tensor) -> Tensor:
    """(N, C, h, w) -> (N, h/2 * w/2, 4 C): each token the 2 x 2 latents of a place, channel by channel (``FluxPipeline._pack_latents``)."""
    n, channels, height, width = latents.shape
    cells = latents.reshape(n, channels, height // PACK, PACK, width // PACK, PACK)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(n, -1, channels * PACK * PACK)


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse: (N, height * width, 4 C) -> (N, C, 2 height, 2 width)."""
    cells = tokens.reshape(len(tokens), height, width, -1, PACK, PACK)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), -1, height * PACK, width * PACK)
