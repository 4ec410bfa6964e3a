"""DiT: class-conditional, epsilon-prediction with learned variance (arXiv:2212.09748)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffalign.denoising import Path, ddpm_path
from diffalign.models.base import DiffusionModel

STOCK_CLASSES = 1000  # DiTPipeline's unconditional class is this number, whatever the network's is


class DiT(DiffusionModel):
    """A prompt is the name of a class ("white shark", one of the pipeline's labels) or its number ("2"); "" is the unconditional class.

    The network gives 2 C channels, noise and variance; training (and stock sampling) uses the first C.

    Conditioning: ``class_labels`` (N,) int64.

    The network's own label dropout, active in train mode with a fresh draw in every block, is switched off: policy and reference would see
    other labels. A trainer drops labels with ``empty_prompt``. Adapters are in peft's format (see ``lora.py``).
    """

    family = "dit"
    text_names = {}
    conditioning_keys = ("class_labels",)

    @staticmethod
    def pipeline_class():
        from diffusers import DiTPipeline

        return DiTPipeline

    def check(self) -> None:
        """Also ValueError for a number of classes with which the stock pipeline would draw another class than the unconditional."""
        from diffusers.models.embeddings import LabelEmbedding

        super().check()
        if self.classes != STOCK_CLASSES:
            raise ValueError(
                f"the transformer of '{self.name}' has {self.classes} classes, and the stock pipeline takes number {STOCK_CLASSES} for the "
                f"unconditional one: make it with num_embeds_ada_norm={STOCK_CLASSES} (classes that are never used do no harm)"
            )
        for module in self.denoiser.modules():
            if isinstance(module, LabelEmbedding):
                module.dropout_prob = 0.0

    def read_settings(self, pipeline) -> dict[str, Any]:
        """``id2label``, put together again from the pipeline's table of names."""
        self.labels: dict[str, int] = dict(pipeline.labels)
        names: dict[int, list[str]] = {}
        for name, number in self.labels.items():
            names.setdefault(number, []).append(name)
        return {"id2label": {number: ",".join(names[number]) for number in sorted(names)} or None}

    def build_path(self, scheduler_config: dict) -> Path:
        return ddpm_path(scheduler_config)

    @property
    def classes(self) -> int:
        """How many classes there are; the next number is the unconditional one."""
        return self.denoiser.config.num_embeds_ada_norm

    def number(self, prompt: str) -> int:
        """The class of a prompt; ValueError for names and numbers that the model does not have."""
        if prompt.strip() == "":
            return self.classes
        if prompt.strip() in self.labels:
            return self.labels[prompt.strip()]
        if prompt.strip().isdecimal() and int(prompt) < self.classes:
            return int(prompt)
        some = ", ".join(list(self.labels)[:3]) or "none have names"
        raise ValueError(
            f"'{prompt}' is no class of '{self.name}': prompts are names of classes ({some}, ...), numbers 0 to {self.classes - 1}, or ''"
        )

    def encode_prompts(self, prompts: list[str]) -> dict[str, Tensor]:
        if isinstance(prompts, str) or not all(isinstance(prompt, str) for prompt in prompts):
            raise ValueError(f"prompts must be a list of strings, got {prompts!r}: write [prompt] for a single one")
        return {"class_labels": torch.tensor([self.number(prompt) for prompt in prompts], device=self.device)}

    def text_facts(self) -> dict[str, Any]:
        return {"labels": sorted(self.labels.items()), "classes": self.classes}

    def sampling_arguments(self, prompt: str, height: int, width: int) -> dict[str, Any]:
        """The stock pipeline draws one size only; ValueError for another."""
        side = self.default_resolution
        if (height, width) != (side, side):
            raise ValueError(f"the stock pipeline of '{self.name}' draws {side} x {side} only, got {height} x {width}")
        return {"class_labels": [self.number(prompt)]}

    def call(self, network: Callable[..., Any], x_t: Tensor, time: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        prediction = network(x_t, timestep=time, class_labels=conditioning["class_labels"], return_dict=False)[0]
        return prediction[:, : x_t.shape[1]]
