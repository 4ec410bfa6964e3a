"""The Frechet distance of two sets of features, each taken for a Gaussian; FID where the features are Inception's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffalign.eval.distances.measure import Measure, cautions, matrix

ENOUGH = 10_000  # images, below which the published advice is not to report an FID
PAPER_SMALLEST = 5_000  # of the extrapolation's subsets


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of features, the covariance as a factor: ``covariance = root @ root.T``.

    Attributes: ``mean`` (d,); ``root`` (d, r), r the rank or more; ``n``, the images it was measured on, None where that is not known.
    """

    mean: np.ndarray
    root: np.ndarray
    n: int | None = None

    @classmethod
    def of(cls, features: Any) -> Gaussian:
        """Of (N, d) features: float64, divided by N - 1 (``np.cov``'s ddof of 1)."""
        features = matrix(features)
        mean, (n, d) = features.mean(0), features.shape
        centred = (features - mean) / np.sqrt(n - 1)
        return cls(mean, centred.T, n) if n <= d else cls(mean, root(centred.T @ centred), n)

    @classmethod
    def read(cls, path: str | Path) -> Gaussian:
        """Of an ``.npz`` with ``mu`` (d,) and ``sigma`` (d, d), the form in which pytorch-fid and clean-fid keep a data set's statistics.

        Errors: ValueError for a file that lacks one of them or in which they do not fit, and what ``root`` raises.
        """
        with np.load(path, allow_pickle=False) as file:
            if lacking := {"mu", "sigma"} - set(file.files):
                raise ValueError(f"{path} lacks {', '.join(sorted(lacking))}; statistics are an .npz with mu (d,) and sigma (d, d)")
            mean, covariance = np.asarray(file["mu"], np.float64), np.asarray(file["sigma"], np.float64)
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise ValueError(f"{path}: mu is (d,) and sigma (d, d); got {mean.shape} and {covariance.shape}")
        return cls(mean, root(covariance))


def root(covariance: np.ndarray) -> np.ndarray:
    """(d, d) -> (d, r) with ``root @ root.T`` the covariance: eigenvectors times the roots of their eigenvalues, zeros left out.

    Eigenvalues below ``d * eps`` of the largest are rounding of zeros, and are left out: their roots, 1e-8 of the largest one's, would not
    be small. ValueError for a matrix that has an eigenvalue clearly below 0, so is no covariance.
    """
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    tiny = len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    if values[0] < -1e-6 * max(values[-1], 0.0):
        raise ValueError(f"this is no covariance: its smallest eigenvalue is {values[0]:.3g}, its largest {values[-1]:.3g}")
    kept = values > tiny
    return vectors[:, kept] * np.sqrt(values[kept])


