"""From scores to results: comparisons with the baseline, by category, a ranking of all, and how far the pictures lie apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from diffalign.eval.distances.distribution import cmmd, kid, vendi
from diffalign.eval.distances.diversity import pairwise_diversity
from diffalign.eval.distances.frechet import frechet
from diffalign.eval.distances.measure import Measure, cautions
from diffalign.eval.results import CategoryResult, ComparisonResult, Ranking, Rating
from diffalign.eval.stats.compare import compare
from diffalign.eval.stats.ranking import rank
from diffalign.eval.stats.significance import holm, minimum_detectable, sign_test, wilcoxon

Scores = Mapping[str, Mapping[str, np.ndarray]]  # model -> reward -> (N,), NaN where there is no score
FEWEST = 10  # prompts of a category that an interval is given for


def comparisons(scores: Scores, groups: np.ndarray, baseline: str, confidence: float = 0.95) -> tuple[ComparisonResult, ...]:
    """Every model against the baseline by every reward, the p of the sign test adjusted over all of them by Holm.

    Args:
        scores: of pictures of the same prompts and seeds in the same order. groups: (N,) prompt ids.

    Raises:
        ValueError: no picture has a score of both sides.
    """
    rows = {}
    for model, reward in _others(scores, baseline):
        a, b, kept = _both(scores, model, baseline, reward, groups)
        rows[model, reward] = compare(a, b, kept, confidence=confidence), sign_test(a, b, kept), wilcoxon(a, b, kept)
    adjusted = holm({key: sign.p_value for key, (_, sign, _) in rows.items()})
    found = []
    for key, (result, sign, ranked) in rows.items():
        pairings = result.wins + result.ties + result.losses
        gap = minimum_detectable(result.n_prompts, alpha=1 - confidence, ties=min(result.ties / pairings, 0.99))
        found.append(
            ComparisonResult(
                *key, result.win_rate, result.win_rate_ci, result.wins, result.ties, result.losses, result.n_prompts,
                result.mean_a, result.median_a, result.mean_b, result.median_b, {"sign": sign.p_value, "wilcoxon": ranked.p_value}, "sign",
                adjusted[key], None if gap is None else 0.5 + gap,
            )  # fmt: skip
        )
    return tuple(found)


def categories(
    scores: Scores, groups: np.ndarray, category: np.ndarray, baseline: str, confidence: float = 0.95
) -> tuple[CategoryResult, ...]:
    """The same by category of prompt, in order of name; () where there is one category. Intervals from ten prompts on.

    Args:
        category: (N,) the category of each picture's prompt.
    """
    names = sorted(set(category.tolist()))
    if len(names) < 2:
        return ()
    found = []
    for model, reward in _others(scores, baseline):
        for name in names:
            rows = category == name
            part = {key: {reward: scores[key][reward][rows]} for key in (model, baseline)}
            if not np.isfinite(part[model][reward] - part[baseline][reward]).any():
                continue
            a, b, kept = _both(part, model, baseline, reward, groups[rows])
            result = compare(a, b, kept, confidence=confidence)
            interval = result.win_rate_ci if result.n_prompts >= FEWEST else None
            found.append(CategoryResult(model, reward, name, result.win_rate, interval, result.wins, result.ties, result.losses))
    return tuple(found)


def rankings(scores: Scores, groups: np.ndarray, baseline: str, confidence: float = 0.95) -> tuple[Ranking, ...]:
    """Bradley and Terry's order of all models by each reward, on the pictures that all have scores of; () for two models."""
    if len(scores) < 3:
        return ()
    found = []
    for reward in scores[baseline]:
        kept = np.all([np.isfinite(rows[reward]) for rows in scores.values()], axis=0)
        ratings = rank({model: rows[reward][kept] for model, rows in scores.items()}, groups[kept], anchor=baseline, confidence=confidence)
        rows = tuple(Rating(row.model, row.elo, row.low, row.high, row.note) for row in ratings.rows)
        found.append(Ranking(reward, rows, ratings.scale, " ".join(ratings.unidentified)))
    return tuple(found)


def spread(features: np.ndarray, against: np.ndarray | None, groups: np.ndarray, caution: str = "") -> dict[str, dict[str, Any]]:
    """measure -> {value, n, note}: the Vendi score of a model's pictures, their distance within prompts where these have several, and
    Frechet distance, KID and CMMD to the baseline's.

    Args:
        features: (N, d); against: the baseline's, or None for the baseline itself. groups: (N,) prompt ids. caution: of the features.
    """
    measures = {"Vendi": vendi(features)}
    if against is not None:
        measures |= {"Frechet": frechet(features, against), "KID": kid(features, against), "CMMD": cmmd(features, against)}
    found = {name: _said(measure, caution) for name, measure in measures.items()}
    if len(np.unique(groups)) < len(groups):
        within = pairwise_diversity(features, list(groups))
        found["distance within prompts"] = {"value": within.value, "n": within.n_images, "note": cautions(within.caution, caution)}
    return found


def _said(measure: Measure, caution: str) -> dict[str, Any]:
    return {"value": measure.value, "n": measure.n[0], "note": cautions(measure.caution, caution)}


def _others(scores: Scores, baseline: str) -> list[tuple[str, str]]:
    return [(model, reward) for reward in scores[baseline] for model in scores if model != baseline]


def _both(scores: Scores, model: str, baseline: str, reward: str, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of model and baseline, and prompts, of the pictures that have both."""
    a, b = scores[model][reward], scores[baseline][reward]
    kept = np.isfinite(a) & np.isfinite(b)
    if not kept.any():
        raise ValueError(f"{reward} has no pair of scores of {model} and {baseline}")
    return a[kept], b[kept], groups[kept]
