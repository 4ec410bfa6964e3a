"""How far one set of images is from another, and how varied a set is, on (N, d) features of the images (``features.py``).

    frechet, frechet_extrapolated   two Gaussians (FID on Inception's features)                       frechet.py
    kid                             unbiased MMD with a cubic kernel (on Inception's features)
    cmmd                            MMD with a Gaussian kernel on CLIP's embeddings
    inception_score                 how sure a classifier is of each image, and how varied over all
    vendi                           the effective number of different images

Each returns a ``Measure``: its value, the numbers of images, and a caution where the value is not to be trusted.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from diffalign.eval.distances.frechet import Gaussian, frechet, frechet_extrapolated
from diffalign.eval.distances.measure import Measure, matrix, pair, unit

__all__ = ["Gaussian", "Measure", "cmmd", "frechet", "frechet_extrapolated", "inception_score", "kid", "vendi"]

KID_SUBSET = 1_000  # images of a subset in published values
CMMD_SIGMA, CMMD_SCALE = 10.0, 1_000.0
IS_PUBLISHED = 50_000  # images in published values
ROWS = 2_048  # of a kernel matrix at once


def kid(
    features_a: Any, features_b: Any, *, subsets: int = 100, subset_size: int | None = None, degree: int = 3,
    gamma: float | None = None, coef: float = 1.0, seed: int = 2020,
) -> Measure:  # fmt: skip
    """Kernel Inception Distance: squared MMD under k(x, y) = (gamma x.y + coef)^degree, mean and deviation over random subsets.

    Of subsets X, Y of m images: sum_{i != j} k(x_i, x_j) / (m (m - 1)) + the same of Y - 2 sum_ij k(x_i, y_j) / m^2. The estimate has no
    bias, so it may be below 0 for sets that do not differ.

    Args:
        features_a, features_b: (N, d), (M, d).
        subsets: how many. subset_size: m, drawn without replacement from each set; 1,000 unless given, or all of the smaller set if that
            is fewer.
        gamma: 1 / d unless given. seed: of the subsets.
    Source: arXiv:1801.01401, section 4. Subsets are drawn as torch-fidelity 0.4.0 draws them (metric_kid.py), so that equal features,
        settings and seed give its number; torchmetrics and clean-fid draw others.
    Errors: ValueError for a subset larger than a set, or smaller than 2, or no subset; those of ``measure.pair``.
    """
    a, b = pair(features_a, features_b)
    few, d = min(len(a), len(b)), a.shape[1]
    m = min(KID_SUBSET, few) if subset_size is None else subset_size
    if not 2 <= m <= few or subsets < 1:
        raise ValueError(f"{subsets} subsets of {m} images from sets of {len(a)} and {len(b)}: a subset has 2 to {few} images")
    gamma, rng, values = 1 / d if gamma is None else gamma, np.random.RandomState(seed), []

    def kernel(x, y):
        return (x @ y.T * gamma + coef) ** degree

    def within(x):
        k = kernel(x, x)
        return (k.sum() - np.trace(k)) / (m * (m - 1))

    for _ in range(1 if m == len(a) == len(b) else subsets):  # all subsets are the sets themselves
        x, y = a[rng.choice(len(a), m, replace=False)], b[rng.choice(len(b), m, replace=False)]
        values.append(within(x) + within(y) - 2 * kernel(x, y).mean())
    settings = {"subsets": len(values), "subset_size": m, "degree": degree, "gamma": gamma, "coef": coef, "seed": seed}
    spread = float(np.std(values)) if len(values) > 1 else None
    smaller = f"subsets of {m:,} images, where published values have {KID_SUBSET:,}: less sure" if m < KID_SUBSET else ""
    return Measure("kid", float(np.mean(values)), (len(a), len(b)), d, spread, settings, smaller)


def cmmd(features_a: Any, features_b: Any, *, sigma: float = CMMD_SIGMA, scale: float = CMMD_SCALE) -> Measure:
    """CLIP Maximum Mean Discrepancy: scale * (mean k(a, a') + mean k(b, b') - 2 mean k(a, b)), k = exp(-|x - y|^2 / (2 sigma^2)).

    Embeddings are brought to length 1. All pairs count, those of an image with itself too, which is the biased estimate: it is never below
    0, and 0 for equal sets. The unbiased one is in settings as ``unbiased``; where the two differ by more than a tenth the caution says so.

    Args:
        features_a, features_b: (N, d), (M, d); published values are on CLIP ViT-L/14 at 336 pixels (``load_features("clip-l14-336")``).
    Source: arXiv:2401.09603, eq. 4, and sayakpaul/cmmd-pytorch distance.py, embedding.py.
    Errors: ValueError for a sigma that is not positive; those of ``measure.pair`` and ``measure.unit``.
    """
    if not sigma > 0:
        raise ValueError(f"sigma is {sigma}; it must be positive, and is {CMMD_SIGMA:g} in published values")
    a, b = (unit(features) for features in pair(features_a, features_b))

    def mean_kernel(x, y):
        total = 0.0
        for start in range(0, len(x), ROWS):
            rows = x[start : start + ROWS]
            squares = (rows**2).sum(1)[:, None] + (y**2).sum(1)[None] - 2 * rows @ y.T
            total += np.exp(-np.maximum(squares, 0) / (2 * sigma**2)).sum()
        return total / (len(x) * len(y))

    aa, bb, ab = mean_kernel(a, a), mean_kernel(b, b), mean_kernel(a, b)
    value = scale * (aa + bb - 2 * ab)
    bias = scale * ((1 - aa) / (len(a) - 1) + (1 - bb) / (len(b) - 1))  # a mean with n diagonal ones, minus the mean without
    settings = {"sigma": sigma, "scale": scale, "unbiased": float(value - bias)}
    few = f"{bias:.3g} of it are bias from few images: look at 'unbiased' in its settings" if bias > 0.1 * value else ""
    return Measure("cmmd", float(max(0.0, value)), (len(a), len(b)), a.shape[1], None, settings, few)


def inception_score(logits: Any, *, splits: int = 10, seed: int | None = 2020) -> Measure:
    """exp(mean_i KL(p(y | x_i) || mean_i p(y | x_i))) of each split, mean and deviation over the splits; 1 to the number of classes.

    Args:
        logits: (N, classes), before the softmax; published values are of Inception without the bias of its last layer
            (``load_features("inception-logits")``).
        splits: equal parts (to one image) of the shuffled images. seed: of the shuffle; None keeps the order.
    Source: arXiv:1606.03498, section 4; shuffle and splits as in torch-fidelity 0.4.0 metric_isc.py, and in audioldm_eval.
    Errors: ValueError for fewer images than splits, or no split; those of ``measure.matrix``.
    """
    logits = matrix(logits)
    n, classes = logits.shape
    if not 1 <= splits <= n:
        raise ValueError(f"{splits} splits of {n} images: give 1 to {n}; published values have 10")
    if seed is not None:
        logits = logits[np.random.RandomState(seed).permutation(n)]
    log_p = logits - logits.max(1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
    values = []
    for i in range(splits):
        part = log_p[i * n // splits : (i + 1) * n // splits]
        p = np.exp(part)
        overall = p.mean(0)
        entropies = (p * part).sum(), len(p) * (overall[overall > 0] * np.log(overall[overall > 0])).sum()
        values.append(np.exp((entropies[0] - entropies[1]) / len(p)))
    spread = float(np.std(values)) if splits > 1 else None
    few = f"too low with {n:,} images in {splits} splits; published values have {IS_PUBLISHED:,}" if n < IS_PUBLISHED else ""
    return Measure("inception-score", float(np.mean(values)), (n,), classes, spread, {"splits": splits, "seed": seed}, few)


def vendi(features: Any) -> Measure:
    """Vendi score: exp of the entropy of the eigenvalues of K / n, K the cosines; 1 for equal images, min(n, d) at most.

    Where n > d the eigenvalues that are not 0 are those of the (d, d) matrix X'X / n.

    Args:
        features: (N, d); brought to length 1.
    Source: arXiv:2210.02410, definition 3.1, and the package vendi-score 0.0.3 (score_X, score_dual).
    Errors: those of ``measure.matrix`` and ``measure.unit``.
    """
    x = unit(matrix(features, at_least=1))
    n, d = x.shape
    shares = np.linalg.eigvalsh((x.T @ x if n > d else x @ x.T) / n)
    shares = shares[shares > 0]
    value, most = float(np.exp(-(shares * np.log(shares)).sum())), min(n, d)
    full = f"close to its largest possible value, {most:,}: more images or features would raise it" if n > 1 and value > 0.9 * most else ""
    return Measure("vendi", value, (n,), d, None, {}, full)
