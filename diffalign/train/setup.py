"""From a configuration to the parts of a run: model, encoded pairs, reference, optimizer."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffalign import data, methods, models, objectives
from diffalign.denoising import Draws
from diffalign.train.batch import BatchMaker
from diffalign.train.config import ConfigError, TrainConfig


@dataclass
class Parts:
    """What the loop works with. ``trainable``: name -> parameter. ``train``, ``held_out``: indices into the store."""

    model: Any
    reference: Any
    objective: Any
    maker: BatchMaker
    held_out_maker: BatchMaker
    buckets: list
    train: list[int]
    held_out: list[int]
    trainable: dict[str, torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    schedule: Any
    ema: Any
    resolution: int
    notes: list[str]


def build(config: TrainConfig, device: torch.device, quiet: bool = False) -> Parts:
    """Everything a run needs, in the order in which memory is used: data, encoders, cache, then the denoiser with its optimizer.

    Raises:
        ConfigError, ValueError: what is wrong and what to do.
    """
    method = methods.get(config.method)
    objective = objectives.get(config.objective or method.objective, **config.objective_settings(method))
    notes = []

    records, counts = data.read(config.data, columns=config.columns or None, ties=config.ties, split=config.data_split, on_bad=config.on_bad_data)
    notes.append(f"data: {counts}")
    if not records or not all(isinstance(record, data.Pair) for record in records):
        raise ConfigError(f"{config.method} trains on pairs; {config.data} gave {counts}")
    train, held_out = data.hold_out(records, config.held_out, config.seed) if config.held_out else (records, [])
    if config.max_pairs is not None:
        train = sorted(train, key=lambda record: hashlib.sha256(f"{config.seed}/{record.id}".encode()).digest())[: config.max_pairs]
    if not train:
        raise ConfigError(f"no pair is left to train on: {counts}; {len(held_out)} are held out (held_out {config.held_out})")
    notes.append(f"pairs: {len(train)} to train on, {len(held_out)} held out, no prompt in both")

    half = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[config.mixed_precision]
    model = models.load_model(
        config.model, config=config.model_config, vae=config.vae, variant=config.variant, device=device,
        dtype=half if config.train == "lora" else torch.float32,
    )  # fmt: skip
    resolution = config.resolution or model.default_resolution
    store = encode(config, model, [*train, *held_out], resolution, quiet)
    model.release_encoders()

    notes.append(f"attention: {models.set_attention(model.denoiser, config.attention)}")
    if config.train == "lora":
        targets = config.lora_targets.split(",") if "," in config.lora_targets else config.lora_targets
        models.lora.add(model.denoiser, rank=config.lora_rank, alpha=config.lora_alpha, targets=targets, seed=config.seed)
    else:
        model.denoiser.requires_grad_(True)
    if config.gradient_checkpointing:
        model.denoiser.enable_gradient_checkpointing()
    model.denoiser.train()
    kind = config.reference or method.reference
    reference = models.make_reference(kind, model, ema=config.reference_ema_decay if kind == "ema" else None)
    notes.append("reference: " + ("none" if reference is None else reference.describe()))
    trainable = {name: parameter for name, parameter in model.denoiser.named_parameters() if parameter.requires_grad}
    notes.append(f"trainable: {sum(p.numel() for p in trainable.values()):,} parameters in {len(trainable)} tensors")

    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    optimizer = _optimizer(config, list(trainable.values()))
    schedule = get_scheduler(
        config.lr_scheduler, optimizer, num_warmup_steps=config.lr_warmup_steps, num_training_steps=config.max_train_steps
    )
    sampler = config.timestep_sampler()
    makers = [
        BatchMaker(model, store, sampler, seed=seed, flip=flip, caption_dropout=dropout)
        for seed, flip, dropout in ((config.seed, config.flip, config.caption_dropout), (config.seed + 10**9, False, 0.0))
    ]
    return Parts(
        model=model, reference=reference, objective=objective, maker=makers[0], held_out_maker=makers[1],
        buckets=store.buckets[: len(train)], train=list(range(len(train))),
        held_out=list(range(len(train), len(train) + len(held_out))), trainable=trainable, optimizer=optimizer, schedule=schedule,
        ema=EMAModel(trainable.values(), decay=config.ema_decay) if config.ema_decay else None, resolution=resolution, notes=notes,
    )  # fmt: skip


def encode(config: TrainConfig, model, records, resolution: int, quiet: bool = False) -> data.PairStore:
    """VAE moments and text states of all records, from the cache where it has them; afterwards the encoders are not needed."""
    folder = Path(config.cache_dir) if config.cache_dir else Path(config.output_dir) / "cache"
    multiple = model.spatial_factor
    if config.aspect_ratio_buckets:
        plan = data.Plan.aspect_ratios(resolution, crop=config.crop, multiple=multiple)
    else:
        plan = data.Plan(resolution, crop=config.crop, multiple=multiple)
    cache = data.TensorCache(folder, model.provenance())
    crop_at = functools.partial(_crop_at, config.seed)
    store = data.PairStore(records, plan, cache, uniform=crop_at, flip=config.flip)
    store.build(
        model.encode_images, model.encode_prompts, encode_empty=model.empty_prompt, batch_size=config.cache_batch_size, progress=not quiet
    )
    return store


def _crop_at(seed: int, record_id: str, name: str) -> float:
    return Draws(seed, record_id, 0).uniform(name)


def _optimizer(config: TrainConfig, parameters) -> torch.optim.Optimizer:
    betas = (config.adam_beta1, config.adam_beta2)
    if config.optimizer == "adafactor":
        from transformers import Adafactor

        return Adafactor(
            parameters, lr=config.learning_rate, weight_decay=config.adam_weight_decay, clip_threshold=1.0,
            scale_parameter=False, relative_step=False, warmup_init=False,
        )  # fmt: skip
    if config.optimizer == "adamw_8bit":
        from diffalign.extras import require

        kind = require("bitsandbytes", extra="quant").optim.AdamW8bit
    else:
        kind = torch.optim.AdamW
    return kind(parameters, lr=config.learning_rate, betas=betas, eps=config.adam_epsilon, weight_decay=config.adam_weight_decay)
