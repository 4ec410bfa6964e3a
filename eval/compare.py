"""Who wins, and how sure that is: paired win rates with intervals that respect prompts as clusters."""

from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class WinRate:
    """Share of pairings that A wins against B; a tie counts one half."""

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

    def to_json(self) -> dict:
        return asdict(self)

    def __str__(self) -> str:
        low, high = self.win_rate_ci
        return f"win rate {self.win_rate:.3f} [{low:.3f}, {high:.3f}] over {self.n_prompts} prompts ({self.wins}/{self.ties}/{self.losses})"


def compare(scores_a, scores_b, groups=None, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0) -> WinRate:
    """Win rate of A over B on the same prompts and seeds, with a percentile bootstrap over prompts.

    ``win_rate = mean_i( [a_i > b_i] + 1/2 [a_i = b_i] )``. Prompts, not images, are resampled with replacement (all images of a prompt
    together), so several images a prompt do not make the interval too narrow.

    Args:
        scores_a, scores_b: (N,) scores of the same prompts in the same order, higher is better.
        groups: (N,) prompt ids; default: every image is a prompt of its own.
        confidence: of the interval. resamples: bootstrap draws. seed: of the bootstrap.

    Raises:
        ValueError: lengths differ, nothing to compare, confidence outside (0, 1), or a score is not finite.
    """
    a, b = np.asarray(scores_a, dtype=np.float64), np.asarray(scores_b, dtype=np.float64)
    groups = np.arange(len(a)) if groups is None else np.asarray(groups)
    if a.ndim != 1 or a.shape != b.shape or len(groups) != len(a) or not len(a):
        raise ValueError(
            f"compare needs two equally long, non-empty lists of scores and as many groups: got {a.shape}, {b.shape}, {len(groups)}"
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must lie between 0 and 1, such as 0.95")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        bad = int((~np.isfinite(a) | ~np.isfinite(b)).sum())
        raise ValueError(f"{bad} of {len(a)} scores are not finite; drop those prompts from both sides, or score them again")
    points = (a > b) + 0.5 * (a == b)
    _, cluster = np.unique(groups, return_inverse=True)
    low_high = _cluster_bootstrap(np.stack([points, a - b]), cluster, confidence, resamples, seed)
    return WinRate(
        win_rate=float(points.mean()),
        win_rate_ci=low_high[0],
        wins=int((a > b).sum()),
        ties=int((a == b).sum()),
        losses=int((a < b).sum()),
        n_prompts=int(cluster.max() + 1),
        confidence=confidence,
        mean_a=float(a.mean()),
        mean_b=float(b.mean()),
        mean_difference=float((a - b).mean()),
        mean_difference_ci=low_high[1],
    )


def mean_ci(values, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean; values: (N,)."""
    values = np.asarray(values, dtype=np.float64)
    return _cluster_bootstrap(values[None], np.arange(len(values)), confidence, resamples, seed)[0]


def _cluster_bootstrap(rows, cluster, confidence, resamples, seed) -> list[tuple[float, float]]:
    """Intervals of each row's mean. rows: (R, N); cluster: (N,) integers 0..C-1."""
    count = cluster.max() + 1
    size = np.bincount(cluster, minlength=count)
    sums = np.stack([np.bincount(cluster, weights=row, minlength=count) for row in rows])
    rng, draws = np.random.default_rng(seed), []
    for start in range(0, resamples, 1000):
        picked = rng.integers(count, size=(min(1000, resamples - start), count))
        draws.append(sums[:, picked].sum(-1) / size[picked].sum(-1))
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(np.concatenate(draws, axis=1), [tail, 100 - tail], axis=1)
    return [(float(lo), float(hi)) for lo, hi in zip(low, high, strict=True)]
