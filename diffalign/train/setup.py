"""From a configuration to the parts of a run: model, encoded pairs, reference, optimizer."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from diffalign import data, methods, models, objectives
from diffalign.denoising import Draws
from diffalign.train.batch import BatchMaker, Order
from diffalign.train.config import TrainConfig
from diffalign.train.diffusion import DiffusionParts
from diffalign.train.errors import ConfigError
from diffalign.train.health import cautions
from diffalign.train.labels import labels_of
from diffalign.train.noising import Noising
from diffalign.train.ranks import ALONE, Ranks
from diffalign.train.records import key_of, read_records
from diffalign.train.run_config import RunConfig


def build(config: TrainConfig, device: torch.device, quiet: bool = False, ranks: Ranks = ALONE) -> DiffusionParts:
    """Everything a run needs. What can be refused is refused before the first image is encoded.

    Raises:
        ConfigError, ValueError: what is wrong and what to do.
    """
    point = config.point()
    train, held_out, notes = read_records(config, point)
    notes += cautions(point.objective, point.build_objective(), train, config.train_batch_size)
    return assemble(config, load(config, device), train, held_out, notes, quiet, ranks)


def assemble(
    config: TrainConfig, model: models.DiffusionModel, train: list[data.Record], held_out: list[data.Record], notes: list[str], quiet: bool,
    ranks: Ranks = ALONE,
) -> DiffusionParts:
    """``build`` from what was loaded and read. ``notes``: lines about the records, to which those about the rest are added."""
    point = config.point()
    objective = point.build_objective(ranks.total)
    sampler = config.timestep_sampler(model.timestep_sampler)
    try:
        sampler(torch.linspace(0, 1, 1001, dtype=torch.float64)[:-1], model.path)
    except ValueError as error:
        raise ConfigError(f"timesteps is {config.timesteps or model.timestep_sampler!r}; {error}") from None
    point.check_path(model.path)
    notes.append(f"attention: {models.set_attention(model.denoiser, config.attention)}")
    store = store_of(config, model, [*train, *held_out])
    with ranks.first_alone():  # the others find what it has encoded
        store.cache.refresh()
        left_out = encode(config, model, store, quiet)
    if left_out:
        notes.append(f"left out: {len(left_out)} records with an image that cannot be read; the first is {left_out[0]}")
        left = {record.id for record in store.records}
        train, held_out = ([record for record in side if record.id in left] for side in (train, held_out))
        if not train:
            raise ConfigError(f"no record is left to train on: {notes[-1]}")
    model.release_encoders()

    continued = config.init_lora is not None
    if continued:
        notes.append(continuing(config, model))
    reference = models.make_reference(
        point.reference, model, continued_adapter=continued, ema=config.reference_ema_decay, past=config.reference_lora
    )
    notes.append("reference: " + ("none" if reference is None else reference.describe()))
    baseline = reference
    if config.train == "lora" and point.reference not in ("base", "start"):
        baseline = models.make_reference("base", model, continued_adapter=continued)
    trainable = {name: parameter for name, parameter in model.denoiser.named_parameters() if parameter.requires_grad}
    notes.append(f"trainable: {sum(p.numel() for p in trainable.values()):,} parameters in {len(trainable)} tensors")

    from diffusers.training_utils import EMAModel

    optimizer = optimizer_of(config, list(trainable.values()))
    make = functools.partial(BatchMaker, model, store, sampler, point, config.posterior)
    n = len(train)
    measured = data.batches(store.buckets[n:], config.train_batch_size, epoch=0, seed=config.seed, drop_last=False) if held_out else []
    return DiffusionParts(
        model=model,
        reference=reference,
        baseline=baseline,
        objective=objective,
        noising=Noising(point, inversion_cache(config, point, model) if config.cache_inversion else None),
        starts_known=start_is_known(objective, train),
        maker=make(seed=config.seed, flip=config.flip, caption_dropout=config.caption_dropout),
        held_out_maker=make(seed=config.seed + 10**9, flip=False, caption_dropout=0.0),
        order=Order(store.buckets[:n], config.train_batch_size, config.gradient_accumulation_steps, config.seed),
        held_out=[[n + i for i in batch] for batch in measured],
        trainable=trainable,
        optimizer=optimizer,
        schedule=schedule_of(config, optimizer),
        ema=None if config.ema_decay is None else EMAModel(trainable.values(), decay=config.ema_decay),
        resolution=store.plan.resolution,
        prompts=list(dict.fromkeys(record.prompt for record in held_out or train)),
        data=f"{n} {key_of([*train, *held_out])}",
        notes=notes,
    )


def load_bare(config: TrainConfig, device: torch.device) -> models.DiffusionModel:
    """The model of a run without what is trained: in the run's precision under an adapter, else in float32."""
    half = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[config.mixed_precision]
    return models.load_model(
        config.model, config=config.model_config, vae=config.vae, variant=config.variant, device=device,
        dtype=half if config.train == "lora" else torch.float32, guidance=config.guidance,
        max_sequence_length=config.max_sequence_length,
    )  # fmt: skip


