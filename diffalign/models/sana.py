"""Sana (1.0 and 1.5): linear attention over the latents of a deep-compression autoencoder, flow matching, Gemma 2 (arXiv:2410.10629)."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffalign.denoising import Path, flow_path
from diffalign.models.base import DiffusionModel

TEXT_TOKENS = 300  # SanaPipeline's max_sequence_length, unless load_model is told another


class Sana(DiffusionModel):
    """Path: x_s = (1 - s) x0 + s noise, target noise - x0; the network is told T s times its ``timestep_scale``. Shifts are about sampling,
    as in ``sd3.py``.

    The autoencoder (32 pixels a latent) has no posterior: its latents are one point, so ``encode_images`` gives a standard deviation of 0.

    Conditioning, M = ``max_sequence_length``, 300 unless ``load_model`` is told another:

    prompt_embeds          (N, M, D)     Gemma's final states: of the first token, and of what follows the stock call's instruction
    prompt_attention_mask  (N, M) int64  1 where there is a token

    The stock call puts its ``complex_human_instruction`` before a prompt and lower-cases it. The unconditional state is "" *without* the
    instruction, as in the stock pipeline; the prompt "" has it.
    """

    family = "sana"
    text_names = {"tokenizer": "text_encoder"}
    prompt_tokens = {"tokenizer": TEXT_TOKENS}
    conditioning_keys = ("prompt_embeds", "prompt_attention_mask")
    timestep_sampler = "logit_normal"
    latent_facts = ("scaling_factor",)

    @staticmethod
    def pipeline_class():
        from diffusers import SanaPipeline

        return SanaPipeline

    @staticmethod
    def vae_class():
        from diffusers import AutoencoderDC

        return AutoencoderDC

    def check(self) -> None:
        """Errors: ValueError for a network with a further input: the guidance scale of Sana-Sprint."""
        super().check()
        if self.denoiser.config.guidance_embeds:
            raise ValueError(f"the transformer of '{self.name}' is told a guidance scale, as Sana-Sprint's is: not supported, load Sana")
        tokenizer = self.tokenizers["tokenizer"]
        tokenizer.padding_side = "right"  # Gemma's own is left; the stock pipeline changes it, too
        instruction = inspect.signature(self.pipeline_class().__call__).parameters["complex_human_instruction"].default
        self.instruction = "\n".join(instruction)
        self.instruction_tokens = len(tokenizer(self.instruction, verbose=False).input_ids)

    def build_path(self, scheduler_config: dict) -> Path:
        """Sana comes with a solver of DPMs that is told to step along a flow; any other one of that kind is refused."""
        if scheduler_config.get("use_flow_sigmas") and scheduler_config.get("prediction_type") == "flow_prediction":
            return flow_path({"num_train_timesteps": scheduler_config["num_train_timesteps"]})
        return flow_path(scheduler_config)

    @property
    def spatial_factor(self) -> int:
        return 2 ** (len(self.vae_config["encoder_block_out_channels"]) - 1)

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        latents = self.vae.encode(images).latent.float() * self.vae_config["scaling_factor"]
        return latents, torch.zeros_like(latents)

    def encode_prompts(self, prompts: list[str]) -> dict[str, Tensor]:
        return self.encode(prompts, self.instruction, self.instruction_tokens - 2)  # "- 2" is the stock pipeline's

    def empty_prompt(self) -> dict[str, Tensor]:
        if self._empty is None:
            self._empty = self.encode([""])
        return self._empty

    @torch.no_grad()
    def encode(self, prompts: list[str], instruction: str = "", extra: int = 0) -> dict[str, Tensor]:
        """Conditioning of prompts behind an instruction: states 0 and the last M - 1 of M + ``extra``."""
        texts = prompts if isinstance(prompts, str) else [instruction + prompt.lower().strip() for prompt in prompts]
        (ids,), (mask,) = self.tokens(texts, extra=extra)
        encoder, kept = self.text_encoders["text_encoder"], [0, *range(1 - self.max_sequence_length, 0)]
        with torch.autocast(ids.device.type, enabled=False):
            states = encoder(ids, attention_mask=mask)[0]
        return {"prompt_embeds": states[:, kept].to(encoder.dtype), "prompt_attention_mask": mask[:, kept]}

    def text_facts(self) -> dict[str, Any]:
        return {"instruction": self.instruction}

    def sampling_arguments(self, prompt: str, height: int, width: int) -> dict[str, Any]:
        """Without the stock pipeline's change of the size to one of its bins, so that images have the size that was trained."""
        return {**super().sampling_arguments(prompt, height, width), "use_resolution_binning": False}

    def call(self, network: Callable[..., Any], x_t: Tensor, time: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        prediction = network(
            x_t,
            encoder_hidden_states=conditioning["prompt_embeds"].to(x_t.dtype),
            encoder_attention_mask=conditioning["prompt_attention_mask"],
            timestep=time.float() * self.denoiser.config.timestep_scale,
            return_dict=False,
        )[0]
        return prediction[:, : x_t.shape[1]]
