"""Who wins, and how sure that is: paired win rates with intervals that respect prompts as clusters."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal, get_args

import numpy as np

from diffalign.eval.stats.intervals import agresti_coull, bootstrap_interval, effective_size, median_interval, prompt_sums, quantile

Ties = Literal["half", "excluded", "loss"]
Interval = Literal["agresti-coull", "percentile", "bca"]
Weights = Literal["images", "prompts"]


@dataclass(frozen=True)
class WinRate:
    """Share of pairings that A wins against B, and how far apart their scores are.

    wins, ties, losses    counts of pairings (images); n_prompts of prompts, the unit of every interval
    effective_n           the number of independent wins and losses that would tell as much
    std, p10, p90         of the images of a side; ``median_difference`` is the median of a - b, which is not the difference of the medians
    """

    win_rate: float
    win_rate_ci: tuple[float, float]
    wins: int
    ties: int
    losses: int
    n_prompts: int
    confidence: float
    mean_a: float
    mean_b: float
    mean_difference: float
    mean_difference_ci: tuple[float, float]
    median_a: float
    median_b: float
    median_difference: float
    median_difference_ci: tuple[float, float]
    std_a: float
    std_b: float
    p10_a: float
    p10_b: float
    p90_a: float
    p90_b: float
    effective_n: float
    ties_as: Ties = "half"
    interval: Interval = "agresti-coull"
    weights: Weights = "images"

    def to_json(self) -> dict:
        return asdict(self)

    def __str__(self) -> str:
        low, high = self.win_rate_ci
        return f"win rate {self.win_rate:.3f} [{low:.3f}, {high:.3f}] over {self.n_prompts} prompts ({self.wins}/{self.ties}/{self.losses})"


def compare(
    scores_a, scores_b, groups=None, *, ties: Ties = "half", interval: Interval = "agresti-coull", weights: Weights = "images",
    confidence: float = 0.95, resamples: int = 10_000, seed: int = 0,
) -> WinRate:  # fmt: skip
    """Win rate of A over B on the same prompts and seeds, with an interval over prompts.

    ``win_rate = sum_i w_i ([a_i > b_i] + 1/2 [a_i = b_i]) / sum_i w_i``. Prompts, not images, are the independent units of every interval,
    so several images a prompt do not make one too narrow.

    Swapping A and B mirrors everything (win rate and interval become 1 minus, differences change sign) but for ``ties="loss"``.

    Args:
        scores_a, scores_b: (N,) scores of the same prompts and seeds in the same order, higher is better (``tables.align``).
        groups: (N,) prompt ids; default: every image is a prompt of its own.
        ties: half a win each; "excluded": the share among decided pairings; "loss": only a win counts as one.
        interval: of the win rate: "agresti-coull" with an effective size (``intervals.share_interval``; its coverage: docs/evaluation.md),
            or a cluster bootstrap, which covers too little near 0 and 1 with few prompts. The mean difference has a bootstrap always ("bca"
            if asked for, else percentile), the median difference ``intervals.median_interval``.
        weights: "images": every image counts the same (w = 1); "prompts": every prompt does (w = 1 / its images: scores are averaged within
            a prompt first). The same where all prompts have equally many images. Medians, std, p10 and p90 are of images always.
        confidence: of the intervals. resamples: bootstrap draws. seed: of the bootstrap.

    Raises:
        ValueError: lengths differ, nothing to compare, an option that is not one of those above, a score that is not finite, or
            ``ties="excluded"`` where every pairing is a tie.
    """
    for name, value, allowed in (("ties", ties, Ties), ("interval", interval, Interval), ("weights", weights, Weights)):
        if value not in get_args(allowed):
            raise ValueError(f"{name} is {value!r}; allowed are {', '.join(get_args(allowed))}")
    quantile(confidence)
    a, b, cluster = paired(scores_a, scores_b, groups)
    tied = a == b
    weight = np.ones(len(a)) if weights == "images" else 1 / np.bincount(cluster)[cluster]
    decided = _decided(weight, cluster, tied, weights) if ties == "excluded" else weight
    points = (a > b) + (0.5 * tied if ties == "half" else 0.0)
    sums, sizes = prompt_sums(points, cluster, decided)
    sums, sizes = sums[sizes > 0], sizes[sizes > 0]
    rate, size = sums.sum() / sizes.sum(), effective_size(sums, sizes)
    bootstrap = {"confidence": confidence, "resamples": resamples, "seed": seed}
    if interval == "agresti-coull":
        ends = agresti_coull(rate, size, confidence)
    else:
        ends = bootstrap_interval(sums, sizes, method=interval, **bootstrap)
    gaps = prompt_sums(a - b, cluster, weight)
    gap_ends = bootstrap_interval(*gaps, method="bca" if interval == "bca" else "percentile", **bootstrap)
    sides = {
        f"{name}_{side}": float(value)
        for side, scores in (("a", a), ("b", b))
        for name, value in {
            "mean": np.average(scores, weights=weight), "median": np.median(scores), "std": scores.std(ddof=1) if len(a) > 1 else 0.0,
            "p10": np.percentile(scores, 10), "p90": np.percentile(scores, 90),
        }.items()
    }  # fmt: skip
    return WinRate(
        win_rate=float(rate), win_rate_ci=_floats(ends), wins=int((a > b).sum()), ties=int(tied.sum()), losses=int((a < b).sum()),
        n_prompts=int(cluster.max() + 1), confidence=confidence, mean_difference=float(gaps[0].sum() / gaps[1].sum()),
        mean_difference_ci=_floats(gap_ends), median_difference=float(np.median(a - b)),
        median_difference_ci=median_interval(a - b, cluster, confidence), effective_n=float(size), ties_as=ties, interval=interval,
        weights=weights, **sides,
    )  # fmt: skip


def mean_ci(values, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean; values: (N,)."""
    values = np.asarray(values, dtype=np.float64)
    return _floats(bootstrap_interval(values, np.ones(len(values)), confidence, resamples=resamples, seed=seed))


def paired(scores_a, scores_b, groups=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(a, b, cluster), each (N,): scores as float64 and prompts as integers 0..G-1. Raises ValueError as ``compare``."""
    a, b = np.asarray(scores_a, dtype=np.float64), np.asarray(scores_b, dtype=np.float64)
    groups = np.arange(len(a)) if groups is None else np.asarray(groups)
    if a.ndim != 1 or a.shape != b.shape or len(groups) != len(a) or not len(a):
        raise ValueError(
            f"compare needs two equally long, non-empty lists of scores and as many groups: got {a.shape}, {b.shape}, {len(groups)}"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        bad = int((~np.isfinite(a) | ~np.isfinite(b)).sum())
        raise ValueError(f"{bad} of {len(a)} scores are not finite; drop those prompts from both sides, or score them again")
    return a, b, np.unique(groups, return_inverse=True)[1]


def _decided(weight, cluster, tied, weights: Weights) -> np.ndarray:
    """(N,) weights without the ties; where prompts weigh the same, each is shared by its decided images."""
    if tied.all():
        raise ValueError(f"all {len(tied)} pairings are ties, so none is left with ties excluded: count them as half")
    left = np.where(tied, 0.0, weight)
    if weights == "prompts":
        share = np.bincount(cluster, weights=left)[cluster]
        left = np.divide(left, share, out=np.zeros_like(left), where=share > 0)
    return left


def _floats(ends) -> tuple[float, float]:
    return float(ends[0]), float(ends[1])
