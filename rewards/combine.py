"""Several rewards as one: sums after a stated normalisation, ranks, a soft AND, the worst, the worst-off group; and how far rewards agree.

Pure functions of arrays. ``scores`` is (R, N): R rewards of the same N samples, higher is better; numpy arrays, lists or CPU tensors come
in, float64 arrays go out. NaN is "no answer" and is never a number by accident: ``missing`` says what becomes of a sample that lacks one of
its scores: "propagate" (it has no combined score either), "skip" (the others stand for it) or "error".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

NORMALISATIONS = ("raw", "x100", "z", "rank")
MISSING = ("propagate", "skip", "error")
QUANTILE = 0.85  # of the base policy's rewards; arXiv:2402.00742


def normalise(scores: Any, how: str | float = "raw", reference: Any = None) -> np.ndarray:
    """One reward's scores (N,) on a scale that can be added to others'; NaN stays NaN.

        raw     s
        x100    100 s, as tables print cosines (HPSv2, CLIP score)
        a number c   s / c: flow_grpo divides PickScore by 26 and UnifiedReward by 5
        z       (s - mean(reference)) / std(reference), of a stored set of scores (M,); standard deviation of the set, not of a sample
        rank    (rank - 1) / (n - 1) among these n scores, ties sharing their mean rank: 0 the worst, 1 the best; one score alone: 1/2

    Errors: ValueError for an unknown name, a scale that is not above 0, z without a reference or with a constant one.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if isinstance(how, int | float):
        if not how > 0:
            raise ValueError(f"normalise: the scale is {how}; it must be above 0, because higher stays better")
        return scores / how
    if how not in NORMALISATIONS:
        raise ValueError(f"normalise: how is '{how}'; allowed are {', '.join(NORMALISATIONS)} and a number to divide by")
    if (reference is None) == (how == "z"):
        raise ValueError(f"normalise: '{how}' " + ("needs a reference, a stored set of scores" if how == "z" else "takes no reference"))
    if how == "z":
        reference = np.asarray(reference, dtype=np.float64)
        mean, spread = np.nanmean(reference), np.nanstd(reference)
        if not spread > 0:
            raise ValueError(f"normalise: the {reference.size} reference scores have no spread ({spread}), so z = 0 / 0")
        return (scores - mean) / spread
    if how == "rank":
        return _relative_ranks(scores)
    return scores * (100 if how == "x100" else 1)


