"""What a run is: one flat dataclass. The command line is made from it, and a YAML file is the same flags written down.

Names are diffusers' and TRL's where the thing exists there.
"""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml


class ConfigError(ValueError):
    """All the problems of a configuration, one a line."""


@dataclass(frozen=True)
class TrainConfig:
    model: str = ""
    """Hub id, diffusers folder, single .safetensors checkpoint, or builtin:shapes."""
    data: str = ""
    """Folder, .jsonl/.csv/.parquet file, saved data set or hub data set of preference pairs (docs/data.md)."""
    output_dir: str = "runs/train"
    """Everything the run writes. The same command in the same folder resumes it."""
    fresh: bool = False
    """Start over although output_dir holds an unfinished or finished run."""

    # model
    train: Literal["lora", "full"] = "lora"
    """LoRA adapters on the denoiser, or all its weights."""
    lora_rank: int = 16
    lora_alpha: float | None = None
    """LoRA scale is lora_alpha / lora_rank; default: equal to lora_rank."""
    lora_targets: str = "attention"
    """attention, attention+ff, all-linear, or module names separated by commas."""
    model_config: str | None = None
    """Folder with the pipeline's configs, for a single-file checkpoint where the hub cannot be reached."""
    vae: str | None = None
    """Another VAE (hub id or folder), such as an fp16-safe one for SDXL."""
    variant: str | None = None
    """Weight variant of a diffusers model, such as fp16."""
    attention: Literal["auto", "sdpa", "xformers"] = "auto"

    # method
    method: str = "diffusion-dpo"
    objective: str | None = None
    """Another row of the objective table than the method's own (see diffalign.objectives.names())."""
    beta: float | None = None
    """Strength, in units of the mean-over-latent error: margin = -beta/2 * Delta. Default: the method's published value."""
    objective_options: dict[str, float] = field(default_factory=dict)
    """Further options of the objective, such as label_smoothing 0.1. One it does not use is an error."""
    reference: Literal["none", "base", "start", "ema"] | None = None
    """none; base: the model without the adapter; start: the weights training starts from; ema: a moving average of the policy. Default: the method's."""
    reference_ema_decay: float = 0.999

    # data
    columns: dict[str, str] = field(default_factory=dict)
    """Our column name -> the data set's, such as chosen image_a."""
    data_split: str = "train"
    ties: Literal["drop", "half"] = "drop"
    on_bad_data: Literal["error", "skip"] = "error"
    max_pairs: int | None = None
    """Use at most this many training pairs, chosen by the hash of their ids."""
    held_out: float = 0.05
    """Share of prompts kept out of training to measure preference accuracy on."""
    resolution: int | None = None
    """Pixels of the square (or of the bucket area's side); default: the model's own."""
    aspect_ratio_buckets: bool = False
    crop: Literal["center", "random"] = "center"
    flip: bool = False
    """Mirror half of the pairs, both images together."""
    caption_dropout: float = 0.1
    """Share of draws in which both captions are replaced by the empty one."""
    cache_dir: str | None = None
    """Where VAE moments and text states are cached; default: output_dir/cache."""
    cache_batch_size: int = 16

    # optimisation
    max_train_steps: int = 1000
    train_batch_size: int = 4
    """Pairs in a forward pass of one process."""
    gradient_accumulation_steps: int = 1
    learning_rate: float = 1e-5
    lr_scheduler: str = "constant_with_warmup"
    lr_warmup_steps: int = 0
    optimizer: Literal["adamw", "adamw_8bit", "adafactor"] = "adamw"
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_weight_decay: float = 1e-2
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    gradient_checkpointing: bool = False
    ema_decay: float | None = None
    """Keep a moving average of the trained weights and save it as the result."""
    timesteps: str = "uniform"
    """uniform, or uniform:LOW:HIGH for a range, or values separated by commas."""
    seed: int = 0
    device: Literal["auto", "cpu"] = "auto"

    # watching
    logging_steps: int = 10
    validation_steps: int | None = None
    """Held-out accuracy and validation images every so many steps; default: a fifth of the run."""
    held_out_draws: int = 4
    """Timestep and noise draws a held-out pair, fixed for the run."""
    validation_prompts: list[str] = field(default_factory=list)
    """Prompts drawn at every validation with fixed seeds; default: the first four held-out ones."""
    num_validation_images: int = 4
    validation_guidance_scale: float = 5.0
    validation_inference_steps: int = 25
    checkpointing_steps: int | None = None
    """Default: a tenth of the run, at least 50."""
    checkpoints_total_limit: int = 2
    report_to: Literal["none", "tensorboard"] = "none"
    """A tracker through accelerate; metrics.jsonl is always written."""

    def problems(self) -> list[str]:
        """Everything wrong with the values alone; an empty list when there is nothing."""
        from diffalign import methods, objectives

        found, values = [], dataclasses.asdict(self)
        if not self.model:
            found.append("model is missing: a hub id, a diffusers folder, a .safetensors file, or builtin:shapes")
        if not self.data:
            found.append("data is missing: a folder with chosen/ and rejected/, a .jsonl, .csv or .parquet file, or a data set")
        for name in ("lora_rank", "max_train_steps", "train_batch_size", "gradient_accumulation_steps", "logging_steps", "cache_batch_size", "held_out_draws"):
            if values[name] < 1:
                found.append(f"{name} is {values[name]}; it must be at least 1")
        for name in ("max_pairs", "resolution", "validation_steps", "checkpointing_steps"):
            if values[name] is not None and values[name] < 1:
                found.append(f"{name} is {values[name]}; it must be at least 1, or left out")
        for name in ("held_out", "caption_dropout"):
            if not 0 <= values[name] < 1:
                found.append(f"{name} is {values[name]}; it must be in [0, 1)")
        if self.learning_rate <= 0:
            found.append(f"learning_rate is {self.learning_rate}; it must be positive")
        try:
            method = methods.get(self.method)
            objectives.get(self.objective or method.objective, **self.objective_settings(method))
        except ValueError as error:
            found.append(str(error))
        try:
            self.timestep_sampler()
        except ValueError as error:
            found.append(str(error))
        if self.train == "full" and self.reference == "base":
            found.append("reference is 'base', which means the adapter switched off, but train is 'full': use reference start")
        return found

    def checked(self) -> TrainConfig:
        """Itself, or ConfigError with all problems together."""
        if found := self.problems():
            raise ConfigError("\n".join(found))
        return self

    def objective_settings(self, method) -> dict[str, float]:
        """Options for the objective: the user's, over the method's published ones where the row is the method's own."""
        settings = dict(method.objective_options) if self.objective in (None, method.objective) else {}
        if self.beta is not None:
            settings["beta"] = self.beta
        return {**settings, **self.objective_options}

    def timestep_sampler(self):
        from diffalign.denoising import timesteps

        kind, _, rest = self.timesteps.partition(":")
        try:
            if kind == "uniform":
                low, high = (int(value) for value in rest.split(":")) if rest else (0, None)
                return timesteps.get("uniform", low=low, high=high)
            return timesteps.get("list", timesteps=[int(value) for value in self.timesteps.split(",")])
        except ValueError as error:
            raise ValueError(f"timesteps is {self.timesteps!r}; use uniform, uniform:LOW:HIGH, or values separated by commas ({error})") from None

    @property
    def validate_every(self) -> int:
        return self.validation_steps or max(1, self.max_train_steps // 5)

    @property
    def checkpoint_every(self) -> int:
        return self.checkpointing_steps or max(50, self.max_train_steps // 10)

    def to_dict(self) -> dict[str, Any]:
        """The resolved configuration without ``fresh``, which says how to start and not what the run is."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key != "fresh"}

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


def read_yaml(path: str | Path, cls: type = TrainConfig) -> dict[str, Any]:
    """The keys and values of a configuration file.

    Raises:
        ConfigError: not readable, not a mapping, or an unknown key (the nearest known one is named).
    """
    try:
        values = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold 'key: value' lines, not {type(values).__name__}")
    known = [f.name for f in dataclasses.fields(cls)] + ["preset"]
    unknown = [key for key in values if key not in known]
    if unknown:
        lines = []
        for key in unknown:
            near = difflib.get_close_matches(str(key), known, n=1)
            lines.append(f"{path}: unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"))
        raise ConfigError("\n".join(lines))
    return values
