"""What ``diffalign eval`` is told: models, prompts, sampling, rewards, checks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch


@dataclass(frozen=True)
class EvalConfig:
    """Compare models on the same prompts from the same noise.

    A run that was stopped goes on where it was when the same command is given again; a finished one gives the same bytes.
    """

    models: list[str]
    """Models, runs of diffalign train, their adapters, or folders of pictures that diffalign generate wrote. NAME=PLACE says what the
    report calls one."""
    baseline: str | None = None
    """The one that the others are compared with; default: the first of models."""
    preset: str | None = None
    """A published protocol (diffalign eval --list-presets): its baseline, prompts, rewards and sampling, over which flags win."""
    output_dir: str = "runs/eval"
    """Where evaluation.json, report.html and the pictures go."""

    prompts: str | None = None
    """A list by name or a file, as of diffalign generate. Default: the test prompts of an embedded world, else diffalign (64 of ours)."""
    prompts_file: str | None = None
    """A local copy of a named list's file, where it cannot be downloaded."""
    count: int | None = None
    """This many of the prompts."""
    images_per_prompt: int = 1
    """Pictures a prompt; prompts stay the unit of every interval."""
    seed: int = 0
    """Of the noise, and of which prompts are taken."""
    same_noise: bool = False
    """Start all prompts from the same noise, as some papers do."""
    guidance_scale: float | None = None
    """As diffusers counts it, the same for all models. Default: the pipelines'."""
    num_inference_steps: int | None = None
    """Sampling steps. Default: the pipelines'."""
    height: int | None = None
    """In pixels; default: what the models were trained for."""
    width: int | None = None
    """In pixels; default: what the models were trained for."""
    batch_size: int | None = None
    """Pictures a call, and pictures a forward pass of a reward."""
    base: str | None = None
    """The model of adapters that no config.yaml of a run lies beside."""

    rewards: list[str] = field(default_factory=list)
    """Ids (docs/rewards.md) or functions of your own as module:attr; the verdict is about the first. Default: the judge of an embedded
    world (shapes-judge), else pickscore."""
    weights: dict[str, str] = field(default_factory=dict)
    """ID PATH: local copies of rewards' weights."""
    train_rewards: list[str] = field(default_factory=list)
    """What the models were aligned with, where it is known, the first one checked: turns the reward-hacking checks on."""
    checks: bool | None = None
    """Reward-hacking checks; default: where train_rewards says what was trained on."""
    features: list[str] = field(default_factory=list)
    """Features for FID, KID, CMMD and Vendi scores against the baseline's pictures: pixels, inception, clip-l14-336 ..."""
    confidence: float = 0.95
    """Of every interval."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the models that draw."""
    device: str = "auto"
    """auto takes the GPU where there is one; else as torch names it, such as cpu or cuda:1."""
    cache: str | None = None
    """Folder where scores are kept; default: output_dir/scores."""

    def places(self) -> dict[str, str]:
        """name -> place of the models, the baseline first. Raises ValueError where there is nothing to compare or a name is there twice."""
        given = [_named(model) for model in [*([self.baseline] if self.baseline else []), *self.models]]
        if self.baseline:  # it may be among the models too, by name or by place
            given = [given[0], *(model for model in given[1:] if given[0] != model and _named(self.baseline)[1] not in model)]
        found = dict(given)
        if len(found) < 2:
            raise ValueError(f"models is {', '.join(self.models) or 'empty'}: name a model beside the baseline")
        if len(found) < len(given):
            raise ValueError(f"models names one of them twice: {', '.join(name for name, _ in given)}")
        return found

    @property
    def torch_device(self) -> str:
        return ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device


def is_world(place: str) -> bool:
    """Whether a model is one of ours, with prompts and a judge of its own."""
    return place.startswith("builtin:")


def _named(model: str) -> tuple[str, str]:
    """(name, place) of ``NAME=PLACE``, or of a place, which is its own name."""
    name, equals, place = model.partition("=")
    return (name, place) if equals and not Path(model).exists() else (model, model)