def ranks(scores: Any) -> np.ndarray:
    """(N,) -> 1 for the worst ... n for the best; equal scores share the mean of their ranks; NaN has none and is not counted."""
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1:
        raise ValueError(f"ranks are of one reward's scores (N,), got {scores.shape}")
    found = np.full(scores.shape, np.nan)
    answered = ~np.isnan(scores)
    _, place, count = np.unique(scores[answered], return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    found[answered] = (last - (count - 1) / 2)[place]
    return found


def _relative_ranks(scores: np.ndarray) -> np.ndarray:
    found = ranks(scores)
    answered = int((~np.isnan(found)).sum())
    return (found - 1) / (answered - 1) if answered > 1 else found - 0.5


def weighted_sum(
    scores: Any, weights: Any, how: str | float | Sequence[str | float] = "raw", references: Sequence[Any] | None = None,
    missing: str = "propagate",
) -> np.ndarray:  # fmt: skip
    """(N,): ``sum_r w_r normalise_r(s_r)``.

    Args:
        weights: (R,). how: of ``normalise``, one for all or one for each. references: for each, what its z is measured against (None else).
        missing: with "skip" the sum over the answers is scaled by ``sum_r w_r`` over the weight of those that answered (weights above 0).
    """
    scores, weights = _checked(scores, missing), np.asarray(weights, dtype=np.float64)
    how = [how] * len(scores) if isinstance(how, str | int | float) else list(how)
    references = [None] * len(scores) if references is None else list(references)
    for name, given in (("weights", weights), ("how", how), ("references", references)):
        if len(given) != len(scores):
            raise ValueError(f"weighted_sum: {len(scores)} rewards and {len(given)} {name}")
    rows = [normalise(row, kind, reference) for row, kind, reference in zip(scores, how, references, strict=True)]
    return _sum(np.stack(rows), weights, missing)


def rank_sum(scores: Any, missing: str = "propagate") -> np.ndarray:
    """(N,): the sum over rewards of a sample's rank among the N (1 the worst): Borda's count. No reward's scale or outlier matters."""
    scores = _checked(scores, missing)
    return _sum(np.stack([ranks(row) for row in scores]), np.ones(len(scores)), missing)


def centre(scores: Any, quantile: float = QUANTILE) -> np.ndarray:
    """(...): the level that counts as good enough: a high quantile of the base policy's scores (..., M) of one prompt; NaN left out."""
    if not 0 < quantile < 1:
        raise ValueError(f"centre: quantile is {quantile}; it must lie between 0 and 1")
    return np.nanquantile(np.asarray(scores, dtype=np.float64), quantile, axis=-1)


def log_sigmoid(scores: Any, centres: Any) -> np.ndarray:
    """``u = log sigmoid(s - centre)``, the transform of arXiv:2402.00742: the log-probability that a sample is good enough.

    Below its centre a score counts almost fully (slope sigmoid(centre - s), towards 1), above it less and less (towards 0): more of what is
    good already buys little. ``centres`` broadcasts with ``scores``. Monotone, so no reward's own order changes.
    """
    return -np.logaddexp(0.0, np.asarray(centres, dtype=np.float64) - np.asarray(scores, dtype=np.float64))


def all_of(scores: Any, centres: Any, missing: str = "propagate") -> np.ndarray:
    """(N,): ``sum_r log sigmoid(s_r - centre_r)``: the log-probability that the sample is good enough by every reward, a logical AND
    where the judgements are independent (arXiv:2402.00742). ``centres``: (R,), or (R, N) with one for each sample's prompt.
    """
    scores, centres = _checked(scores, missing), np.asarray(centres, dtype=np.float64)
    if centres.shape not in ((len(scores),), scores.shape):
        raise ValueError(f"all_of: centres are ({len(scores)},) or {scores.shape}, got {centres.shape}")
    return _sum(log_sigmoid(scores, centres if centres.ndim == 2 else centres[:, None]), np.ones(len(scores)), missing)


def worst_of(scores: Any, missing: str = "propagate") -> np.ndarray:
    """(N,): the least of a sample's scores, which must be on one scale (``normalise`` them first). Guards against a reward being gamed."""
    scores = _checked(scores, missing)
    return np.fmin.reduce(scores) if missing == "skip" else scores.min(0)


def max_min(scores: Any, groups: Sequence[Any], missing: str = "propagate") -> np.ndarray:
    """(N,): what the worst-off group has of a sample, ``min_g mean_{r in g} s_r``: its maximum is the egalitarian choice (MaxMin,
    arXiv:2402.08925). ``groups``: (R,), the group of each reward or rater; scores on one scale.
    """
    scores = _checked(scores, missing)
    if len(groups) != len(scores):
        raise ValueError(f"max_min: {len(scores)} rewards and {len(groups)} groups")
    members = {group: [i for i, other in enumerate(groups) if other == group] for group in groups}
    means = [_sum(scores[rows], np.full(len(rows), 1 / len(rows)), missing) for rows in members.values()]
    return worst_of(means, missing)


class Strength(NamedTuple):
    """How clear a preference is, by R rewards: ``mean`` (P,) and ``std`` (P,) of the margins, ``votes`` (P,), the share that prefers the
    first, ties and missing answers one half."""

    mean: np.ndarray
    std: np.ndarray
    votes: np.ndarray


def strength(first: Any, second: Any) -> Strength:
    """The strength of P preferences from R rewards' scores (R, P) of both sides, on one scale.

    Rewards that disagree mark a weak or a wrong label: a mean near 0 a tie, a clearly negative one a label to turn round (the idea of
    arXiv:2401.06080, which lets an ensemble of reward models vote; its own formulas are not reproduced here). ``votes`` can serve as a
    pair's ``probability``. Missing answers are left out of mean and std; a pair without any has NaN there.
    """
    first, second = _checked(first, "skip"), _checked(second, "skip")
    if first.shape != second.shape:
        raise ValueError(f"strength: the sides have scores {first.shape} and {second.shape}; they must agree")
    margins = first - second
    answered = ~np.isnan(margins)
    count = answered.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(answered, margins, 0).sum(0) / count
        std = np.sqrt(np.where(answered, (margins - mean) ** 2, 0).sum(0) / count)
    votes = np.where(answered, (margins > 0) + 0.5 * (margins == 0), 0.5).mean(0)
    return Strength(mean, std, votes)


def _checked(scores: Any, missing: str) -> np.ndarray:
    scores = np.asarray(scores, dtype=np.float64)
    if missing not in MISSING:
        raise ValueError(f"missing is '{missing}'; allowed are {', '.join(MISSING)}")
    if scores.ndim != 2 or not len(scores):
        raise ValueError(f"scores are (rewards, samples), got {scores.shape}")
    if missing == "error" and np.isnan(scores).any():
        lacking = np.flatnonzero(np.isnan(scores).any(0))
        raise ValueError(f"{len(lacking)} of {scores.shape[1]} samples lack a score (the first is sample {lacking[0]})")
    return scores


def _sum(scores: np.ndarray, weights: np.ndarray, missing: str) -> np.ndarray:
    """``sum_r w_r s_r``; with "skip" over those that answered, scaled up to the whole weight."""
    if missing != "skip":
        return weights @ scores
    if not (weights > 0).all():
        raise ValueError(f"missing='skip' needs weights above 0, got {weights.tolist()}: the others cannot stand for a negative part")
    answered = ~np.isnan(scores)
    with np.errstate(invalid="ignore", divide="ignore"):
        return weights @ np.where(answered, scores, 0) / (weights @ answered) * weights.sum()
