"""One preference step of a diffusion model: batch -> errors of policy and reference -> evidence -> objective."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

from torch import Tensor

from diffalign.denoising import denoising_error, denoising_evidence
from diffalign.objectives import Terms
from diffalign.train.batch import Batch


@dataclass(frozen=True)
class StepOutput:
    """``terms`` for the loss; per-sample mean squared errors (2B,) and timesteps (2B,) for the diagnostics."""

    terms: Terms
    policy_error: Tensor
    reference_error: Tensor | None
    t: Tensor


def preference_step(model, reference, objective, batch: Batch, autocast=nullcontext) -> StepOutput:
    """The networks run under ``autocast()``; noising, target, errors and objective are float32.

    ``x_t = alpha x0 + sigma noise``, ``error = mean((prediction - target)^2)``, evidence ``-error/2`` (arXiv:2311.12908, eq. 14 with the
    timestep weight and T absorbed in beta).
    """
    path, rows = model.path, (batch.x0, batch.noise, batch.t)
    x_t, target = path.add_noise(*rows), path.target(*rows)
    reference_error = None
    if reference is not None:
        with autocast():
            prediction = reference.predict(x_t, batch.t, batch.conditioning)
        reference_error = denoising_error(prediction, target)
    with autocast():
        prediction = model.predict(x_t, batch.t, batch.conditioning)
    policy_error = denoising_error(prediction, target)
    evidence = denoising_evidence(policy_error, reference_error, t=batch.t, pairs=batch.comparison.pairs)
    return StepOutput(objective(evidence, batch.comparison), policy_error, reference_error, batch.t)
