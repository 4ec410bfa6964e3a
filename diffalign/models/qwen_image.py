"""Qwen-Image: a flow-matching transformer with a text and an image stream over packed latents, and Qwen2.5-VL (arXiv:2508.02324)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffalign.denoising import Path, flow_path
from diffalign.models.base import DiffusionModel
from diffalign.models.flux import PACK, packed, unpacked
from diffalign.models.text import in_rows

TEXT_TOKENS = 512  # QwenImagePipeline's max_sequence_length, unless load_model is told another
NEGATIVE = " "  # what Qwen-Image is sampled with where no negative prompt is wished; "" would be another state


class QwenImage(DiffusionModel):
    """Path: x_s = (1 - s) x0 + s noise, target noise - x0; the network is told s. Shifts are about sampling, as in ``sd3.py``.

    Latents are (N, 16, h, w) outside of this class, and packed for the network as FLUX's are. The VAE is made for videos: an image is one
    frame, and its latents are standardised channel by channel, x0 = (z - latents_mean) / latents_std, in place of a scaling factor.

    Conditioning, M = ``max_sequence_length``, 512 unless ``load_model`` is told another:

    prompt_embeds       (N, M, D)     Qwen2.5-VL's final states of the prompt and of the template's end behind it, then zeros
    prompt_embeds_mask  (N, M) int64  1 where there is a token

    The network gets the tokens up to the longest prompt of the batch, and a mask only where prompts differ in length, as in the stock call;
    a prompt's prediction depends on its batch by no more than rounding.

    The unconditional state is the prompt " ". The stock call guides only where it is given a negative prompt, by ``true_cfg_scale``;
    ``sampling_arguments`` gives it, and validation's guidance scale goes there.
    """

    family = "qwen_image"
    text_names = {"tokenizer": "text_encoder"}
    prompt_tokens = {"tokenizer": TEXT_TOKENS}
    conditioning_keys = ("prompt_embeds", "prompt_embeds_mask")
    timestep_sampler = "logit_normal"
    guidance_argument = "true_cfg_scale"
    latent_facts = ("latents_mean", "latents_std")

    @staticmethod
    def pipeline_class():
        from diffusers import QwenImagePipeline

        return QwenImagePipeline

    @staticmethod
    def vae_class():
        from diffusers import AutoencoderKLQwenImage

        return AutoencoderKLQwenImage

    def read_settings(self, pipeline: Any) -> dict[str, Any]:
        """Nothing for the pipeline; here is where the template around a prompt, and how many of its tokens are dropped, are read off it."""
        self.template, self.template_tokens = pipeline.prompt_template_encode, pipeline.prompt_template_encode_start_idx
        return {}

    def check(self) -> None:
        """Errors: ValueError for networks with further inputs: layers of an image; a guidance scale (with which diffusers 0.42.1 fails)."""
        config = self.denoiser.config
        if config.in_channels != PACK * PACK * self.latent_channels:
            raise ValueError(
                f"the transformer of '{self.name}' takes {config.in_channels} channels and packed latents have "
                f"{PACK * PACK * self.latent_channels}: load a text-to-image model"
            )
        if config.guidance_embeds or config.use_additional_t_cond:
            what = "guidance_embeds" if config.guidance_embeds else "use_additional_t_cond"
            raise ValueError(f"the transformer of '{self.name}' has {what}, an input that is not supported: load Qwen-Image's own")

    def build_path(self, scheduler_config: dict) -> Path:
        return flow_path(scheduler_config)

    @property
    def latent_channels(self) -> int:
        return self.vae_config["z_dim"]

    @property
    def spatial_factor(self) -> int:
        return 2 ** len(self.vae_config["temperal_downsample"])  # diffusers' spelling

    @property
    def patch_size(self) -> int:
        return PACK

    @property
    def default_resolution(self) -> int:
        return 128 * self.spatial_factor  # QwenImagePipeline's default_sample_size; the network's config has none

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.vae.encode(images[:, :, None]).latent_dist
        shift, scale = (images.new_tensor(self.vae_config[name], dtype=torch.float32).view(1, -1, 1, 1) for name in self.latent_facts)
        return (posterior.mean[:, :, 0].float() - shift) / scale, posterior.std[:, :, 0].float() / scale

    def decode(self, latents: Tensor) -> Tensor:
        shift, scale = (latents.new_tensor(self.vae_config[name]).view(1, -1, 1, 1) for name in self.latent_facts)
        return self.vae.decode((latents * scale + shift)[:, :, None].to(self.vae.dtype), return_dict=False)[0][:, :, 0]

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> dict[str, Tensor]:
        texts = prompts if isinstance(prompts, str) else [self.template.format(prompt) for prompt in prompts]
        (ids,), (mask,) = self.tokens(texts, extra=self.template_tokens)
        ids, mask = (part[:, mask.any(0)] for part in (ids, mask))  # padded to the longest only, as the stock pipeline does
        encoder = self.text_encoders["text_encoder"]
        with torch.autocast(ids.device.type, enabled=False):
            states = encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True, logits_to_keep=1).hidden_states[-1]
        rows = [row[keep.bool()][self.template_tokens :] for row, keep in zip(states, mask, strict=True)]
        states, mask = in_rows(rows, self.max_sequence_length)
        return {"prompt_embeds": states.to(encoder.dtype), "prompt_embeds_mask": mask}

    def empty_prompt(self) -> dict[str, Tensor]:
        if self._empty is None:
            self._empty = self.encode_prompts([NEGATIVE])
        return self._empty

    def text_facts(self) -> dict[str, Any]:
        return {"template": self.template}

    def sampling_arguments(self, prompt: str, height: int, width: int) -> dict[str, Any]:
        return {**super().sampling_arguments(prompt, height, width), "negative_prompt": NEGATIVE}

    def call(self, network: Callable[..., Any], x_t: Tensor, time: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        height, width = x_t.shape[2] // PACK, x_t.shape[3] // PACK
        mask = conditioning["prompt_embeds_mask"]
        longest = int(mask.sum(1).max())
        mask = mask[:, :longest]
        prediction = network(
            hidden_states=packed(x_t),
            timestep=time.to(x_t.dtype) / 1000,
            encoder_hidden_states=conditioning["prompt_embeds"][:, :longest].to(x_t.dtype),
            encoder_hidden_states_mask=None if mask.all() else mask,
            img_shapes=[[(1, height, width)]] * len(x_t),
            return_dict=False,
        )[0]
        return unpacked(prediction, height, width)
