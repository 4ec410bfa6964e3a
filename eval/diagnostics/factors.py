"""What a preference follows: how far named factors (facets of a judge, length, brightness) explain which sample is preferred.

After PROFILE (arXiv:2410.06965), which compares the factors that people's and models' preferences follow, by Kendall's tau. Its number, and
that it takes this tau_b over pairs, are from memory, not checked against the paper; the partial effects are ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from diffalign.eval.diagnostics.likelihoods import measure

RIDGE = 1.0  # a normal prior of variance 1 on the effects: weak beside a hundred comparisons, finite where a factor decides all of them
RESAMPLES = 2000


@dataclass(frozen=True)
class Factor:
    """How a preference goes with one factor.

    tau_b       in [-1, 1]; 1 where the sample with more of it is always preferred; None where all comparisons are tied
    agree, disagree, tied   comparisons in which the preferred one has more, has less, and in which either is tied
    effect      log-odds of being preferred that one typical difference (root mean square) of this factor brings, the other factors being
                equal; None where the factor never differs
    prompts     the clusters that the intervals are over
    """

    name: str
    tau_b: float | None
    tau_b_ci: tuple[float, float] | None
    agree: int
    disagree: int
    tied: int
    effect: float | None
    effect_ci: tuple[float, float] | None
    prompts: int

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def measures(self) -> dict[str, dict[str, Any]]:
        """For ``Evaluation.diagnostics``; nothing where tau_b is not defined."""
        return {} if self.tau_b is None else {f"follows {self.name} (tau_b)": measure(self.tau_b, self.tau_b_ci, self.prompts)}


def comparisons(groups) -> np.ndarray:
    """(C, 2) int64 indices i < j of all pairs of samples of one prompt; samples of different prompts are not compared.

    Args:
        groups: (N,) the prompt of each sample.
    """
    groups = np.asarray(groups)
    first, second = np.triu_indices(len(groups), 1)
    same = groups[first] == groups[second]
    return np.stack([first[same], second[same]], 1)


def explain_scores(factors: Mapping[str, Any], scores, groups, **options) -> list[Factor]:
    """Which factors a score follows among the samples of a prompt.

    Args:
        factors: name -> (N,) values. scores: (N,) of a reward, or log-ratios of a model. groups: (N,) prompts, two samples of one at least.
        options: as of ``explain_pairs``.

    Raises:
        ValueError: as of ``explain_pairs``; or no prompt has two samples.
    """
    scores, groups = np.asarray(scores, dtype=np.float64), np.asarray(groups)
    pairs = comparisons(groups)
    if scores.shape != groups.shape or not len(pairs):
        raise ValueError(f"scores {scores.shape} and groups {groups.shape} must be as long as each other, with two samples of some prompt")
    differences = {}
    for name, values in factors.items():
        values = np.asarray(values, dtype=np.float64)
        if values.shape != scores.shape:
            raise ValueError(f"factor {name!r} has shape {values.shape}; it must be {scores.shape}, one value a sample")
        differences[name] = values[pairs[:, 0]] - values[pairs[:, 1]]
    return explain_pairs(differences, scores[pairs[:, 0]] - scores[pairs[:, 1]], groups[pairs[:, 0]], **options)


def explain_pairs(
    differences: Mapping[str, Any], preference, groups=None, *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> list[Factor]:
    r"""Which factors a preference follows, the strongest tau_b first.

        tau_b = sum_c s_c f_c / sqrt(sum_c s_c^2 sum_c f_c^2),    s, f: signs (-1, 0, 1) of preference and factor difference

    which over all pairs c of one list is Kendall's tau_b. Interval: percentile bootstrap over prompts. The effects are a logistic
    regression of the preference on all factors' differences at once, without intercept (Bradley-Terry with covariates), a tie one half:

        P(first preferred) = sigma(sum_k w_k d_k / rms(d_k)),     penalty  RIDGE/2 |w|^2

    with a normal interval from the covariance clustered by prompt (Huber-White's sandwich). Factors that nearly always differ together
    share an effect: see their tau_b.

    Args:
        differences: name -> (C,) factor of the first sample minus that of the second. groups: (C,) prompts; default: each its own.
        preference: (C,) above 0 where the first is preferred, below where the second is, 0 for a tie, such as a difference of scores.

    Raises:
        ValueError: no factors, shapes that do not match, numbers that are not finite, or a confidence outside (0, 1).
    """
    sign = np.sign(_finite("preference", preference))
    count = len(sign)
    groups = np.arange(count) if groups is None else np.asarray(groups)
    if not differences or not count or groups.shape != sign.shape:
        raise ValueError(f"got {len(differences)} factors, {count} comparisons and groups {groups.shape}: at least one, and as many groups")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must lie between 0 and 1, such as 0.95")
    values = {name: _finite(f"factor {name!r}", difference) for name, difference in differences.items()}
    if wrong := [name for name, difference in values.items() if difference.shape != sign.shape]:
        raise ValueError(f"factors {', '.join(wrong)} have other lengths than the {count} comparisons")
    _, cluster = np.unique(groups, return_inverse=True)
    varied = {name: difference / np.sqrt((difference**2).mean()) for name, difference in values.items() if difference.any()}
    effects: dict[str, tuple[float, tuple[float, float]]] = {}
    if varied:
        weights, covariance = logistic(np.stack(list(varied.values()), 1), (1 + sign) / 2, cluster)
        reach = NormalDist().inv_cdf((1 + confidence) / 2) * np.sqrt(np.diag(covariance))
        effects = {name: (float(w), (float(w - r), float(w + r))) for name, w, r in zip(varied, weights, reach, strict=True)}
    found = []
    for name, difference in values.items():
        other = np.sign(difference)
        tau, interval = _tau_b(sign, other, cluster, confidence, resamples, seed)
        agree, disagree = int((sign * other > 0).sum()), int((sign * other < 0).sum())
        effect, effect_ci = effects.get(name, (None, None))
        found.append(Factor(name, tau, interval, agree, disagree, count - agree - disagree, effect, effect_ci, int(cluster.max() + 1)))
    return sorted(found, key=lambda factor: -abs(factor.tau_b or 0.0))


def logistic(x: np.ndarray, y: np.ndarray, cluster: np.ndarray, ridge: float = RIDGE) -> tuple[np.ndarray, np.ndarray]:
    r"""Weights (K,) of the ridge-penalised logistic regression without intercept, by Newton's method, and their covariance (K, K):

        H^-1 (C/(C-1) sum_c s_c s_c^T) H^-1,   s_c = sum of x (y - p) over cluster c,   H = X^T diag(p (1 - p)) X + ridge 1

    Args:
        x: (N, K). y: (N,) in [0, 1]. cluster: (N,) integers 0 .. C-1.
    """
    weights = np.zeros(x.shape[1])
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -500, 500)))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + ridge * np.eye(len(weights))
        step = np.linalg.solve(hessian, x.T @ (y - p) - ridge * weights)
        # The penalised likelihood is concave; a long step is shortened so that it cannot overshoot far.
        weights = weights + step / max(1.0, float(abs(step).max()))
        if abs(step).max() < 1e-10:
            break
    count = int(cluster.max() + 1)
    scores = np.stack([np.bincount(cluster, weights=column, minlength=count) for column in (x * (y - p)[:, None]).T], 1)
    bread = np.linalg.inv(hessian)
    return weights, bread @ (scores.T @ scores * (count / max(1, count - 1))) @ bread


def _tau_b(sign, other, cluster, confidence, resamples, seed) -> tuple[float | None, tuple[float, float] | None]:
    """tau_b and its interval; resamples in which all comparisons are tied are left out."""
    sums = np.stack([np.bincount(cluster, weights=row) for row in (sign * other, sign**2, other**2)])  # (3, clusters)
    total = sums.sum(1)
    if total[1] == 0 or total[2] == 0:
        return None, None
    rng, draws = np.random.default_rng(seed), []
    for start in range(0, resamples, 500):
        picked = rng.integers(sums.shape[1], size=(min(500, resamples - start), sums.shape[1]))
        product, a, b = sums[:, picked].sum(-1)
        defined = (a > 0) & (b > 0)
        draws.append(product[defined] / np.sqrt(a[defined] * b[defined]))
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(np.concatenate(draws), [tail, 100 - tail])
    return float(total[0] / np.sqrt(total[1] * total[2])), (float(low), float(high))


def _finite(name: str, values) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise ValueError(f"{name} must be a list of finite numbers; got shape {values.shape}, {bad} of them not finite")
    return values
