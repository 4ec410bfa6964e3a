"""A number about one or two sets of images, with what is needed to believe it or not: how many images, which settings, and a caution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Measure:
    """One measurement on features of images.

    Attributes:
        metric: frechet | frechet-extrapolated | kid | cmmd | inception-score | vendi.
        value: in the metric's own unit. spread: standard deviation over subsets or splits (ddof 0, as published), where there are any; no
            confidence interval, as subsets share their images and splits are few.
        n: images of each set; None for one that is known by its mean and covariance alone. dimension: d of the features.
        settings: what the value depends on beside the features.
        caution: why this value is not to be trusted, or "" where nothing is known against it.
    """

    metric: str
    value: float
    n: tuple[int | None, ...]
    dimension: int
    spread: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    caution: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"n": list(self.n)}

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" +- {self.spread:.4g}"
        n = " and ".join("unknown" if count is None else f"{count:,}" for count in self.n)
        return f"{self.metric} {self.value:.4g}{spread} (n = {n})" + (f"; caution: {self.caution}" if self.caution else "")


def matrix(features: Any, at_least: int = 2) -> np.ndarray:
    """(N, d) features in float64. ValueError for another shape, fewer than ``at_least`` rows, or a value that is not finite."""
    found = np.asarray(features, dtype=np.float64)
    if found.ndim != 2 or len(found) < at_least or not found.shape[1]:
        raise ValueError(f"features are (N, d) with N at least {at_least}, one row an image; got shape {found.shape}")
    if bad := int((~np.isfinite(found)).any(1).sum()):
        raise ValueError(f"{bad} of {len(found)} images have features that are not finite: leave those images out, or look at the network")
    return found


def pair(features_a: Any, features_b: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both sets as ``matrix`` gives them. ValueError where they differ in d."""
    a, b = matrix(features_a), matrix(features_b)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"the two sets have features of {a.shape[1]} and {b.shape[1]} numbers: use the same network for both")
    return a, b


def unit(features: np.ndarray) -> np.ndarray:
    """Rows at length 1. ValueError for a row of zeros, which has no direction."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    if (rows := np.flatnonzero(length == 0)).size:
        raise ValueError(f"{rows.size} of {len(features)} images have features that are all 0, which is no direction; first row {rows[0]}")
    return features / length


def cautions(*sentences: str) -> str:
    """Those that are not empty, as one."""
    return "; ".join(sentence for sentence in sentences if sentence)
