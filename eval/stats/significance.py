"""Is a difference more than chance: tests over prompts, a correction for many metrics, and what so many prompts can show at all."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
from scipy import stats

from diffalign.eval.stats.compare import paired
from diffalign.eval.stats.intervals import NORMAL, prompt_sums


@dataclass(frozen=True)
class SignTest:
    """Prompts that A won, lost and tied, and the two-sided p of "won as often as lost"."""

    wins: int
    losses: int
    ties: int
    p_value: float

    def to_json(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class Wilcoxon:
    """The smaller rank sum, how many prompts had no difference and were left out, and the two-sided p."""

    statistic: float
    zeros: int
    p_value: float

    def to_json(self) -> dict:
        return asdict(self)


def sign_test(scores_a, scores_b, groups=None) -> SignTest:
    """Exact sign test over prompts: of the prompts that are decided, is the share A wins one half?

    A wins a prompt when it wins more of its images than it loses. Ties are left out and counted.
    ``p = min(1, 2 P(X <= min(wins, losses)))``, X binomial with wins + losses draws of 1/2; 1 where
    nothing is decided. Any increasing transformation of the scores leaves it as it is.

    Args and errors: as ``compare``.
    """
    a, b, cluster = paired(scores_a, scores_b, groups)
    net, _ = prompt_sums(np.sign(a - b), cluster)
    wins, losses = int((net > 0).sum()), int((net < 0).sum())
    p = float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    return SignTest(wins, losses, len(net) - wins - losses, p)


def wilcoxon(scores_a, scores_b, groups=None) -> Wilcoxon:
    """Wilcoxon's signed rank test of the prompts' mean differences; prompts without a difference are left out and counted.

    Exact up to 50 prompts without equal differences, else the normal approximation with its correction for ties (scipy.stats.wilcoxon). It
    asks whether the differences are symmetric around 0, so it reads how large they are, which the sign test does not.

    Args and errors: as ``compare``.
    """
    a, b, cluster = paired(scores_a, scores_b, groups)
    sums, sizes = prompt_sums(a - b, cluster)
    moved = (sums / sizes)[sums != 0]
    if not len(moved):
        return Wilcoxon(0.0, len(sums), 1.0)
    exact = len(moved) <= 50 and len(np.unique(abs(moved))) == len(moved)
    found = stats.wilcoxon(moved, method="exact" if exact else "asymptotic")
    return Wilcoxon(float(found.statistic), len(sums) - len(moved), float(found.pvalue))


def holm(p_values: Mapping[Hashable, float]) -> dict[Hashable, float]:
    """p values adjusted for as many tests, name by name: ``p_(k) -> max_{j <= k} min(1, (m - j + 1) p_(j))``, p_(1) the smallest of m.

    What stays below 0.05 may be called found, all of it together, with an error of 5 % whatever the tests have in common (Holm 1979,
    Scand. J. Statistics 6, 65-70).

    Raises:
        ValueError: a p value is none.
    """
    for name, p in p_values.items():
        if not 0 <= p <= 1:
            raise ValueError(f"the p value of {name} is {p}; it must lie in [0, 1]")
    adjusted, running = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = running
    return {name: adjusted[name] for name in p_values}


def minimum_detectable(
    prompts: int, *, power: float = 0.8, alpha: float = 0.05, ties: float = 0.0, images: int = 1, correlation: float = 1.0
) -> float | None:
    """How far above one half a win rate must lie for so many prompts to tell it from one half; None where they cannot.

    The d that solves ``sqrt(n) d = z_(1 - alpha/2) sqrt(s) + z_power sqrt(s - d^2)``, ``s = (1 - ties) / 4`` the variance of a pairing's
    points at one half (a tie one half), by the normal approximation: a two-sided test that finds a win rate of 1/2 + d in a share ``power``
    of the experiments. ``n = prompts images / (1 + (images - 1) correlation)``. ``power=0.5`` gives the half width of an interval: 4.4
    points for 500 prompts.

    Args:
        ties: the share of pairings that tie. images: of a prompt; correlation: of their outcomes, 1 (they all say the same) unless known.

    Raises:
        ValueError: a number outside of what it means.
    """
    if prompts < 1 or images < 1:
        raise ValueError(f"prompts and images must be at least 1, not {prompts} and {images}")
    for name, value in (("power", power), ("alpha", alpha)):
        if not 0 < value < 1:
            raise ValueError(f"{name} is {value}; it must lie between 0 and 1")
    if not 0 <= ties < 1 or not 0 <= correlation <= 1:
        raise ValueError(f"ties must lie in [0, 1) and correlation in [0, 1], not {ties} and {correlation}")
    n, spread = prompts * images / (1 + (images - 1) * correlation), (1 - ties) / 4
    wanted, found = NORMAL.inv_cdf(1 - alpha / 2), NORMAL.inv_cdf(power)
    under = n - wanted**2 + found**2
    if under < 0:
        return None
    gap = math.sqrt(spread) * (math.sqrt(n) * wanted + found * math.sqrt(under)) / (n + found**2)
    return gap if gap <= (1 - ties) / 2 else None
