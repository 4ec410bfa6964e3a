"""What pictures look like, in seven numbers each, and how far a model's have drifted from the baseline's.

Reward hacking shows in plain pixels before anyone looks: pictures that got dark and lost their edges under an OCR reward, over-saturated
under HPSv2, full of busy detail under PickScore (reports collected in docs/evaluation.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from diffalign.eval.stats.compare import compare
from diffalign.rewards import load_reward
from diffalign.rewards.images import as_samples, read, to_rgb
from diffalign.rewards.jpeg import BYTES

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
LEVELS = 8  # of each colour channel, for the entropy
EDGE = 0.1  # change of luma a pixel above which there is an edge
DARK = 0.2  # luma below which a pixel is dark
# The smallest spread of the baseline that drift is measured in: below it pictures cannot be told apart by eye, and a baseline
# without any spread (no dark pixel anywhere) would make every change infinite.
LEAST_SPREAD = {
    "saturation": 0.02, "brightness": 0.02, "contrast": 0.02, "colour entropy": 0.1, "edge density": 0.02, "dark fraction": 0.02,
    "JPEG KB": 0.05,
}  # fmt: skip
STATISTICS = tuple(LEAST_SPREAD)


@dataclass(frozen=True)
class Drift:
    """One statistic's paired change. ``change`` = mean(model - base) and its interval, in the statistic's own unit; ``drift`` = change /
    ``spread``, the spread being the standard deviation over the baseline's pictures (at least ``LEAST_SPREAD``)."""

    name: str
    base: float
    model: float
    change: float
    change_ci: tuple[float, float]
    spread: float
    drift: float

    def to_json(self) -> dict:
        return asdict(self)


def statistics(images: Any) -> dict[str, np.ndarray]:
    """The seven statistics of every picture; (N,) float64 each, of the picture as RGB with transparency laid over white.

        saturation      mean over pixels of (max - min) / max of the channels, 0 for black                      0 to 1
        brightness      mean luma, 0.299 R + 0.587 G + 0.114 B                                                  0 to 1
        contrast        standard deviation of the luma over pixels                                              0 to 1/2
        colour entropy  entropy of the histogram of colours, 8 levels a channel                                 bits, 0 to 9
        edge density    share of pixels (but the outermost) at which luma changes by more than 0.1 a pixel:
                        hypot((L[x+1] - L[x-1]) / 2, (L[y+1] - L[y-1]) / 2)                                     0 to 1
        dark fraction   share of pixels of luma below 0.2                                                       0 to 1
        JPEG KB         size at quality 95, 1 KB = 1000 bytes (rewards/jpeg.py)                                 KB

    Args:
        images: paths, bytes or PIL images (N of them), or a float tensor (N, 3, H, W) in [0, 1].
    Raises:
        ValueError: one image where several are wanted, pixels outside [0, 1], a picture under 3 pixels a side; OSError: no picture.
    """
    images = as_samples(images)
    rows = [_of_one(_array(sample)) for sample in images]
    found = {name: np.array([row[i] for row in rows], dtype=np.float64) for i, name in enumerate(STATISTICS[:-1])}
    size = load_reward("jpeg-size").score(images) if len(rows) else np.zeros(0)
    return {**found, "JPEG KB": -np.asarray(size, dtype=np.float64) * BYTES / 1000}


def drifts(base_images: Any, model_images: Any, groups: Sequence | None = None, *, confidence: float = 0.95) -> list[Drift]:
    """How far each statistic of the model's pictures lies from the baseline's of the same prompts and seeds.

    Args:
        base_images, model_images: as in ``statistics``, in the same order. groups: (N,) prompt ids, which the intervals resample.
    Raises:
        ValueError: unequal numbers of pictures, or none; and as ``statistics``.
    """
    base, model = statistics(base_images), statistics(model_images)
    return [drift_of(name, base[name], model[name], groups, confidence) for name in STATISTICS]


def drift_of(name: str, base: np.ndarray, model: np.ndarray, groups: Sequence | None = None, confidence: float = 0.95) -> Drift:
    """Of one statistic's values; base, model: (N,), paired."""
    result = compare(model, base, groups, confidence=confidence)
    spread = max(float(np.std(base)), LEAST_SPREAD[name])
    change, interval = result.mean_difference, result.mean_difference_ci
    return Drift(name, result.mean_b, result.mean_a, change, interval, spread, change / spread)


def thumbnails(images: Any, side: int = 8) -> np.ndarray:
    """(N, 3 side^2) float64 in [0, 1]: each picture averaged down to ``side`` x ``side`` pixels. The simplest features there are: what a
    picture shows where, without a network. Shape of the picture is not in it."""

    def small(image: Image.Image) -> Image.Image:
        return image.resize((side, side), Image.Resampling.BOX)

    return np.array([_array(sample, small).ravel() for sample in as_samples(images)], dtype=np.float64)


def _array(sample: Any, change: Callable[[Image.Image], Image.Image] | None = None) -> np.ndarray:
    """(H, W, 3) float32 in [0, 1]."""
    image = to_rgb(read(sample))
    return np.asarray(change(image) if change else image, dtype=np.float32) / 255


def _of_one(pixels: np.ndarray) -> tuple[float, ...]:
    """The statistics but the JPEG size, in the order of ``STATISTICS``. pixels: (H, W, 3) in [0, 1]."""
    if min(pixels.shape[:2]) < 3:
        raise ValueError(f"a picture is {pixels.shape[1]} x {pixels.shape[0]} pixels; its edges need at least 3 a side")
    high, low, luma = pixels.max(2), pixels.min(2), pixels @ LUMA
    saturation = np.divide(high - low, high, out=np.zeros_like(high), where=high > 0)
    bins = np.minimum((pixels * LEVELS).astype(np.int64), LEVELS - 1) @ np.array([LEVELS**2, LEVELS, 1])
    share = np.bincount(bins.ravel(), minlength=1) / bins.size
    share = share[share > 0]
    across, down = (luma[1:-1, 2:] - luma[1:-1, :-2]) / 2, (luma[2:, 1:-1] - luma[:-2, 1:-1]) / 2
    edges = np.hypot(across, down) > EDGE
    return saturation.mean(), luma.mean(), luma.std(), -(share * np.log2(share)).sum(), edges.mean(), (luma < DARK).mean()
