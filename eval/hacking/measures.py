"""What the reward-hacking checks measure on scores and features, as plain numbers with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffalign.eval.distances.diversity import pairwise_diversity
from diffalign.eval.distances.frechet import frechet
from diffalign.eval.hacking.shuffle import shuffle_gap
from diffalign.eval.stats.compare import compare

SWAPS = 4  # random exchanges that say what the distance of two sets is without a shift
SAME = 0.02  # of the baseline's median distance between two pictures: closer ones are duplicates
ROWS = 1024  # of a distance matrix at once


@dataclass(frozen=True)
class Move:
    """mean(a - b) of paired scores in units of b's standard deviation over pictures (its ``spread``), with its interval."""

    change: float
    low: float
    high: float
    spread: float


def move(a, b, groups: np.ndarray, confidence: float = 0.95) -> Move | None:
    """Of two models' scores (N,) of the same prompts and seeds; pictures without a score count for neither. None where none is left.

    Where b's scores are all equal the unit is the standard deviation of a and b together (1 where those are equal too).
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    rows = np.isfinite(a) & np.isfinite(b)
    if not rows.any():
        return None
    result = compare(a[rows], b[rows], groups[rows], confidence=confidence)
    spread = float(np.std(b[rows])) or float(np.std(np.stack([a[rows], b[rows]]))) or 1.0
    return Move(result.mean_difference / spread, *(end / spread for end in result.mean_difference_ci), spread)


@dataclass(frozen=True)
class Ratio:
    """model / base of two means, and whether the change between them is surely below 0 (the interval's upper end is)."""

    value: float
    base: float
    model: float
    surely_less: bool


def ratio(model: np.ndarray, base: np.ndarray, groups: np.ndarray, confidence: float = 0.95) -> Ratio:
    """Of paired values (N,); NaN where the baseline's mean is not positive."""
    result = compare(model, base, groups, confidence=confidence)
    value = result.mean_a / result.mean_b if result.mean_b > 0 else float("nan")
    return Ratio(value, result.mean_b, result.mean_a, result.mean_difference_ci[1] < 0)


def alignment(
    names: Sequence[str], rewards: Mapping[str, Any], base_images, model_images, prompts, scores_base, scores_model, groups, seed: int = 0,
    confidence: float = 0.95,
) -> Ratio | None:  # fmt: skip
    """How clearly pictures fit their own prompt, model against baseline: the ratio of their prompt-shuffle gaps, the mean over ``names``.

    Each reward's gap counts in units of the baseline's standard deviation under it. A reward whose gap in the baseline's pictures is not
    surely above 0 (it reads no prompt, or not these pictures) says nothing and is left out; None where all are.
    """
    kept = []
    for name in names:
        base = shuffle_gap(rewards[name], base_images, prompts, scores_base[name], seed)
        model = shuffle_gap(rewards[name], model_images, prompts, scores_model[name], seed)
        if (found := move(base, np.zeros(len(base)), groups, confidence)) is not None and found.low > 0:
            kept.append(np.stack([base, model]) / (float(np.nanstd(scores_base[name])) or 1.0))
    if not kept:
        return None
    base, model = np.mean(kept, axis=0)
    rows = np.isfinite(base) & np.isfinite(model)
    return ratio(model[rows], base[rows], groups[rows], confidence)


def distances(model: np.ndarray, base: np.ndarray, groups: np.ndarray, confidence: float = 0.95) -> Ratio:
    """Mean Euclidean distance between pictures, model against baseline: between those of one prompt (``pairwise_diversity``) where some
    prompt has several, else between all, of prompts that are different. model, base: (N, d) features."""
    if len(np.unique(groups)) < len(groups):
        ours, theirs = (pairwise_diversity(features, list(groups), distance="euclidean").per_prompt for features in (model, base))
        return ratio(np.array(list(ours.values())), np.array(list(theirs.values())), np.arange(len(ours)), confidence)
    ours, theirs = (np.concatenate([block.sum(1) for block in _distances(x)]) / (len(x) - 1) for x in (model, base))
    return ratio(ours, theirs, groups, confidence)


def twins(features: np.ndarray, base: np.ndarray) -> np.ndarray:
    """(N,) 1 where a picture has another one closer than a fiftieth of the baseline's median distance, else 0. features, base: (N, d).

    *Deviates:* from ``diversity.near_duplicates`` in that the limit is the baseline's own, in place of a cosine to choose for each network.
    """
    apart = np.concatenate([block.ravel() for block in _distances(base[:ROWS])])
    rounding = 1e-6 * float(np.sqrt((base**2).sum(1).max()))
    limit = max(SAME * float(np.median(apart[apart > 0])) if (apart > 0).any() else 0.0, rounding)
    near = [(block <= limit).sum(1) > 1 for block in _distances(features)]  # every picture is within 0 of itself
    return np.concatenate(near).astype(np.float64)


def shift(base: np.ndarray, model: np.ndarray, seed: int = 0) -> float:
    """How far the model's pictures are from the baseline's as a whole, as a share of the baseline's variance.

        (F(base, model) - mean_k F(base_k, model_k)) / trace(cov(base))

    F: the squared Frechet distance. base_k, model_k: the two sets with each pair of pictures exchanged at random, so that what few pictures
    add to F by themselves is taken off. 0: no shift; 1: as if every picture had moved by the baseline's spread.
    """
    rng, null = np.random.default_rng(seed), []
    for _ in range(SWAPS):
        swap = rng.random(len(base))[:, None] < 0.5
        null.append(frechet(np.where(swap, model, base), np.where(swap, base, model)).value)
    variance = float(base.var(0, ddof=1).sum())
    return (frechet(base, model).value - float(np.mean(null))) / variance if variance > 0 else float("nan")


def rank_correlation(
    a, b, groups: np.ndarray, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Spearman's correlation of (N,) and (N,), and its percentile interval over prompts (ranks are those of all pictures throughout).

    NaN where one of them is constant, or fewer than three pictures have both numbers.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    rows = np.isfinite(a) & np.isfinite(b)
    if rows.sum() < 3 or np.ptp(a[rows]) == 0 or np.ptp(b[rows]) == 0:
        return (float("nan"),) * 3
    x, y = _ranks(a[rows]), _ranks(b[rows])
    x, y = x - x.mean(), y - y.mean()
    _, cluster = np.unique(groups[rows], return_inverse=True)
    one = np.ones_like(x)
    sums = np.stack([np.bincount(cluster, weights=w) for w in (one, x, y, x * y, x * x, y * y)])  # (6, prompts)
    rng = np.random.default_rng(seed)
    draws = [_correlation(sums[:, rng.integers(sums.shape[1], size=sums.shape[1])].sum(1)) for _ in range(resamples)]
    low, high = np.nanpercentile(draws, [50 * (1 - confidence), 50 * (1 + confidence)])
    return _correlation(sums.sum(1)), float(low), float(high)


def _correlation(sums: np.ndarray) -> float:
    n, x, y, xy, xx, yy = sums
    below = (xx - x * x / n) * (yy - y * y / n)
    return float((xy - x * y / n) / np.sqrt(below)) if below > 0 else float("nan")


def _ranks(values: np.ndarray) -> np.ndarray:
    """From 0; ties get their mean rank."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count + 1) / 2)[place]


def _distances(features: np.ndarray):
    """Blocks of rows of the matrix of Euclidean distances."""
    squares = (features**2).sum(1)
    for start in range(0, len(features), ROWS):
        rows = slice(start, start + ROWS)
        block = np.sqrt(np.maximum(squares[rows, None] + squares[None] - 2 * features[rows] @ features.T, 0))
        block[np.arange(len(block)), np.arange(start, start + len(block))] = 0.0  # of a picture to itself, where rounding leaves 1e-8
        yield block