def squared_distance(a: Gaussian, b: Gaussian) -> float:
    """|m_a - m_b|^2 + tr(C_a) + tr(C_b) - 2 tr((C_a C_b)^1/2), the squared 2-Wasserstein distance of two Gaussians, at least 0.

    With C = R R' the last trace is the sum of the singular values of R_a' R_b, which squared are the eigenvalues of C_a^1/2 C_b C_a^1/2 and
    of C_a C_b. Nothing is inverted and no matrix root is taken, so covariances of any rank will do.

    Source: Dowson and Landau 1982, eq. 4; arXiv:1706.08500 (FID), eq. 6.

    *Deviates:* pytorch-fid, clean-fid and fadtk call ``scipy.linalg.sqrtm`` on C_a C_b and add 1e-6 to both diagonals where that fails.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"the two sets have features of {len(a.mean)} and {len(b.mean)} numbers: use the same network for both")
    gap = a.mean - b.mean
    overlap = np.linalg.svd(a.root.T @ b.root, compute_uv=False).sum()
    return max(0.0, float(gap @ gap + (a.root**2).sum() + (b.root**2).sum() - 2 * overlap))


def frechet(a: Any, b: Any) -> Measure:
    """Frechet distance of two sets.

    Args:
        a, b: each (N, d) features, or a ``Gaussian`` (of a data set's published statistics, say).
    Returns:
        The measure; its value is the squared distance that is published as FID, in squared units of the features.
    Errors: those of ``Gaussian`` and ``squared_distance``.
    """
    a, b = _gaussian(a), _gaussian(b)
    n, d = (a.n, b.n), len(a.mean)
    return Measure("frechet", squared_distance(a, b), n, d, caution=_caution(n, d))


def frechet_extrapolated(a: Any, b: Any, *, points: int = 15, smallest: int | None = None, both: bool = False, seed: int = 0) -> Measure:
    """Frechet distance at infinitely many images ("FID infinity"): a line in 1 / n through the distances of random subsets, read at 0.

    Args:
        a: (N, d) features, of which ``points`` subsets of evenly spaced sizes are taken, each without replacement.
        b: (M, d) features or a ``Gaussian``; used whole, so that its own bias stays, unless
        both: subsets of b, of the same sizes, are taken too. The sets then have equal numbers, and the line removes the bias of both.
        smallest: images of the smallest subset; 5,000 as published where N is at least twice that, else N / 2.
        seed: of the subsets.
    Returns:
        The measure; settings hold sizes, slope and r2 of the line. The value can be below 0 by chance where the distance is near 0.
    Source: arXiv:1911.07023, section 3, and mchong6/FID_IS_infinity score_infinity.py.
    Errors: ValueError for fewer than 3 points, a smallest subset outside [2, N), ``both`` without equally many features on both sides.

    *Deviates:* the published sizes start at 5,000 whatever N is, and its latents come from a Sobol sequence, which finished images cannot.
    """
    a = matrix(a)
    n, d = a.shape
    if smallest is None:
        smallest = PAPER_SMALLEST if n >= 2 * PAPER_SMALLEST else max(2, n // 2)
    if points < 3 or not 2 <= smallest < n:
        raise ValueError(f"{points} sizes from {smallest} to {n} images: at least 3 sizes are needed, the smallest from 2 to {n - 1}")
    if both:
        b = matrix(b)
        if b.shape != a.shape:
            raise ValueError(f"with both=True the two sets have equal shapes, got {a.shape} and {b.shape}")
    whole, rng, values = None if both else _gaussian(b), np.random.default_rng(seed), []
    sizes = np.linspace(smallest, n, points).astype(int)
    for size in sizes:
        other = whole or Gaussian.of(b[rng.permutation(n)[:size]])
        values.append(squared_distance(Gaussian.of(a[rng.permutation(n)[:size]]), other))
    slope, intercept = np.polyfit(1 / sizes, values, 1)
    left, around = np.square(values - (intercept + slope / sizes)).sum(), np.square(values - np.mean(values)).sum()
    settings = {
        "sizes": sizes.tolist(), "both": both, "seed": seed, "slope": float(slope), "r2": float(1 - left / around) if around else 1.0,
        "at_all": float(values[-1]),
    }  # fmt: skip
    steep = f"the line starts at {smallest:,} images of {d:,} features, where the bias is not straight in 1 / n" if smallest <= d else ""
    few = f"extrapolated from {n:,} images at most" if n < ENOUGH else ""
    counts = (n, whole.n if whole else n)
    return Measure("frechet-extrapolated", float(intercept), counts, d, settings=settings, caution=cautions(steep, few))


def _gaussian(given: Any) -> Gaussian:
    return given if isinstance(given, Gaussian) else Gaussian.of(given)


def _caution(n: tuple[int | None, ...], d: int) -> str:
    known = [count for count in n if count is not None]
    few = min(known, default=ENOUGH)
    rank = f"{few:,} images do not span the {d:,} dimensions of the features" if few <= d else ""
    small = f"biased upwards with {few:,} images (below {ENOUGH:,}): compare at equal n only, or extrapolate" if few < ENOUGH else ""
    return cautions(rank, small)
