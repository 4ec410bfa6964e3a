"""The model card of a run: what was trained on what, how well, and how to load it."""

from __future__ import annotations

from typing import Any

from diffalign import methods
from diffalign.models.base import DiffusionModel
from diffalign.models.lora_files import stock
from diffalign.models.places import embedded
from diffalign.train.config import TrainConfig

CARD = """---
library_name: diffusers
tags: [diffalign, {method}, {kind}]
---

# {title} of {model}

{formula}

{paper}. Objective {objective}.
{reference}

* trained: {trained}, {steps} steps of {pairs} pairs, learning rate {learning_rate:g}, {precision}
* {notes}
* held-out preference accuracy: {accuracy}

```python
{snippet}
```

{warnings}

Written by diffalign; `config.yaml` beside this file is the whole configuration, `metrics.jsonl` the log.
"""
LOADED = """import torch
from diffusers import {pipeline}
{imports}
pipeline = {pipeline}.{loader}("{model}"{options}).to(torch.float32)  # one dtype for all parts, whatever the files hold"""
DENOISER = """import torch
from diffusers import {network}, {pipeline}
{imports}
network = {network}.from_single_file("{model}", config="{config}", subfolder="{part}")
pipeline = {pipeline}.from_pretrained("{config}", {part}=network{options}).to(torch.float32)  # one dtype for all parts"""
EMBEDDED = """from diffalign.models import load_model

pipeline = load_model("{model}").pipeline()"""  # of a model that shares parts with another, so that its folder is no whole pipeline
FULL = """from diffusers import {pipeline}

pipeline = {pipeline}.from_pretrained("{model}"{options})"""
LORA = """
pipeline.load_lora_weights("{result}")"""
PEFT = """
pipeline.{part} = PeftModel.from_pretrained(pipeline.{part}, "{result}")"""

ABOUT = ("data:", "pairs:", "labels:", "rankings:", "masks:", "adapter:", "WARNING")  # the notes of a run that say what it was trained on


def snippet(config: TrainConfig, model: DiffusionModel, result: str) -> str:
    """The code that draws with what was trained, in a pipeline of the parts it was trained with."""
    source, world = model.source, embedded(config.model)
    place, options = source.place, "".join(f", {name}=None" for name in model.lacking())  # SD3 without T5
    loader, adapter, imports = "from_pretrained", LORA, ""
    if config.train == "full":
        template, place, adapter = FULL, result, ""
    elif world and world.parts:
        template, place = EMBEDDED, config.model
    elif source.is_file and model.single_file == "denoiser":
        template = DENOISER
    else:  # a folder for builtin models, which diffusers does not know by name
        template = LOADED
        if source.is_file:
            loader, options = "from_single_file", "" if source.config is None else f', config="{source.config}"'
    if adapter and stock(model.denoiser).pipeline is None:
        adapter, imports = PEFT, "from peft import PeftModel\n"
    text = (template + adapter).format(
        pipeline=model.pipeline_class().__name__, network=type(model.denoiser).__name__, part=model.denoiser_name, model=place,
        imports=imports, loader=loader, options=options, config=source.config, result=result,
    )  # fmt: skip
    if model.max_sequence_length is not None:
        text += f"\nimage = pipeline(prompt, max_sequence_length={model.max_sequence_length}).images[0]  # as it was trained"
    return text


def card(config: TrainConfig, parts, summary: dict[str, Any]) -> str:
    """The text of ``README.md``.

    Args:
        parts: of the run (``setup.Parts``). summary: as ``summary.json`` holds it.
    """
    method = methods.get(config.method)
    accuracy = summary.get("held_out/accuracies")
    rank = f"LoRA of rank {config.lora_rank} on {config.lora_targets}" if config.train == "lora" else "all weights of the denoiser"
    if config.init_lora is not None:
        rank = f"the LoRA of {config.init_lora}, continued"
    return CARD.format(
        method=method.name,
        kind=config.train,
        title=method.title,
        model=config.model,
        formula=method.formula,
        paper=method.paper,
        objective=config.objective_line(),
        reference=f"Reference: {'none' if parts.reference is None else parts.reference.describe()}.",
        trained=rank + ("" if config.ema_decay is None else f", their moving average (decay {config.ema_decay:g})"),
        steps=summary["steps"],
        pairs=config.train_batch_size * config.gradient_accumulation_steps,
        learning_rate=config.learning_rate,
        precision={"no": "float32"}.get(config.mixed_precision, config.mixed_precision),
        notes="\n* ".join(note for note in parts.notes if note.startswith(ABOUT)),
        accuracy="not measured (no held-out pairs)" if accuracy is None else f"{accuracy:.3f} (one half is chance)",
        snippet=snippet(config, parts.model, summary["result"]),
        warnings="\n".join(f"**Warning**, {text}\n" for text in summary["warnings"]) or "No warnings.",
    )
