"""What a modality gives to the loop: parts to train with, and a few calls. The loop knows no image and no text."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffalign import models, objectives
from diffalign.objectives import Metrics, Terms
from diffalign.train.batch import Order

NO_LABELS = {
    "pairs": objectives.Comparison.halves(0),
    "labels": objectives.Labels(torch.zeros(0, dtype=torch.bool)),
    "rankings": objectives.Rankings(torch.zeros(0, dtype=torch.int64), torch.zeros(0)),
}


@dataclass(frozen=True)
class Measured:
    """One batch of a step.

    ids: of its records. labels: what was said about them. terms: losses with gradient. metrics: what is logged beside those of ``terms``,
    as (sum, count). penalty: a further loss, a mean over the batch, to be added by the batch's share of the step; None for none.
    """

    ids: list[str]
    labels: objectives.Comparison | objectives.Labels | objectives.Rankings
    terms: Terms
    metrics: Metrics = field(default_factory=dict)
    penalty: Tensor | None = None


@dataclass
class Parts:
    """What the loop works with; a subclass a modality.

    ``baseline``: what validation tells changes against: the base where it costs no copy, whatever the method's reference is.
    ``starts_known``: the objective has a closed value while policy and reference agree. ``order``: which records a step sees.
    ``held_out``: batches of records that are measured on. ``trainable``: name -> parameter. ``ema``: the moving average of them, or None.
    ``prompts``: what validation answers unless told otherwise. ``data``: the key of exactly these records.
    """

    model: Any
    reference: models.Reference | None
    baseline: models.Reference | None
    objective: objectives.Objective
    starts_known: bool
    order: Order
    held_out: list[list[int]]
    trainable: dict[str, torch.nn.Parameter]
    optimizer: Any
    schedule: Any
    ema: Any
    prompts: list[str]
    data: str
    notes: list[str]

    def measure(self, indices: list[int], draw: int, accelerator) -> Measured:
        """The losses of the training records ``indices`` at their ``draw``-th use."""
        raise NotImplementedError

    def nothing(self, device: torch.device) -> Measured:
        """What a process has that is left without a record of a batch. The objective is called all the same, on no evidence: what it sums
        over all processes (``row.couples``), it sums in every call of every process."""
        none = torch.zeros(0, device=device)
        extra = {need.removeprefix("extra:"): none for need in self.objective.needs if need.startswith("extra:")}
        evidence = objectives.Evidence(none.clone().requires_grad_(), none, none, extra)
        labels = NO_LABELS[self.objective.takes]
        return Measured([], labels, self.objective(evidence, labels))

    def held_out_metrics(self, batches: list[list[int]], config, accelerator) -> Metrics:
        """What validation logs of these of the ``held_out`` batches, as plain (sum, count): ``loss`` and, but for lists without an order,
        ``rewards/accuracies`` among them."""
        raise NotImplementedError

    def write_samples(self, config, folder: Path) -> None:
        """Answers to the validation prompts from fixed seeds, into ``folder``; nothing where the configuration asks for none."""
        raise NotImplementedError

    def save(self, config, folder: Path) -> None:
        """What was trained, in the format that stock libraries read."""
        raise NotImplementedError

    def card(self, config, summary: dict[str, Any]) -> str:
        """The text of the run's ``README.md``."""
        raise NotImplementedError
