"""Z-Image: a flow-matching transformer over one sequence of image and text tokens, with Qwen3 (arXiv:2511.22699)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffalign.denoising import Path, flow_path
from diffalign.models.base import DiffusionModel
from diffalign.models.text import in_rows

TEXT_TOKENS = 512  # ZImagePipeline's max_sequence_length, unless load_model is told another
PATCH = 2  # the patch_size with which the stock pipeline calls a network that may have several


class ZImage(DiffusionModel):
    """Path: x_s = (1 - s) x0 + s noise, target noise - x0. The network counts the other way: it is told 1 - s and predicts x0 - noise, so
    ``predict`` gives its negative. The scheduler's shift is about sampling, as in ``sd3.py``.

    Conditioning, M = ``max_sequence_length``, 512 unless ``load_model`` is told another:

    prompt_embeds       (N, M, D)     Qwen3's penultimate states of the prompt in the tokenizer's chat template, then zeros
    prompt_embeds_mask  (N, M) int64  1 where there is a token

    The network gets each prompt's own tokens, pads them to a multiple of 32 with a token it has learned, and masks what a batch of
    different lengths adds; so a prompt's prediction depends on its batch by no more than rounding.

    Guidance: the stock call's is pos + w (pos - neg), one less than the usual scale, and on for every w > 0. Z-Image-Turbo is distilled and
    sampled with w = 0 and few steps; the same path and target are trained there, and dropped captions teach nothing that sampling uses.
    """

    family = "z_image"
    text_names = {"tokenizer": "text_encoder"}
    prompt_tokens = {"tokenizer": TEXT_TOKENS}
    conditioning_keys = ("prompt_embeds", "prompt_embeds_mask")
    timestep_sampler = "logit_normal"

    @staticmethod
    def pipeline_class():
        from diffusers import ZImagePipeline

        return ZImagePipeline

    def check(self) -> None:
        super().check()
        if not self.tokenizers["tokenizer"].chat_template:
            raise ValueError(f"the tokenizer of '{self.name}' has no chat template, which prompts are written in: download the model again")

    def build_path(self, scheduler_config: dict) -> Path:
        return flow_path(scheduler_config)

    @property
    def patch_size(self) -> int:
        return PATCH

    @property
    def default_resolution(self) -> int:
        return 1024  # ZImagePipeline's height and width; the network's config has none

    def in_chat(self, prompt: str) -> str:
        """The prompt as the stock pipeline puts it to the text encoder."""
        message = [{"role": "user", "content": prompt}]
        return self.tokenizers["tokenizer"].apply_chat_template(message, tokenize=False, add_generation_prompt=True, enable_thinking=True)

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> dict[str, Tensor]:
        (ids,), (mask,) = self.tokens(prompts if isinstance(prompts, str) else [self.in_chat(prompt) for prompt in prompts])
        encoder = self.text_encoders["text_encoder"]
        with torch.autocast(ids.device.type, enabled=False):
            states = encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-2]
        states, mask = in_rows([row[keep.bool()] for row, keep in zip(states, mask, strict=True)], self.max_sequence_length)
        return {"prompt_embeds": states.to(encoder.dtype), "prompt_embeds_mask": mask}

    def text_facts(self) -> dict[str, Any]:
        return {"template": self.in_chat("{}")}

    def call(self, network: Callable[..., Any], x_t: Tensor, time: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        lengths = conditioning["prompt_embeds_mask"].sum(1).tolist()
        prediction = network(
            x=list(x_t[:, :, None].unbind(0)),  # an image is a video of one frame
            t=(1 - time / self.path.num_timesteps).float(),
            cap_feats=[row[:length] for row, length in zip(conditioning["prompt_embeds"].to(x_t.dtype), lengths, strict=True)],
            return_dict=False,
        )[0]
        return -torch.stack(prediction)[:, :, 0]
