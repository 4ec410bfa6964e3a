"""Many models in one order: Bradley-Terry strengths on the Elo scale, with intervals over prompts, and a word where there is no rating."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from diffalign.eval.stats.compare import paired
from diffalign.eval.stats.intervals import prompt_sums, quantile

SCALE = 400 / np.log(10)  # Elo points of one unit of log strength
BASE = 1000.0


@dataclass(frozen=True)
class Rated:
    """One model's place. ``elo`` None: it has no finite rating, ``note`` says why. ``low`` or ``high`` None: unbounded on that side."""

    model: str
    elo: float | None
    low: float | None
    high: float | None
    points: float
    games: float
    note: str = ""


@dataclass(frozen=True)
class Ratings:
    """Models best first; a model that beat the rest without exception stands above them, one that cannot be placed at the end.

    scale                what a rating is
    unidentified         sentences on models without a finite rating
    loose_resamples      share of bootstrap samples in which some rated model had none
    """

    anchor: str
    rows: tuple[Rated, ...]
    scale: str
    confidence: float
    n_prompts: int
    unidentified: tuple[str, ...] = ()
    loose_resamples: float = 0.0

    def to_json(self) -> dict:
        return asdict(self)


def rank(scores: Mapping[str, Sequence[float]], groups=None, *, anchor: str, **options) -> Ratings:
    """Ratings of models that were scored on the same prompts and seeds: every two are compared image by image. See ``rate``.

    Args:
        scores: model -> (N,), in the same order. groups: (N,) prompt ids.
    """
    names = list(scores)
    wins = None
    for i, first in enumerate(names):
        for j, second in enumerate(names):
            if i != j:
                a, b, cluster = paired(scores[first], scores[second], groups)
                sums, _ = prompt_sums((a > b) + 0.5 * (a == b), cluster)
                wins = np.zeros((len(sums), len(names), len(names))) if wins is None else wins
                wins[:, i, j] = sums
    if wins is None:
        raise ValueError(f"a ranking needs at least two models, not {names}")
    return rate(names, wins, anchor=anchor, **options)