def load(config: TrainConfig, device: torch.device) -> models.DiffusionModel:
    """The model with what is trained in it: an adapter in float32, fresh or continued, or all its weights in float32."""
    model = load_bare(config, device)
    if config.init_lora is not None:
        models.lora.load(model.denoiser, config.init_lora)
    elif config.train == "lora":
        named = config.lora_targets in ("attention", "attention+ff", "all-linear")
        targets = config.lora_targets if named else [name.strip() for name in config.lora_targets.split(",")]
        models.lora.add(model.denoiser, rank=config.lora_rank, alpha=config.lora_alpha, targets=targets, seed=config.seed)
    else:
        model.denoiser.requires_grad_(True)
    if config.gradient_checkpointing:
        model.denoiser.enable_gradient_checkpointing()
    model.denoiser.train()
    return model


def continuing(config: TrainConfig, model: models.DiffusionModel) -> str:
    """The line that says that training goes on from an adapter, and what its references mean."""
    adapter = model.denoiser.peft_config["default"]
    return (
        f"adapter: continues {config.init_lora} (rank {adapter.r}, alpha {adapter.lora_alpha:g}; lora_rank, lora_alpha and lora_targets "
        "are its own). Reference start is that adapter as it was, reference base the model without it"
    )


def store_of(config: TrainConfig, model: models.DiffusionModel, records: list[data.Record]) -> data.Store:
    """The records with their geometry and their cache, which lies in ``cache_dir`` or the output folder; nothing is encoded."""
    geometry = {"crop": config.crop, "multiple": model.image_multiple}
    make = data.Plan.aspect_ratios if config.aspect_ratio_buckets else data.Plan
    plan = make(config.resolution or model.default_resolution, **geometry)
    provenance = model.provenance()
    folder = Path(config.cache_dir) if config.cache_dir else Path(config.output_dir) / "cache"
    cache = data.TensorCache(folder / data.content_key(repr(sorted(provenance.items())))[:12], provenance)
    own_captions = config.point().conditioning == "dual captions"
    return data.Store(records, plan, cache, uniform=functools.partial(_crop_at, config.seed), flip=config.flip, own_captions=own_captions)


def encode(config: TrainConfig, model: models.DiffusionModel, store: data.Store, quiet: bool) -> list[str]:
    """VAE moments and text states of all records, where the cache lacks them; afterwards the encoders are not needed. Returns a sentence
    about every record that was left out (``on_bad_data: skip``)."""
    return store.build(
        model.encode_images, model.encode_prompts, encode_empty=model.empty_prompt, batch_size=config.cache_batch_size, progress=not quiet,
        skip=config.on_bad_data == "skip",
    )  # fmt: skip


def inversion_cache(config: TrainConfig, point: methods.Point, model: models.DiffusionModel) -> data.TensorCache:
    """Where the levels of an inversion by the reference are kept, with what they depend on beside latents and captions."""
    adapters = {"init_lora": config.init_lora, "reference_lora": config.reference_lora, "mixed_precision": config.mixed_precision}
    about = {**adapters, "reference": point.reference, "noising": point.noising, **point.inversion}
    return data.TensorCache(Path(config.output_dir) / "inversion", {**model.provenance(), **about})


@contextmanager
def accelerated(config: RunConfig) -> Iterator[Any]:
    """The run's Accelerator. Its process-wide state is given up at the end, so that the next run may use another precision or device."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, is_initialized
    from accelerate.utils import GradientAccumulationPlugin

    foreign = is_initialized()  # the caller's own Accelerator: its state is not ours to end
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision, cpu=config.device == "cpu" or not torch.accelerator.is_available(),
        project_dir=config.output_dir, log_with=None if config.report_to == "none" else config.report_to,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),  # the loop averages; not what the environment may say
    )  # fmt: skip
    try:
        yield accelerator
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()
        accelerator.free_memory()
        if not foreign:
            accelerator.state.destroy_process_group()
            AcceleratorState._reset_state(reset_partial_state=True)  # there is no public call for this; transformers' Trainer does the same
            GradientState._reset_state()


def start_is_known(objective: objectives.Objective, records: list[data.Record]) -> bool:
    """Whether the loss has a closed value while policy and reference agree."""
    try:
        objective.loss_at_start(labels_of(records[:1]))
    except ValueError:
        return False
    return True


def _crop_at(seed: int, record_id: str, name: str) -> float:
    return Draws(seed, record_id, 0).uniform(name)


def schedule_of(config: RunConfig, optimizer):
    from diffusers.optimization import get_scheduler

    return get_scheduler(
        config.lr_scheduler, optimizer, num_warmup_steps=config.lr_warmup_steps, num_training_steps=config.max_train_steps
    )


def optimizer_of(config: RunConfig, parameters) -> torch.optim.Optimizer:
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
