"""Intervals over prompts: of a share, of a mean and of a median, where several images of one prompt are not independent.

All of them see data as (S_g, W_g), the weighted sum of prompt g's values and the sum of its weights; the estimate is sum_g S_g / sum_g W_g.
Leading dimensions are independent data sets, so that ``bench.coverage`` simulates the very functions that ``compare`` calls.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Literal

import numpy as np

Bootstrap = Literal["percentile", "bca"]
NORMAL = NormalDist()


def quantile(confidence: float) -> float:
    """z of a two-sided interval: 1.96 of 0.95. ValueError outside (0, 1)."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must lie between 0 and 1, such as 0.95")
    return NORMAL.inv_cdf(0.5 + confidence / 2)


def prompt_sums(values, cluster, weights=None) -> tuple[np.ndarray, np.ndarray]:
    """(S_g, W_g), each (G,), of values (N,) in prompts cluster (N,), integers 0..G-1; weights (N,), default 1."""
    weights = np.ones(len(cluster)) if weights is None else weights
    count = int(cluster.max()) + 1
    return np.bincount(cluster, weights=weights * values, minlength=count), np.bincount(cluster, weights=weights, minlength=count)


def effective_size(sums, sizes) -> np.ndarray:
    """How many independent wins and losses are worth as much as these prompts: n = p (1 - p) / Var(p).

    ``Var(p) = sum_g (S_g - p W_g)^2 / (sum_g W_g)^2``, the variance of a ratio estimated over clusters; n is the effective sample size of
    Korn and Graubard (1998), Survey Methodology 24, 193-201. Ties, and images of a prompt that disagree, make it larger than the number
    of prompts. With one image a prompt and no ties it is that number.

    *Deviates:* p and Var(p) are taken with two prompts of average weight added, one entirely won and one entirely lost (n is then scaled
    back by G / (G + 2)). A design effect estimated from few losses is too small as often as not, and intervals that believe it cover too
    little (Franco, Little, Louis and Slud 2019, J. Survey Statistics and Methodology 7, 334-364, who improve it by a model); the two
    prompts keep it between what the data say and its worst case, and defined where all prompts have the same outcome. That device is
    ours; what it brings is simulated in docs/evaluation.md.

    Args:
        sums: (..., G) of outcomes in [0, 1]. sizes: (..., G); a prompt of weight 0 does not count.

    Returns:
        (...,) float64.
    """
    sums, sizes = np.asarray(sums, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    count, total = (sizes > 0).sum(-1), sizes.sum(-1)
    one = total / count
    share = (sums.sum(-1) + one) / (total + 2 * one)
    spread = ((sums - share[..., None] * sizes) ** 2).sum(-1) + one**2 * (share**2 + (1 - share) ** 2)
    return share * (1 - share) * (total + 2 * one) ** 2 / spread * count / (count + 2)


def agresti_coull(share, size, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) of a share of ``size`` independent outcomes: ``c +- z sqrt(c (1 - c) / (n + z^2)), c = (n p + z^2 / 2) / (n + z^2)``.

    Agresti and Coull (1998), The American Statistician 52, 119-126: Wilson's midpoint, and never narrower than Wilson's, whose coverage
    dips far below its confidence near 0 and 1 (Brown, Cai and DasGupta 2001, Statistical Science 16, 101-133). Cut to [0, 1].
    """
    z2 = quantile(confidence) ** 2
    centre = (size * share + z2 / 2) / (size + z2)
    half = np.sqrt(z2 * centre * (1 - centre) / (size + z2))
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)


def wilson(share, size, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """(low, high): every p that a score test does not reject, ``|share - p| <= z sqrt(p (1 - p) / n)``. Wilson (1927), JASA 22, 209-212."""
    z2 = quantile(confidence) ** 2
    centre = (size * share + z2 / 2) / (size + z2)
    half = np.sqrt(z2 * (size * share * (1 - share) + z2 / 4)) / (size + z2)
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)


def share_interval(sums, sizes, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) of ``sum S / sum W``, outcomes in [0, 1]: ``agresti_coull`` with ``effective_size``. Shapes as there."""
    share = np.sum(sums, axis=-1) / np.sum(sizes, axis=-1)
    return agresti_coull(share, effective_size(sums, sizes), confidence)


def bootstrap_interval(
    sums, sizes, confidence: float = 0.95, *, resamples: int = 10_000, seed: int = 0, method: Bootstrap = "percentile"
) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) of ``sum S / sum W`` by resampling prompts with replacement.

    percentile   the quantiles (1 -+ confidence) / 2 of the resampled estimates
    bca          bias-corrected and accelerated: Efron (1987), JASA 82, 171-185; bias from the share of estimates below the one observed
                 (equal ones count one half), acceleration from the jackknife over prompts

    A sample without variation has an interval of width 0: for win rates near 0 or 1 prefer ``share_interval``.

    Args:
        sums: (..., G). sizes: (G,), all positive; the same draws serve all data sets.
    """
    quantile(confidence)
    if method not in ("percentile", "bca"):
        raise ValueError(f"bootstrap is {method!r}; allowed are percentile and bca")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; it must be at least 1, and some thousands to mean something")
    sums, sizes = np.asarray(sums, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    rows, count = sums.reshape(-1, len(sizes)), len(sizes)
    rng, draws = np.random.default_rng(seed), []
    for start in range(0, resamples, 1000):
        picked = rng.integers(count, size=(min(1000, resamples - start), count))
        places = (picked + count * np.arange(len(picked))[:, None]).ravel()
        times = np.bincount(places, minlength=picked.size).reshape(picked.shape).T.astype(np.float64)
        draws.append((rows @ times) / (sizes @ times))
    draws = np.concatenate(draws, axis=1)
    if method == "percentile":
        low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2], axis=1)
    else:
        tails = [_bca_tails(*data, sizes, confidence) for data in zip(rows, draws, strict=True)]
        low, high = np.stack([np.quantile(row, tail) for row, tail in zip(draws, tails, strict=True)], axis=1)
    return low.reshape(sums.shape[:-1]), high.reshape(sums.shape[:-1])


def _bca_tails(sums, draws, sizes, confidence: float) -> list[float]:
    """The two probabilities at which BCa reads the resampled estimates."""
    estimate = sums.sum() / sizes.sum()
    same = np.isclose(draws, estimate, rtol=1e-12, atol=0)
    below = float((draws < estimate)[~same].sum() + same.sum() / 2) / len(draws)
    bias = NORMAL.inv_cdf(min(max(below, 0.5 / len(draws)), 1 - 0.5 / len(draws)))
    left_out = (sums.sum() - sums) / (sizes.sum() - sizes) if len(sums) > 1 else sums / sizes
    gaps = left_out.mean() - left_out
    power = (gaps**2).sum() ** 1.5
    acceleration = (gaps**3).sum() / (6 * power) if power > 0 else 0.0
    shifted = [bias + sign * quantile(confidence) for sign in (-1, 1)]
    return [NORMAL.cdf(bias + z / (1 - acceleration * z)) for z in shifted]


def median_interval(values, cluster, confidence: float = 0.95) -> tuple[float, float]:
    """(low, high) of the median: the k-th smallest and the k-th largest value, ``k = round(N (1/2 - z / (2 sqrt(n + z^2))))``, at least 1.

    The interval of a share of one half, read off the empirical distribution (Woodruff 1952, JASA 47, 635-646); n is the
    ``effective_size`` of "lies below the median" over prompts. Mirrors exactly when the values change sign.

    Args:
        values: (N,), each counting the same. cluster: (N,) prompts, integers 0..G-1.
    """
    values = np.asarray(values, dtype=np.float64)
    middle = np.median(values)
    size = float(effective_size(*prompt_sums((values < middle) + 0.5 * (values == middle), cluster)))
    z = quantile(confidence)
    k = max(1, int(len(values) * (0.5 - z / (2 * (size + z * z) ** 0.5)) + 0.5))
    ordered = np.sort(values)
    return float(ordered[k - 1]), float(ordered[len(values) - k])
