"""What a run on text is: the shared options and those of a language model, and everything that is wrong with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from diffalign import objectives
from diffalign.data.convert import check_source
from diffalign.llm.extras import unmeasured
from diffalign.train.problems import lacking, reference_problems, shared_problems
from diffalign.train.run_config import RunConfig

BETA = 0.1  # where an objective has a beta and the run says none: TRL's default
MODEL = "a hub id, a transformers folder, or builtin:sums"
DATA = "a .jsonl, .csv or .parquet file, a folder of them, or a data set, with columns prompt, chosen, rejected (docs/text.md)"
POSITIVE = ("max_length", "logit_chunk", "validation_max_new_tokens")


@dataclass(frozen=True)
class TextConfig(RunConfig):
    """A run that trains a causal language model."""

    modality: Literal["text"] = "text"
    """What is generated."""

    # model
    attention: str | None = None
    """transformers' attn_implementation, such as sdpa or flash_attention_2; default: its own choice."""
    logit_chunk: int | None = None
    """Positions whose logits exist at once; default: as many as fill 32 MiB."""

    # method
    reference: Literal["none", "base", "start", "ema"] | None = None
    """base: the model without the adapter; start: the weights training starts from; ema: a moving average of the policy. Default: start
    where the objective compares with one, else none."""
    precompute_ref_log_probs: bool = False
    """Compute the reference's log-probabilities once, before training: no copy of the weights and no second forward pass."""

    # data
    max_length: int | None = None
    """Most tokens of prompt and response together; default: what the model was made for."""
    truncation: Literal["error", "keep_start", "keep_end", "drop"] = "error"
    """Of longer texts: refuse them, cut off the end of the response, cut off the beginning of the prompt, or leave the record out."""
    chat_template: str | None = None
    """A jinja file in place of the tokenizer's own chat template."""
    group_by_length: bool = True
    """Batches of records of about one length, which need little filling up."""

    # watching
    num_validation_samples: int = 4
    """Prompts answered at every validation; 0 for none."""
    validation_max_new_tokens: int = 128
    """Most tokens of such an answer."""
    validation_temperature: float = 1.0
    """Of the answers; 0 takes the likeliest token always."""

    def build_objective(self, all_reduce: Callable | None = None) -> objectives.Objective:
        """The objective of the run. Raises ValueError for an unknown name or option, or a value out of range.

        Args:
            all_reduce: as of ``objectives.get``.
        """
        name = self.objective or "dpo"
        return objectives.get(name, all_reduce=all_reduce, **self.options())

    def options(self) -> dict[str, float]:
        """The objective's options: those given, and beta, where it has one that has to be given and was not."""
        row = objectives.TABLE.get(self.objective or "dpo")
        beta = self.beta
        if beta is None and row is not None and "beta" in row.options and row.options["beta"].default is None:
            beta = self.objective_options.get("beta", BETA)
        return {**({} if beta is None else {"beta": beta}), **self.objective_options}

    def reference_kind(self) -> str:
        """The run's reference: the one asked for, else ``start`` where the objective compares with one. Raises as ``build_objective``."""
        return self.reference or ("start" if needs_reference(self.build_objective()) else "none")

    def objective_line(self) -> str:
        """The settings of the objective, and the formula in which they stand. Raises as ``build_objective``."""
        name = self.objective or "dpo"
        settings = ", ".join(f"{option} = {value:g}" for option, value in self.options().items()) or "its own defaults"
        return f"{name} with {settings}: {objectives.TABLE[name].formula}; policy is a sum of log-probabilities in nats"

    def resolved(self) -> TextConfig:
        """The same run with its choices written out. Raises as ``build_objective``."""
        options = self.options()
        beta, reference = options.pop("beta", None), self.reference_kind()
        return dataclasses.replace(self, objective=self.objective or "dpo", beta=beta, objective_options=options, reference=reference)


def needs_reference(objective: objectives.Objective) -> bool:
    return "reference" in objective.needs


def problems(config: TextConfig) -> list[str]:
    """A sentence for everything wrong with the values alone; an empty list where there is nothing."""
    found, readable = shared_problems(config, MODEL, DATA)
    if not readable:
        return found
    values = dataclasses.asdict(config)
    found += [f"{name} is {values[name]}; it must be positive" for name in POSITIVE if values[name] is not None and values[name] <= 0]
    for name in ("num_validation_samples", "validation_temperature"):
        if values[name] < 0:
            found.append(f"{name} is {values[name]}; it must be at least 0")
    if missing := lacking(config.objective or "dpo", config.options()):
        return found + missing
    try:
        objective, reference = config.build_objective(), config.reference_kind()
        check_source(objective.takes)
    except ValueError as error:
        return [*found, str(error)]
    found += reference_problems(config, reference)
    if reference == "none" and needs_reference(objective):
        found.append(f"reference is 'none', but the objective {config.objective or 'dpo'} compares with one: use start, base or ema")
    if config.precompute_ref_log_probs and reference not in ("start", "base"):
        found.append(f"precompute_ref_log_probs needs weights that stay, and the reference is '{reference}': use start, or leave it out")
    if missing := unmeasured(objective):
        found.append(f"{config.objective}: {missing}")
    return found
