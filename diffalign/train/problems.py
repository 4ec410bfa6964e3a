"""Everything that is wrong with a configuration, said at once and before anything is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import torch

from diffalign import objectives
from diffalign.extras import require
from diffalign.train.config import TrainConfig
from diffalign.train.errors import ConfigError
from diffalign.train.fields import fitting
from diffalign.train.run_config import RunConfig

# name: (lowest allowed, first not allowed); None is no limit. An optional field may also be left out.
RANGES = {
    **dict.fromkeys(("lora_rank", "max_pairs", "max_held_out_pairs", "resolution", "cache_batch_size"), (1, None)),
    **dict.fromkeys(("max_train_steps", "train_batch_size", "gradient_accumulation_steps", "logging_steps", "validation_steps"), (1, None)),
    **dict.fromkeys(("held_out_draws", "validation_inference_steps", "checkpointing_steps", "checkpoints_total_limit"), (1, None)),
    **dict.fromkeys(("lr_warmup_steps", "num_validation_images", "adam_weight_decay", "validation_guidance_scale"), (0, None)),
    **dict.fromkeys(("held_out", "caption_dropout", "adam_beta1", "adam_beta2", "reference_ema_decay", "ema_decay"), (0, 1)),
}
MODEL = "a hub id, a diffusers folder, a .safetensors file, or builtin:shapes"
DATA = "a folder with chosen/ and rejected/, a .jsonl, .csv or .parquet file, or a data set"
POSITIVE = ("lora_alpha", "learning_rate", "adam_epsilon", "max_grad_norm")


def checked(config: TrainConfig) -> TrainConfig:
    """The configuration itself, or ConfigError with all its problems together."""
    if found := problems(config):
        raise ConfigError("\n".join(found))
    return config


def problems(config: TrainConfig) -> list[str]:
    """A sentence for everything wrong with the values alone; an empty list where there is nothing."""
    found, readable = shared_problems(config, MODEL, DATA)
    if not readable:
        return found
    try:
        config.timestep_sampler()
    except ValueError as error:
        found.append(str(error))
    try:
        found += _of_the_method(config)
    except ValueError as error:
        found.append(str(error))
    return found


def shared_problems(config: RunConfig, model: str, data: str) -> tuple[list[str], bool]:
    """What is wrong with the options of every modality, and whether all values have their types (else nothing more can be asked of them).

    Args:
        model, data: what to say where these are missing.
    """
    values = dataclasses.asdict(config)
    _, found = fitting(type(config), values)
    if found:  # ranges of values that have the wrong type would only confuse
        return found, False
    found += [f"{name} is missing: {what}" for name, what in (("model", model), ("data", data)) if not values[name]]
    for name, (low, end) in RANGES.items():
        if values.get(name) is not None and not (low <= values[name] and (end is None or values[name] < end)):
            found.append(f"{name} is {values[name]}; it must be {f'at least {low}' if end is None else f'in [{low}, {end})'}")
    found += [f"{name} is {values[name]}; it must be positive" for name in POSITIVE if values.get(name) is not None and values[name] <= 0]
    if config.lr_scheduler == "constant" and config.lr_warmup_steps:
        found.append(f"lr_warmup_steps is {config.lr_warmup_steps}, but lr_scheduler constant has no warm-up: use constant_with_warmup")
    return found, True


def reference_problems(config: RunConfig, reference: str) -> list[str]:
    """What is wrong with the reference that the run will have, and with saying beta twice."""
    found = []
    if config.train == "full" and reference == "base":
        found.append("reference is 'base', which means the adapter switched off, but train is 'full': use reference start")
    if config.reference_ema_decay is not None and reference != "ema":
        decay = f"reference_ema_decay is {config.reference_ema_decay}"
        found.append(f"{decay}, but reference is '{reference}': drop it, or use reference ema")
    if config.beta is not None and "beta" in config.objective_options:
        found.append("beta is given twice, by itself and in objective_options: keep one")
    return found


def lacking(objective: str, options: Collection[str]) -> list[str]:
    """The options that an objective has to be given and was not, each with the flag that gives it; [] for an unknown objective."""
    flags = {"beta": "--beta NUMBER"}
    row = objectives.TABLE.get(objective)
    missing = {} if row is None else row.lacks(options)
    return [f"{why}. Give it as {flags.get(option, f'--objective-options {option} NUMBER')}" for option, why in missing.items()]


def _of_the_method(config: TrainConfig) -> list[str]:
    """Of the point in the space of methods. Raises ValueError for an unknown name or an option that the objective does not take."""
    point = config.point()
    found = reference_problems(config, point.reference)
    if (config.reference_lora is not None) != (point.reference == "past"):
        other = "name the adapter with reference_lora" if config.reference_lora is None else "drop it, or use reference past"
        found.append(f"reference is '{point.reference}' and reference_lora is {config.reference_lora!r}: {other}")
    if config.train == "full" and (config.init_lora is not None or point.reference == "past"):
        found.append("train is 'full', and init_lora and reference past are about adapters: use train lora, or merge them into the model")
    refused = lacking(point.objective, point.objective_options) or point.refusals()
    if config.cache_inversion and not refused and (refusal := point.not_cacheable(config.posterior)):
        refused = [refusal]
    return found + refused


def check_machine(config: RunConfig) -> None:
    """Refuse what this machine or installation cannot do, before anything is loaded.

    Raises:
        ConfigError: fp16 without a GPU. ImportError: a missing extra, by name.
    """
    if config.mixed_precision == "fp16" and (config.device == "cpu" or not torch.accelerator.is_available()):
        raise ConfigError("mixed_precision is 'fp16', which needs a GPU, and this run is on the CPU: use bf16 or no")
    if config.optimizer == "adamw_8bit":
        require("bitsandbytes", extra="quant")
    if config.report_to == "tensorboard":
        require("tensorboard", extra="track")
