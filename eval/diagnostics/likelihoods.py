"""What preference learning did to the likelihoods: who is ranked above whom, what fell, and what a perfect learner could reach.

Numbers in, numbers out. Evidence is (P, 2), a row a pair, (chosen, rejected): of text the sum of the response's log-probabilities in nats,
of a diffusion model minus one half of the mean denoising error (``implicit.PairErrors.evidence``). The latter is a bound of log-probability
only up to a constant and a scale, so what is said there about "probability" is about the error: chosen falls = the winner's error rises.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffalign.eval.stats.compare import WinRate, compare

PATTERNS = ("chosen up, rejected down", "both up", "both down", "chosen down, rejected up")


@dataclass(frozen=True)
class RankingAccuracy:
    """How often the chosen response of a pair is ranked above the rejected one, ties one half; see ``ranking``. Every field is the
    ``WinRate`` of the chosen over the rejected; None where what it needs was not given.

    policy      [log pi(w) > log pi(l)]
    per_token   the same of log pi / size
    reference   [log ref(w) > log ref(l)], which training starts from
    implicit    [r(w) > r(l)], r = log pi - log ref: what DPO trains, and TRL logs as rewards/accuracies
    idealised   [log pi*(w) > log pi*(l)]: of the exact optimum of the objective that DPO stands for
    """

    policy: WinRate
    per_token: WinRate | None = None
    reference: WinRate | None = None
    implicit: WinRate | None = None
    idealised: WinRate | None = None

    def measures(self) -> dict[str, dict[str, Any]]:
        names = {
            "policy": "ranking accuracy", "per_token": "ranking accuracy, by mean", "reference": "ranking accuracy of the reference",
            "implicit": "implicit-reward accuracy", "idealised": "ranking accuracy of the idealised policy",
        }  # fmt: skip
        return {names[key]: share(value) for key, value in vars(self).items() if value is not None}


def ranking(policy, reference=None, *, probability=None, beta: float | None = None, size=None, groups=None, **interval) -> RankingAccuracy:
    """Ranking accuracy of a model, of its reference and of the idealised policy (arXiv:2405.19534).

    Args:
        policy, reference: (P, 2) evidence. groups: (P,) prompts; interval: ``confidence``, ``resamples``, ``seed`` of ``compare``.
        size: (P, 2) tokens of the responses, for the accuracy by mean log-probability.
        probability, beta: as ``idealised_gap`` takes them; with both, and a reference, the ceiling is measured.

    Raises:
        ValueError: shapes do not match, numbers that are not finite, or one of ``probability`` and ``beta`` without the other.
    """
    policy = _sides("policy", policy)
    if (probability is None) != (beta is None) or (beta is not None and reference is None):
        raise ValueError("the idealised policy needs all of reference, probability and beta: give them, or neither probability nor beta")
    found = {"policy": compare(*policy.T, groups, **interval)}
    if size is not None:
        size = _sides("size", size, like=policy)
        if (size <= 0).any():
            raise ValueError(f"a size is {size.min():g}; it is a response's count of tokens and at least 1")
        found["per_token"] = compare(*(policy / size).T, groups, **interval)
    if reference is not None:
        reference = _sides("reference", reference, like=policy)
        found["reference"] = compare(*reference.T, groups, **interval)
        found["implicit"] = compare(*(policy - reference).T, groups, **interval)
    if beta is not None:
        side = np.sign(idealised_gap(reference, probability, beta))  # the gap of a certain label is infinite, its sign is enough
        found["idealised"] = compare(side, np.zeros_like(side), groups, **interval)
    return RankingAccuracy(**found)


def idealised_gap(reference, probability, beta: float) -> np.ndarray:
    r"""(P,) log pi*(w) - log pi*(l) of the policy that the KL-regularised objective is solved by, pi* proportional to pi_ref exp(r / beta).

        log pi*(w)/pi*(l) = log ref(w)/ref(l) + (r_w - r_l)/beta = log ref(w)/ref(l) + logit(p)/beta

    by Bradley-Terry, p = sigma(r_w - r_l). A pair whose label is certain, p = 1, is ranked right whatever the reference says; one of
    p = 1/2 as the reference ranks it.
    Source: arXiv:2405.19534, whose idealised ranking accuracy counts the positive gaps. The gap is derived here; that the paper's theorem
    has the same form, and how it gets p, is from memory, not checked against the paper.

    Args:
        reference: (P, 2) evidence. probability: (P,) in [0, 1] that chosen is better, of many people: one label is no probability.
        beta: of the training, in units of the evidence (our units: 0.1 for text, 5000 for Diffusion-DPO).

    Raises:
        ValueError: shapes do not match, a probability outside [0, 1], or a beta that is not positive.
    """
    reference, p = _sides("reference", reference), np.asarray(probability, dtype=np.float64)
    if p.shape != reference.shape[:1] or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"probability must be {len(reference)} numbers in [0, 1], one a pair; got shape {p.shape}")
    _positive("beta", beta)
    with np.errstate(divide="ignore"):
        return reference[:, 0] - reference[:, 1] + (np.log(p) - np.log1p(-p)) / beta


def loss_to_rank(reference, beta: float) -> np.ndarray:
    r"""(P,) the DPO loss below which, and only below which, the policy itself ranks a pair right.

        log pi(w) > log pi(l)   iff   -log sigma(z) < -log sigma(beta (log ref(l) - log ref(w)))

    since z = beta (log pi(w) - log pi(l) - log ref(w) + log ref(l)). A pair that the reference ranks very wrongly needs a loss near zero.
    Source: the project's notes of arXiv:2405.19534; the equivalence is two lines of algebra.

    Args:
        reference: (P, 2) evidence. beta: as in training.
    """
    reference = _sides("reference", reference)
    _positive("beta", beta)
    return np.logaddexp(0.0, beta * (reference[:, 0] - reference[:, 1]))


@dataclass(frozen=True)
class Displacement:
    """``chosen``, ``rejected``: the policy's evidence against the reference's on that side: ``mean_difference`` is the mean change,
    ``win_rate`` the share that rose. ``patterns``: the share of pairs that moved each of the four ways; no change is one half of each."""

    chosen: WinRate
    rejected: WinRate
    patterns: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def measures(self) -> dict[str, dict[str, Any]]:
        found = {}
        for name, side in (("chosen", self.chosen), ("rejected", self.rejected)):
            found[f"change of {name}"] = measure(side.mean_difference, side.mean_difference_ci, side.n_prompts)
        return found | {f"pairs: {name}": {"value": value} for name, value in self.patterns.items()}


def displacement(policy, reference, groups=None, **interval) -> Displacement:
    """Likelihood displacement (arXiv:2410.08847): the margin of a pair grows while what people chose becomes less likely.

    Args:
        policy, reference: (P, 2) evidence. groups, interval: as ``compare`` takes them.

    Raises:
        ValueError: shapes do not match, or numbers that are not finite.
    """
    policy = _sides("policy", policy)
    reference = _sides("reference", reference, like=policy)
    sides = [compare(policy[:, k], reference[:, k], groups, **interval) for k in (0, 1)]
    w, l = (((change > 0) + 0.5 * (change == 0)) for change in (policy - reference).T)  # 1 rose, 0 fell
    shares = (w * (1 - l), w * l, (1 - w) * (1 - l), (1 - w) * l)
    return Displacement(*sides, dict(zip(PATTERNS, (float(part.mean()) for part in shares), strict=True)))


def winner_rise(policy_error, reference_error, groups=None, **interval) -> tuple[float, tuple[float, float]]:
    """The denoising analogue of displacement, and its interval: mean rise of the winner's error, as a share of the reference's mean error.

    The trainer warns of more than ``health.WINNER_RISE`` of it. Own definition: no paper is known to us that names it so. The interval
    takes the reference's mean for known.

    Args:
        policy_error, reference_error: (P,) mean squared errors of the chosen samples, on the same noise and timesteps.

    Raises:
        ValueError: as of ``compare``; or a mean error that is not positive.
    """
    reference_error = np.asarray(reference_error, dtype=np.float64)
    scale = float(reference_error.mean()) if reference_error.size else 0.0
    _positive("the reference's mean error", scale)
    found = compare(np.asarray(policy_error, dtype=np.float64) / scale, reference_error / scale, groups, **interval)
    return found.mean_difference, found.mean_difference_ci


def share(result: WinRate) -> dict[str, Any]:
    """A win rate as ``Evaluation.diagnostics`` takes it."""
    return measure(result.win_rate, result.win_rate_ci, result.n_prompts)


def measure(value: float, interval: tuple[float, float], n: int) -> dict[str, Any]:
    """A number with its interval and the prompts behind it, as ``Evaluation.diagnostics`` takes it."""
    return {"value": value, "n": n, "note": f"[{interval[0]:.3g}, {interval[1]:.3g}]"}


def _sides(name: str, values, like: np.ndarray | None = None) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != 2 or (like is not None and values.shape != like.shape):
        wanted = "(P, 2), chosen and rejected a pair" if like is None else f"{like.shape} as the policy's"
        raise ValueError(f"{name} has shape {values.shape}; it must be {wanted}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} has {int((~np.isfinite(values)).sum())} numbers that are not finite; drop those pairs")
    return values


def _positive(name: str, value: float) -> None:
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value}; it must be positive")
