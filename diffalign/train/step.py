"""One preference step of a diffusion model: batch -> errors of policy and reference -> evidence -> objective."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field

from torch import Tensor

from diffalign.denoising import denoising_error, denoising_evidence, outputs
from diffalign.models import moe
from diffalign.objectives import Metrics, Terms
from diffalign.train.batch import Batch
from diffalign.train.labels import pairs_of
from diffalign.train.noising import Noising


@dataclass(frozen=True)
class StepOutput:
    """``terms`` for the loss; per-sample mean squared errors (N,) and timesteps (N,) for the diagnostics.

    ``baseline_error``: of the weights that changes are told against, the reference unless ``preference_step`` is given others.
    ``balance``: of a network with experts, the balance loss of all rows of the policy's forward (``Routing.balance_loss``), to be added by
    this batch's share of the step; ``routing``: what is logged of its routers.
    """

    terms: Terms
    policy_error: Tensor
    reference_error: Tensor | None
    t: Tensor
    baseline_error: Tensor | None = None
    balance: Tensor | None = None
    routing: Metrics = field(default_factory=dict)


def preference_step(model, reference, objective, noising: Noising, batch: Batch, autocast=nullcontext, baseline=None) -> StepOutput:
    """The networks run under ``autocast()``; noising, target, errors and objective are float32.

    ``x_t = alpha x0 + sigma noise``, ``error = mean((prediction - target)^2)``, evidence ``-error/2`` (arXiv:2311.12908, eq. 14 with the
    timestep weight and T absorbed in beta). What more the objective reads of the outputs (``extra:...`` of its needs) is measured here.
    A batch with a mask has all of these over the masked region alone, of policy and reference alike; x_t, and so what the networks see,
    is the whole picture.
    ``baseline``: a ``Reference`` whose errors are reported and nothing else.
    """
    x_t, noise = noising(model, reference, batch, autocast)
    target = model.path.target(batch.x0, noise, batch.t)
    expected = reference_error = expected_routing = None
    if reference is not None:
        with autocast(), moe.recorded(model.denoiser) as expected_routing:
            expected = reference.predict(x_t, batch.t, batch.conditioning)
        reference_error = denoising_error(expected, target, batch.mask)
    baseline_error = reference_error
    if baseline is not None and baseline is not reference:
        with autocast():
            baseline_error = denoising_error(baseline.predict(x_t, batch.t, batch.conditioning), target, batch.mask)
    with autocast(), moe.recorded(model.denoiser) as routing:
        prediction = model.predict(x_t, batch.t, batch.conditioning)
    policy_error = denoising_error(prediction, target, batch.mask)
    pairs = pairs_of(batch.labels)
    extra = outputs.measured(objective.needs, prediction, target, expected, pairs, batch.mask)
    evidence = denoising_evidence(policy_error, reference_error, t=batch.t, pairs=pairs, extra=extra)
    terms, logged = objective(evidence, batch.labels), routing.metrics(expected_routing)
    return StepOutput(terms, policy_error, reference_error, batch.t, baseline_error, routing.balance_loss(), logged)
