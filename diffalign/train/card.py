"""The model card of a run: what was trained on what, how well, and how to load it."""

from __future__ import annotations

from typing import Any

from diffalign import methods
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
LORA = """import torch
from diffusers import {pipeline}

pipeline = {pipeline}.from_pretrained("{model}").to(torch.float32)  # one dtype for all parts, whatever the files hold
pipeline.load_lora_weights("{result}")"""
PEFT = """import torch
from diffusers import {pipeline}
from peft import PeftModel

pipeline = {pipeline}.from_pretrained("{model}").to(torch.float32)  # one dtype for all parts, whatever the files hold
pipeline.transformer = PeftModel.from_pretrained(pipeline.transformer, "{result}")"""
SINGLE_FILE = LORA.replace("from_pretrained", "from_single_file")
EMBEDDED = """from diffalign.models import load_model

pipeline = load_model("{model}").pipeline()
pipeline.load_lora_weights("{result}")"""  # of a model that shares parts with another, so that its folder is no whole pipeline
FULL = """from diffusers import {pipeline}

pipeline = {pipeline}.from_pretrained("{result}")"""

ABOUT = ("data:", "pairs:", "labels:", "rankings:", "masks:", "adapter:")  # the notes of a run that say what it was trained on


def card(config: TrainConfig, parts, summary: dict[str, Any]) -> str:
    """The text of ``README.md``.

    Args:
        parts: of the run (``setup.Parts``). summary: as ``summary.json`` holds it.
    """
    method = methods.get(config.method)
    accuracy = summary.get("held_out/accuracies")
    if config.train == "full":
        template = FULL
    elif (world := embedded(config.model)) and world.parts:
        template = EMBEDDED
    elif stock(parts.model.denoiser).pipeline is None:
        template = PEFT
    else:
        template = SINGLE_FILE if config.model.endswith(".safetensors") else LORA
    # a folder for builtin models, which diffusers does not know by name
    place = config.model if template == EMBEDDED else parts.model.source.place
    snippet = template.format(pipeline=parts.model.pipeline_class().__name__, model=place, result=summary["result"])
    if parts.model.max_sequence_length is not None:
        snippet += f"\nimage = pipeline(prompt, max_sequence_length={parts.model.max_sequence_length}).images[0]  # as it was trained"
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
        snippet=snippet,
        warnings="\n".join(f"**Warning**, {text}\n" for text in summary["warnings"]) or "No warnings.",
    )
