"""From a configuration to the parts of a run on text: model, tokens, reference, optimizer."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffalign import models
from diffalign.llm import adapters
from diffalign.llm.batch import TextStore, length_buckets
from diffalign.llm.card import card
from diffalign.llm.config import TextConfig
from diffalign.llm.models import LanguageModel, load_language_model
from diffalign.llm.records import read_store
from diffalign.llm.reference import Precomputed
from diffalign.llm.sampling import sample
from diffalign.llm.step import TextOutput, text_step
from diffalign.llm.tokenize import Writer, set_chat_template
from diffalign.models.reference import Reference, evaluating
from diffalign.objectives import Metrics, merge, plain, reduce
from diffalign.train.batch import Order
from diffalign.train.errors import ConfigError
from diffalign.train.health import cautions
from diffalign.train.labels import sides_of
from diffalign.train.parts import Measured, Parts
from diffalign.train.ranks import ALONE, Ranks
from diffalign.train.records import key_of
from diffalign.train.setup import optimizer_of, schedule_of, start_is_known


@dataclass
class TextParts(Parts):
    """``store``: the records with their tokens, those to train on first. ``writer``: what made these."""

    store: TextStore
    writer: Writer

    def measure(self, indices: list[int], draw: int, accelerator) -> Measured:
        batch = self.store(indices).to(accelerator.device)
        out = text_step(self.model, self.reference, self.objective, batch, accelerator.autocast)
        return Measured(batch.ids, batch.labels, out.terms, log_metrics(out, batch.labels))

    @torch.no_grad()
    def held_out_metrics(self, batches: list[list[int]], config: TextConfig, accelerator) -> Metrics:
        """Also ``chosen_change``: mean rise of the log-probability of chosen responses above that of ``baseline``, in nats."""
        found = []
        with evaluating(self.model.module):
            for indices in batches:
                batch = self.store(indices).to(accelerator.device)
                out = text_step(self.model, self.reference, self.objective, batch, accelerator.autocast, self.baseline)
                found.append({**out.terms.metrics, "loss": (reduce(out.terms, 1), len(batch.ids))})
                if out.baseline is not None:
                    change = out.evidence.policy - out.baseline
                    found.append({f"{side}_change": (change[rows].sum(), len(rows)) for side, rows in sides_of(batch.labels).items()})
        return merge(map(plain, found))

    def write_samples(self, config: TextConfig, folder: Path) -> None:
        asked = {record.prompt: record.images[0].prompt for record in self.store.records}
        prompts = config.validation_prompts or self.prompts
        if prompts := prompts[: config.num_validation_samples]:
            texts = sample(
                self.model, self.writer, [asked.get(prompt, prompt) for prompt in prompts], max_new_tokens=config.validation_max_new_tokens,
                temperature=config.validation_temperature, seed=config.seed, quiet=True,
            )  # fmt: skip
            folder.mkdir(parents=True, exist_ok=True)
            rows = [{"prompt": prompt, "response": text} for prompt, text in zip(prompts, texts, strict=True)]
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
            (folder / "samples.jsonl").write_text("".join(lines), encoding="utf-8")

    def save(self, config: TextConfig, folder: Path) -> None:
        if config.train == "lora":
            adapters.save(self.model, folder)
        else:
            self.model.lm.save_pretrained(folder)
            self.model.tokenizer.save_pretrained(folder)

    def card(self, config: TextConfig, summary: dict[str, Any]) -> str:
        return card(config, self, summary)


def log_metrics(out: TextOutput, labels) -> Metrics:
    """TRL's names: ``logps/chosen``, the mean log-probability of chosen responses (of labels: of good ones), and the same a token; with a
    reference, ``logps/chosen_change``, how much that is above the reference's. The same of ``rejected``."""
    found: Metrics = {}
    policy, size = out.evidence.policy.detach(), out.evidence.size
    for side, rows in sides_of(labels).items():
        rows = rows.to(policy.device)
        found[f"logps/{side}"] = (policy[rows].sum(), len(rows))
        found[f"logps/{side}_per_token"] = (policy[rows].sum(), size[rows].sum().item())
        if out.evidence.reference is not None:
            found[f"logps/{side}_change"] = ((policy - out.evidence.reference)[rows].sum(), len(rows))
    return found


