"""The model card of a run on text: what was trained on what, how well, and how to load it."""

from __future__ import annotations

from typing import Any

from diffalign import objectives
from diffalign.llm.config import TextConfig

CARD = """---
library_name: {library}
pipeline_tag: text-generation
tags: [diffalign, {name}, {kind}]
---

# {title} of {model}

{paper}. Objective {objective}.
Reference: {reference}.

* trained: {trained}, {steps} steps of {batch} {unit}, learning rate {learning_rate:g}, {precision}
* {notes}
* held-out preference accuracy: {accuracy}

```python
{snippet}
```

{warnings}

Written by diffalign; `config.yaml` beside this file is the whole configuration, `metrics.jsonl` the log.
"""
LORA = """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{place}"), "{result}")
tokenizer = AutoTokenizer.from_pretrained("{result}")"""
FULL = """from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained("{result}"), AutoTokenizer.from_pretrained("{result}")"""
ABOUT = ("data:", "pairs:", "labels:", "rankings:", "text:")  # the notes of a run that say what it was trained on


def card(config: TextConfig, parts, summary: dict[str, Any]) -> str:
    """The text of ``README.md``.

    Args:
        parts: of the run (``setup.TextParts``). summary: as ``summary.json`` holds it.
    """
    row = objectives.TABLE[config.objective]
    accuracy = summary.get("held_out/accuracies")
    what = f"LoRA of rank {config.lora_rank} on {config.lora_targets}" if config.train == "lora" else "all weights"
    return CARD.format(
        library="peft" if config.train == "lora" else "transformers",
        name=row.name,
        kind=config.train,
        title=row.title,
        model=config.model,
        paper=row.paper,
        objective=config.objective_line(),
        reference="none" if parts.reference is None else parts.reference.describe(),
        trained=what + ("" if config.ema_decay is None else f", their moving average (decay {config.ema_decay:g})"),
        steps=summary["steps"],
        batch=config.train_batch_size * config.gradient_accumulation_steps,
        unit=row.takes,
        learning_rate=config.learning_rate,
        precision={"no": "float32"}.get(config.mixed_precision, config.mixed_precision),
        notes="\n* ".join(note for note in parts.notes if note.startswith(ABOUT)),
        accuracy="not measured (no held-out records)" if accuracy is None else f"{accuracy:.3f} (one half is chance)",
        snippet=(LORA if config.train == "lora" else FULL).format(place=parts.model.place, result=summary["result"]),
        warnings="\n".join(f"**Warning**, {text}\n" for text in summary["warnings"]) or "No warnings.",
    )
