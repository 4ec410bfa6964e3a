"""The diffusion side of the loop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffalign import models
from diffalign.objectives import Metrics
from diffalign.train.batch import BatchMaker
from diffalign.train.card import card
from diffalign.train.config import TrainConfig
from diffalign.train.health import error_changes
from diffalign.train.labels import sides_of
from diffalign.train.noising import Noising
from diffalign.train.parts import Measured, Parts
from diffalign.train.step import preference_step
from diffalign.train.validate import draw_samples, held_out_metrics


@dataclass
class DiffusionParts(Parts):
    """``maker``, ``held_out_maker``: batches of encoded images; ``held_out`` holds indices for the latter. ``resolution``: in pixels."""

    noising: Noising
    maker: BatchMaker
    held_out_maker: BatchMaker
    resolution: int

    def measure(self, indices: list[int], draw: int, accelerator) -> Measured:
        batch = self.maker(indices, draw=draw).to(accelerator.device)
        out = preference_step(self.model, self.reference, self.objective, self.noising, batch, accelerator.autocast)
        metrics = dict(out.routing)
        if out.reference_error is not None:
            last = self.model.path.num_timesteps
            metrics |= error_changes(out.policy_error, out.reference_error, out.t, sides_of(batch.labels), last)
        return Measured(batch.ids, batch.labels, out.terms, metrics, out.balance)

    def held_out_metrics(self, batches: list[list[int]], config: TrainConfig, accelerator) -> Metrics:
        return held_out_metrics(
            self.model, self.reference, self.objective, self.noising, self.held_out_maker, batches,
            draws=config.held_out_draws, autocast=accelerator.autocast, device=accelerator.device, baseline=self.baseline,
        )  # fmt: skip

    def write_samples(self, config: TrainConfig, folder: Path) -> None:
        if prompts := (config.validation_prompts or self.prompts)[: config.num_validation_images]:
            draw_samples(
                self.model, prompts, folder, seed=config.seed, steps=config.validation_inference_steps,
                guidance_scale=config.validation_guidance_scale, resolution=self.resolution,
            )  # fmt: skip

    def save(self, config: TrainConfig, folder: Path) -> None:
        if config.train == "lora":
            models.lora.save(self.model, folder)
        else:
            self.model.pipeline().save_pretrained(folder)

    def card(self, config: TrainConfig, summary: dict[str, Any]) -> str:
        return card(config, self, summary)
