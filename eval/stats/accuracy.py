"""How often a reward agrees with people, in the three ways that are published; they differ in what they do with ties."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from diffalign.eval.stats.intervals import prompt_sums, share_interval

THRESHOLDS = tuple(round(0.1 * step, 1) for step in range(11))  # those PickScore's released evaluation tries


@dataclass(frozen=True)
class Accuracy:
    """variant: whose definition. count: of what it is a mean (``unit``). ties: of the people, of the reward."""

    variant: str
    accuracy: float
    interval: tuple[float, float]
    unit: str
    count: int
    ties_people: int
    ties_reward: int
    n_prompts: int
    threshold: float | None = None

    def to_json(self) -> dict:
        return asdict(self)


def pickscore(scores_0, scores_1, label_0, *, threshold: float, groups=None, confidence: float = 0.95) -> Accuracy:
    """Accuracy with ties, as PickScore reports it (arXiv:2305.01569; trainer/scripts/eval_preference_predictor.py).

    With ``p = softmax(score_0, score_1)`` the reward says "tie" where ``|p_1 - p_0| <= threshold``. Saying what people said gives 1, "tie"
    against a winner (either way round) 1/2, the wrong winner 0. The threshold is chosen on other pairs: ``pickscore_threshold``.

    Args:
        scores_0, scores_1: (N,) on the scale whose softmax is the reward's probability (PickScore: with its logit scale, 100 cosines).
        label_0: (N,) 1 where people prefer image 0, 0 where image 1, 0.5 a tie. groups: (N,) prompt ids, the units of the interval.

    Raises:
        ValueError: lengths differ, nothing given, a score is not finite, a label is another, a threshold outside [0, 1].
    """
    said, people = _said(scores_0, scores_1, label_0, threshold)
    right = np.where(said == people, 1.0, np.where((said == 0.5) | (people == 0.5), 0.5, 0.0))
    ties = int((people == 0.5).sum()), int((said == 0.5).sum())
    found = _mean("pickscore", "pairs", right, np.ones(len(right)), groups, confidence, *ties)
    return Accuracy(**{**found.to_json(), "threshold": float(threshold)})


def pickscore_threshold(scores_0, scores_1, label_0, thresholds: Sequence[float] = THRESHOLDS) -> float:
    """The threshold of the highest ``pickscore`` accuracy, the smallest of equals. For validation pairs; report on others."""
    return float(max(thresholds, key=lambda t: (pickscore(scores_0, scores_1, label_0, threshold=t).accuracy, -t)))


def hpsv2(scores: Sequence, ranks: Sequence, *, groups=None, confidence: float = 0.95) -> Accuracy:
    """Mean over rankings of ``1 - discordant / (n (n - 1) / 2)``, HPSv2's inversion score (arXiv:2306.09341).

    (hpsv2/evaluation.py, evaluate_rank.) Discordant is a pair that people and the reward put in opposite orders; a tie on either side
    counts as correct, so a reward that says nothing scores 1.

    *Deviates:* upstream gives it the ranks of an argsort, where equal scores of the reward stand in some order; here they are ties.

    Args:
        scores: for each prompt (n,), higher is better. ranks: for each prompt (n,), 1 the best. groups: (N,) prompt ids, one a ranking.
    """
    pairs = [_pairs(*row) for row in _rankings(scores, ranks)]
    values = np.array([1 - float((said * people < 0).mean()) for said, people in pairs])
    return _mean("hpsv2", "rankings", values, np.ones(len(values)), groups, confidence, *_ties(pairs))


def imagereward(scores: Sequence, ranks: Sequence, *, groups=None, confidence: float = 0.95) -> Accuracy:
    """Share of pairs put in people's order, over all pairs of all rankings (arXiv:2304.05977; ``acc`` of its test script).

    Pairs that people tie are left out; where the reward ties it is wrong. A ranking weighs as many pairs as it has.

    Args:
        as ``hpsv2``.

    Raises:
        ValueError: as ``hpsv2``, or people decided no pair at all.
    """
    pairs = [_pairs(*row) for row in _rankings(scores, ranks)]
    decided = np.array([float((people != 0).sum()) for _, people in pairs])
    if not decided.any():
        raise ValueError("people tie every pair: nothing is left to agree with")
    right = np.array([float((said * people > 0).sum()) for said, people in pairs])
    values = np.divide(right, decided, out=np.zeros_like(right), where=decided > 0)
    return _mean("imagereward", "pairs", values, decided, groups, confidence, *_ties(pairs))


def _said(scores_0, scores_1, label_0, threshold) -> tuple[np.ndarray, np.ndarray]:
    """What the reward says and what people say, both 1 (image 0), 0 (image 1) or 0.5."""
    a, b, people = (np.asarray(values, dtype=np.float64) for values in (scores_0, scores_1, label_0))
    if a.ndim != 1 or not len(a) or a.shape != b.shape or a.shape != people.shape:
        raise ValueError(f"accuracy needs equally long, non-empty scores and labels: got {a.shape}, {b.shape}, {people.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("a score is not finite: leave its pair out")
    if strange := sorted(set(people.tolist()) - {0.0, 0.5, 1.0}):
        raise ValueError(f"label_0 holds {strange[0]}; allowed are 1 (image 0 is preferred), 0 and 0.5 (a tie)")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}; it is a difference of probabilities, 0 to 1")
    gap = np.tanh((a - b) / 2)  # p_0 - p_1 of the softmax of two
    return np.where(abs(gap) <= threshold, 0.5, np.where(gap > 0, 1.0, 0.0)), people


def _rankings(scores: Sequence, ranks: Sequence) -> list[tuple[np.ndarray, np.ndarray]]:
    rows = [(np.asarray(s, dtype=np.float64), np.asarray(r, dtype=np.float64)) for s, r in zip(scores, ranks, strict=False)]
    if len(scores) != len(ranks) or not rows:
        raise ValueError(f"accuracy needs as many lists of scores as of ranks, and some: got {len(scores)} and {len(ranks)}")
    for i, (s, r) in enumerate(rows):
        if s.ndim != 1 or s.shape != r.shape or len(s) < 2 or not (np.isfinite(s).all() and np.isfinite(r).all()):
            raise ValueError(f"ranking {i} needs at least two images, each with a finite score and rank: got {s.tolist()} and {r.tolist()}")
    return rows


def _pairs(scores: np.ndarray, ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(said, people), each (n (n - 1) / 2,): 1 where the first of two is better, -1 the second, 0 a tie."""
    i, j = np.triu_indices(len(scores), 1)
    return np.sign(scores[i] - scores[j]), np.sign(ranks[j] - ranks[i])


def _ties(pairs) -> tuple[int, int]:
    return sum(int((people == 0).sum()) for _, people in pairs), sum(int((said == 0).sum()) for said, _ in pairs)


def _mean(variant, unit, values, weights, groups, confidence, ties_people, ties_reward) -> Accuracy:
    """The weighted mean with ``intervals.share_interval`` over prompts."""
    cluster = np.arange(len(values)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    if len(cluster) != len(values):
        raise ValueError(f"groups names {len(cluster)} prompts for {len(values)} {'pairs' if unit == 'pairs' else 'rankings'}")
    sums, sizes = prompt_sums(values, cluster, weights)
    low, high = share_interval(sums, sizes, confidence)
    return Accuracy(
        variant, float(sums.sum() / sizes.sum()), (float(low), float(high)), unit, int(weights.sum()), ties_people, ties_reward, len(sums)
    )
