"""PixArt-Sigma and PixArt-alpha: a DiT with cross-attention to T5, epsilon and learned variance (arXiv:2310.00426, 2403.04692)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffalign.denoising import Path, ddpm_path
from diffalign.models.base import DiffusionModel


class PixArtSigma(DiffusionModel):
    """The network gives 2 C channels, noise and variance; training (and stock sampling) uses the first C, so the path's kind is epsilon.

    Conditioning:

    prompt_embeds          (N, 300, D)    T5's final states (120 for alpha)
    prompt_attention_mask  (N, 300) int64 1 where there is a token
    resolution             (N, 2) float32 target (height, width) in pixels, only for networks with ``use_additional_conditions`` (alpha's
    aspect_ratio           (N, 1) float32 1024-pixel model), and its height / width

    Captions are cleaned as the stock pipeline's ``clean_caption=True`` does where beautifulsoup4 and ftfy are installed, else lower-cased.
    Adapters: diffusers 0.42 has no LoRA loader for PixArt, ``lora.save`` writes peft's format (see ``lora.py``).

    *Deviates:* PixArt's own trainer conditions on the size of the original picture; here, as in the stock pipeline, it is the target's.
    """

    family = "pixart_sigma"
    text_names = {"tokenizer": "text_encoder"}
    prompt_tokens = {"tokenizer": 300}  # the stock pipeline's max_sequence_length
    conditioning_keys = ("prompt_embeds", "prompt_attention_mask")

    @staticmethod
    def pipeline_class():
        from diffusers import PixArtSigmaPipeline

        return PixArtSigmaPipeline

    def check(self) -> None:
        super().check()
        if self.denoiser.use_additional_conditions:
            self.conditioning_keys = (*self.conditioning_keys, "resolution", "aspect_ratio")

    def build_path(self, scheduler_config: dict) -> Path:
        return ddpm_path(scheduler_config)

    def cleaned(self, prompts: list[str]) -> list[str]:
        """Captions as the stock pipeline's own call cleans them before T5 reads them."""
        stock = self.pipeline_class()
        return stock._text_preprocessing(stock.__new__(stock), prompts, clean_caption=_can_clean())

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> dict[str, Tensor]:
        (ids,), (mask,) = self.tokens(prompts if isinstance(prompts, str) else self.cleaned(prompts))  # a bare string is refused there
        encoder = self.text_encoders["text_encoder"]
        with torch.autocast(ids.device.type, enabled=False):
            states = encoder(ids, attention_mask=mask)[0]
        return {"prompt_embeds": states.to(encoder.dtype), "prompt_attention_mask": mask}

    def text_facts(self) -> dict[str, Any]:
        return {"captions": "cleaned" if _can_clean() else "lower-case"}

    def size_conditioning(self, original_sizes: Tensor, crops: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """{} unless the network has ``use_additional_conditions``; then the targets' ``resolution`` (N, 2) and ``aspect_ratio`` (N, 1)."""
        if not self.denoiser.use_additional_conditions:
            return {}
        sizes = torch.as_tensor(targets, dtype=torch.float32)
        if sizes.ndim != 2 or sizes.shape[1] != 2:
            raise ValueError(f"targets must be (N, 2), (height, width) in pixels; got {tuple(sizes.shape)}")
        return {"resolution": sizes, "aspect_ratio": sizes[:, :1] / sizes[:, 1:]}

    def sampling_arguments(self, prompt: str, height: int, width: int) -> dict[str, Any]:
        """Without the stock pipeline's change of the size to one of its bins, so that images have the size that was trained."""
        return {**super().sampling_arguments(prompt, height, width), "use_resolution_binning": False, "clean_caption": _can_clean()}

    def call(self, network: Callable[..., Any], x_t: Tensor, time: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        sizes = {name: conditioning[name].to(x_t.dtype) if name in conditioning else None for name in ("resolution", "aspect_ratio")}
        prediction = network(
            x_t,
            encoder_hidden_states=conditioning["prompt_embeds"].to(x_t.dtype),
            encoder_attention_mask=conditioning["prompt_attention_mask"],
            timestep=time,
            added_cond_kwargs=sizes,
            return_dict=False,
        )[0]
        return prediction[:, : x_t.shape[1]]


class PixArtAlpha(PixArtSigma):
    """PixArt-alpha: 120 tokens, and conditioning on the size in its 1024-pixel model."""

    family = "pixart_alpha"
    prompt_tokens = {"tokenizer": 120}

    @staticmethod
    def pipeline_class():
        from diffusers import PixArtAlphaPipeline

        return PixArtAlphaPipeline


def _can_clean() -> bool:
    from diffusers.utils import is_bs4_available, is_ftfy_available

    return is_bs4_available() and is_ftfy_available()