def rate(
    names: Sequence[str], wins: np.ndarray, *, anchor: str, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Ratings:
    """Bradley-Terry by maximum likelihood, on the Elo scale, with percentile intervals from resampled prompts.

    ``P(i beats j) = 1 / (1 + exp(theta_j - theta_i))``, a tie half a win for each; ``elo_i = 1000 + 400 log10(e) (theta_i - theta_a)``, a
    the anchor. Bradley and Terry (1952), Biometrika 39, 324-345. A finite maximum exists where every model has, directly or through
    others, won against every other (Ford 1957, American Math. Monthly 64, 28-33). Where not, the models tied to the anchor in that way are
    rated (the limit of the likelihood), and the others are named with the reason: never compared, always won, always lost. A bootstrap
    sample in which a rated model has no rating counts as plus or minus infinity there, so its interval may be unbounded.

    Args:
        wins: (G, M, M), prompt g's points of model i against model j; games nobody played are 0 on both sides.
        anchor: the model at 1000. resamples: 0 for no intervals.

    Raises:
        ValueError: names, wins and anchor do not fit together, or a number of points is negative or not finite.
    """
    names, wins = list(names), np.asarray(wins, dtype=np.float64)
    if wins.ndim != 3 or wins.shape[1:] != (len(names),) * 2 or not len(wins) or len(set(names)) != len(names) or len(names) < 2:
        raise ValueError(f"ratings need wins (prompts, M, M) of M different models, at least two: got {wins.shape} for {names}")
    if anchor not in names:
        raise ValueError(f"anchor is {anchor!r}; it must be one of the models: {', '.join(names)}")
    if not np.isfinite(wins).all() or (wins < 0).any():
        raise ValueError("wins holds points that are negative or not finite")
    quantile(confidence)
    at = names.index(anchor)
    total = wins.sum(0)
    theta = _extended(total[None], at)[0]
    low, high, loose = np.full(len(names), np.nan), np.full(len(names), np.nan), 0.0
    if resamples:
        rng = np.random.default_rng(seed)
        picked = rng.integers(len(wins), size=(resamples, len(wins)))
        times = np.stack([np.bincount(row, minlength=len(wins)) for row in picked]).astype(np.float64)
        drawn = _extended(np.tensordot(times, wins, 1), at)
        rated = np.isfinite(theta)
        loose = float((~np.isfinite(drawn[:, rated])).any(1).mean())
        tails = 50 * (1 - confidence)
        low = np.percentile(np.where(np.isnan(drawn), -np.inf, drawn), tails, axis=0, method="lower")
        high = np.percentile(np.where(np.isnan(drawn), np.inf, drawn), 100 - tails, axis=0, method="higher")
    rows, sentences = [], []
    for i, name in enumerate(names):
        note = _note(name, theta[i], total[i], total[:, i], anchor)
        sentences += [note] if note else []
        ends = [_elo(value) if np.isfinite(theta[i]) else None for value in (theta[i], low[i], high[i])]
        rows.append(Rated(name, *ends, points=float(total[i].sum()), games=float((total[i] + total[:, i]).sum()), note=note))
    order = sorted(range(len(names)), key=lambda i: (np.isnan(theta[i]), -theta[i]))
    scale = f"Bradley-Terry on the Elo scale, {anchor} = {BASE:g}; 400 points are odds of 10 to 1"
    return Ratings(anchor, tuple(rows[i] for i in order), scale, confidence, len(wins), tuple(sentences), loose)


def bradley_terry(wins: np.ndarray, pinned: int = 0) -> np.ndarray:
    """Log strengths of maximum likelihood, that of model ``pinned`` 0; every model must have won against every other, through others if not
    directly.

    Newton's method on ``sum_ij w_ij log sigmoid(theta_i - theta_j)``, the step shortened by ``log(1 + r) / r`` (r the range of the step),
    with which it rises from any start (Sun and Tran-Dinh 2019, Math. Programming 178, 145-213: a logistic likelihood).

    Args:
        wins: (..., M, M). Models without a game at all get 0.

    Returns:
        (..., M) float64.
    """
    count = wins.shape[-1]
    games, own = wins + np.swapaxes(wins, -1, -2), wins.sum(-1)
    free = games.sum(-1) > 0
    free[..., pinned] = False
    pair = free[..., :, None] & free[..., None, :]
    theta = np.zeros(wins.shape[:-1])
    for _ in range(200):
        chance = 1 / (1 + np.exp(theta[..., None, :] - theta[..., :, None]))
        slope = np.where(free, own - (games * chance).sum(-1), 0.0)
        if (abs(slope) <= 1e-10 * (1 + own)).all():
            return theta
        curve = games * chance * (1 - chance)
        matrix = np.where(pair, np.eye(count) * curve.sum(-1, keepdims=True) - curve, np.eye(count))
        step = np.linalg.solve(matrix, slope[..., None])[..., 0]
        reach = np.maximum(step.max(-1, keepdims=True) - step.min(-1, keepdims=True), 1e-12)
        theta = theta + step * np.log1p(reach) / reach
    raise RuntimeError("the ratings did not converge: some model won, or lost, all but a vanishing share of its games")


def _extended(wins: np.ndarray, anchor: int) -> np.ndarray:
    """(R, M) log strengths relative to the anchor; inf above it, -inf below it, nan where nothing ties a model to it."""
    beats = (wins > 0) | np.eye(wins.shape[-1], dtype=bool)
    for _ in range(int(np.ceil(np.log2(wins.shape[-1]))) + 1):
        beats = np.matmul(beats.astype(np.float32), beats.astype(np.float32)) > 0
    above, below = beats[..., :, anchor], beats[..., anchor, :]
    tied = above & below
    theta = bradley_terry(wins * tied[..., :, None] * tied[..., None, :], anchor)
    return np.where(tied, theta, np.where(above, np.inf, np.where(below, -np.inf, np.nan)))


def _note(name: str, theta: float, own, against, anchor: str) -> str:
    if np.isfinite(theta):
        return ""
    if np.isnan(theta):
        return f"{name} cannot be placed: no chain of comparisons leads from it to {anchor}"
    won, games = own.sum(), (own + against).sum()
    did, lost = ("won", "lost") if theta > 0 else ("lost", "won")
    many = f"it {did} all {games:g} of its games" if won in (0, games) else f"it never {lost} against {anchor}, directly or through others"
    return f"{name} has no finite rating: {many}; more prompts, or a closer opponent, would give one"


def _elo(theta: float) -> float | None:
    return float(BASE + SCALE * theta) if np.isfinite(theta) else None