def build(config: TextConfig, device: torch.device, quiet: bool = False, ranks: Ranks = ALONE) -> TextParts:
    """Everything a run needs. What can be refused is refused before the first log-probability is computed.

    Raises:
        ConfigError, ValueError: what is wrong and what to do.
    """
    objective = config.build_objective(ranks.total)
    model = load(config, device)
    notes = list(model.notes)
    writer = Writer(model.tokenizer, model.name, max_length=longest(config, model), truncation=config.truncation)
    store, count, lines = read_store(config, objective, writer)
    notes += lines + cautions(config.objective, objective, store.records[:count], config.train_batch_size)
    lengths = [store.length(i) for i in range(len(store))]
    rows = sorted(range(count, len(store)), key=store.length)  # to measure on, those of about one length together
    held_out = [rows[i : i + config.train_batch_size] for i in range(0, len(rows), config.train_batch_size)]
    buckets = length_buckets(lengths[:count], config.train_batch_size) if config.group_by_length else [0] * count
    if "extra:mismatched" in objective.needs:
        buckets = accompanied(config, buckets, len(rows))
    with ranks.first_alone():  # log-probabilities that are computed before training are computed once
        reference = reference_of(config, model, store, quiet)
    notes.append("reference: " + ("none" if reference is None else reference.describe()))
    baseline = models.make_reference("base", model) if config.train == "lora" and config.reference not in ("base", "start") else reference
    trainable = {name: parameter for name, parameter in model.module.named_parameters() if parameter.requires_grad}
    notes.append(f"trainable: {sum(p.numel() for p in trainable.values()):,} parameters in {len(trainable)} tensors")
    optimizer = optimizer_of(config, list(trainable.values()))
    ema = None
    if config.ema_decay is not None:
        from diffusers.training_utils import EMAModel

        ema = EMAModel(trainable.values(), decay=config.ema_decay)
    return TextParts(
        model=model,
        reference=reference,
        baseline=baseline,
        objective=objective,
        starts_known=start_is_known(objective, store.records),
        order=Order(buckets, config.train_batch_size, config.gradient_accumulation_steps, config.seed),
        held_out=held_out,
        trainable=trainable,
        optimizer=optimizer,
        schedule=schedule_of(config, optimizer),
        ema=ema,
        prompts=list(dict.fromkeys(record.prompt for record in store.records[count:] or store.records)),
        data=f"{count} {key_of(store.records)}",
        notes=notes,
        store=store,
        writer=writer,
    )


def accompanied(config: TextConfig, buckets: list[int], held_out: int) -> list[int]:
    """The buckets, or one for all records where a batch of one of them would have a single record: an objective that reads ``mismatched``
    compares with a batch's other records. Raises ConfigError where that does not help, or ``held_out`` records leave one over."""
    size = config.train_batch_size

    def lone(count: int) -> bool:
        return count > 0 and (size == 1 or count % size == 1)

    for count, what, most in ((len(buckets), "train on", "max_pairs"), (held_out, "measure on", "max_held_out_pairs")):
        if lone(count):
            raise ConfigError(
                f"{config.objective} compares a response with those of its batch's other records, and {count} records to {what} in batches "
                f"of {size} leave one alone: use another train_batch_size, at least 2, or {most} {max(count - 1, 2)}"
            )
    return [0] * len(buckets) if any(map(lone, Counter(buckets).values())) else buckets


def load(config: TextConfig, device: torch.device) -> LanguageModel:
    """The model with what is trained in it: a fresh adapter in float32 on a base of the run's precision, or all its weights in float32."""
    half = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[config.mixed_precision]
    model = load_language_model(
        config.model, dtype=half if config.train == "lora" else torch.float32, device=device, attention=config.attention,
        chunk=config.logit_chunk,
    )  # fmt: skip
    if config.chat_template is not None:
        set_chat_template(model.tokenizer, config.chat_template)
    if config.train == "lora":
        adapters.add(model, rank=config.lora_rank, alpha=config.lora_alpha, targets=config.lora_targets, seed=config.seed)
    else:
        model.lm.requires_grad_(True)
    if config.gradient_checkpointing:
        model.lm.gradient_checkpointing_enable({"use_reentrant": False})
    model.module.train()
    return model


def longest(config: TextConfig, model: LanguageModel) -> int | None:
    """The run's ``max_length``. Raises ValueError where it is more than the model was made for."""
    if config.max_length is not None and model.longest is not None and config.max_length > model.longest:
        raise ValueError(f"max_length is {config.max_length}, and '{config.model}' was made for {model.longest} tokens: use at most these")
    return config.max_length or model.longest


def reference_of(config: TextConfig, model: LanguageModel, store: TextStore, quiet: bool) -> Reference | None:
    if not config.precompute_ref_log_probs:
        return models.make_reference(config.reference, model, ema=config.reference_ema_decay)
    rows = sorted(range(len(store)), key=store.length)
    batches = [store(rows[i : i + config.train_batch_size]) for i in range(0, len(rows), config.train_batch_size)]
    folder = Path(config.cache_dir) if config.cache_dir else Path(config.output_dir) / "cache"
    return Precomputed(model, batches, folder, kind=config.reference, quiet=quiet)
