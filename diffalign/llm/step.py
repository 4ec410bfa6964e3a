"""One preference step of a language model: batch -> log-probabilities of policy and reference -> evidence -> objective."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

from torch import Tensor

from diffalign.llm.batch import TextBatch
from diffalign.llm.evidence import sequence_evidence, token_sum
from diffalign.llm.extras import MEASURES, NEEDS_WHOLE, Step, asked_of, unmeasured
from diffalign.objectives import Evidence, Terms


@dataclass(frozen=True)
class TextOutput:
    """``terms`` for the loss; ``evidence`` of policy and reference for the diagnostics. ``baseline``: (N,) log-probabilities of the weights
    that changes are told against, the reference unless ``text_step`` is given others."""

    terms: Terms
    evidence: Evidence
    baseline: Tensor | None = None


def text_step(model, reference, objective, batch: TextBatch, autocast=nullcontext, baseline=None) -> TextOutput:
    """The networks run under ``autocast()``; log-probabilities, their sums and the objective are float32.

    ``policy_i = sum_t log pi(y_it | x_i, y_i<t)`` over the trained tokens (arXiv:2305.18290). What more the objective reads (``extra:...``
    of its needs) is measured here (``extras.py``). ``baseline``: a ``Reference`` whose log-probabilities are reported and nothing else.

    Raises:
        ValueError: the objective needs what this step does not measure.
    """
    if missing := unmeasured(objective):
        raise ValueError(missing)
    asked, mask = asked_of(objective), batch.trained[:, 1:]
    expected = told = whole = None
    with autocast():
        if reference is not None:
            expected = reference.predict(batch.input_ids, batch.trained)
        if baseline is not None and baseline is not reference:
            told = token_sum(baseline.predict(batch.input_ids, batch.trained).logps, mask)
        if any(name in NEEDS_WHOLE for name in asked):
            policy = whole = model.predict(batch.input_ids, batch.written)
        else:
            policy = model.predict(batch.input_ids, batch.trained)
    step = Step(model, reference, batch, mask, policy, expected, whole, autocast)
    extra = {name: MEASURES[name](step) for name in asked}
    evidence = sequence_evidence(policy.logps, mask, None if expected is None else expected.logps, extra=extra)
    return TextOutput(objective(evidence, batch.labels), evidence, evidence.reference if told is None else told)
