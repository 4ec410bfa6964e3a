"""How different the images of one prompt are, and whether a model draws the same image again.

    pairwise_diversity   mean distance of the features of two images of a prompt         any features
    vendi_diversity      effective number of different images of a prompt                any features
    lpips_diversity      mean LPIPS of two images of a prompt                            torchvision's AlexNet, extra: eval
    duplicates           images that are equal, or nearly, over all prompts

Values are a prompt's, then averaged over prompts; ``per_prompt`` goes into ``compare`` to say whether one model varies less than another. A
preference-trained model that varies less than its base has lost modes, whatever its reward says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from diffalign.eval.distances.distribution import vendi
from diffalign.eval.distances.lpips import LPIPS, SMALLEST
from diffalign.eval.distances.measure import cautions, matrix, unit
from diffalign.eval.stats.compare import mean_ci
from diffalign.rewards import images as pictures
from diffalign.rewards.preprocess import as_tensor

DISTANCES = ("cosine", "euclidean")
FEW_PROMPTS = 30  # below which a bootstrap over prompts is too narrow


@dataclass(frozen=True)
class Diversity:
    """Diversity within prompts.

    Attributes:
        metric: cosine | euclidean | vendi | lpips. value: mean over prompts. ci: 95 % bootstrap interval of it over prompts.
        per_prompt: prompt id -> its value, prompts in the order they first come; those with one image are left out.
        n_prompts, n_images: what counted. images_per_prompt: fewest and most. left_out: prompts with a single image.
        caution: why the value is not to be trusted, or "".
    """

    metric: str
    value: float
    ci: tuple[float, float]
    per_prompt: dict[str, float]
    n_prompts: int
    n_images: int
    images_per_prompt: tuple[int, int]
    left_out: int
    caution: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"ci": list(self.ci), "images_per_prompt": list(self.images_per_prompt)}


def pairwise_diversity(features: Any, prompts: Sequence[Hashable], *, distance: str = "cosine") -> Diversity:
    """Mean over prompts of the mean distance over the k (k - 1) / 2 pairs of a prompt's k images.

    Args:
        features: (N, d). prompts: (N,) prompt ids.
        distance: cosine, 1 - cos in [0, 2]; euclidean, |x - y| in the features' unit.
    Errors: ValueError for another distance, numbers that do not match, no prompt with two images, a row of zeros (cosine).
    """
    if distance not in DISTANCES:
        raise ValueError(f"distance is '{distance}'; allowed are {', '.join(DISTANCES)}")
    x = unit(matrix(features)) if distance == "cosine" else matrix(features)

    def of_prompt(rows):
        i, j = np.triu_indices(len(rows), 1)
        gap = np.square(x[rows][i] - x[rows][j]).sum(1)
        return float((gap / 2 if distance == "cosine" else np.sqrt(gap)).mean())  # |x - y|^2 = 2 (1 - cos) at length 1

    return _over_prompts(distance, len(x), prompts, of_prompt)


def vendi_diversity(features: Any, prompts: Sequence[Hashable]) -> Diversity:
    """Mean over prompts of the Vendi score of a prompt's k images, from 1 (all equal) to k. Compare at equal k only.

    Args:
        features: (N, d). prompts: (N,) prompt ids.
    Errors: as ``pairwise_diversity``.
    """
    x = matrix(features)
    found = _over_prompts("vendi", len(x), prompts, lambda rows: vendi(x[rows]).value)
    fewest, most = found.images_per_prompt
    mixed = f"prompts have {fewest} to {most} images, and a Vendi score grows with their number" if fewest < most else ""
    return Diversity(**asdict(found) | {"caution": cautions(found.caution, mixed)})


@torch.no_grad()
def lpips_diversity(samples: Any, prompts: Sequence[Hashable], network: LPIPS) -> Diversity:
    """Mean over prompts of the mean LPIPS over the pairs of a prompt's images, of one size each prompt; they are not resized.

    LPIPS is a squared distance of embeddings, and the mean squared distance of pairs is twice their variance (ddof 1), summed.

    Args:
        samples: N images in any form that rewards read. prompts: (N,) prompt ids. network: from ``load_lpips``.
    Errors: ValueError for images of a prompt that differ in size or are below 32 pixels, and as ``pairwise_diversity``.
    """
    samples = pictures.as_samples(samples)

    def of_prompt(rows):
        pixels = [as_tensor(pictures.to_rgb(pictures.read(samples[row]))) for row in rows]
        sizes = sorted({tuple(image.shape[1:]) for image in pixels})
        if len(sizes) > 1 or min(sizes[0]) < SMALLEST:
            found = ", ".join(f"{height} x {width}" for height, width in sizes)
            raise ValueError(f"LPIPS needs images of one size, {SMALLEST} pixels a side or more; prompt '{prompts[rows[0]]}' has {found}")
        return float(2 * torch.cat([network(image[None]) for image in pixels]).var(dim=0).sum())

    return _over_prompts("lpips", len(samples), prompts, of_prompt)


@dataclass(frozen=True)
class Duplicates:
    """Images that a model drew more than once.

    Attributes:
        n: images looked at. groups: indices of images that are the same, two or more each, in order.
        share: of images that have a twin. across: how many of the groups hold images of different prompts (None without prompts).
        threshold: least cosine of two images of a group, None where their pixels are equal.
    """

    n: int
    groups: tuple[tuple[int, ...], ...]
    share: float
    across: int | None
    threshold: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"groups": [list(group) for group in self.groups]}


def duplicates(samples: Any, prompts: Sequence[Hashable] | None = None) -> Duplicates:
    """Images whose decoded RGB pixels are equal: the same seed drawn twice, black images of a safety checker, a collapsed model.

    Args:
        samples: N images in any form that rewards read. prompts: (N,) prompt ids, to tell groups across prompts from those within one.
    """
    samples = pictures.as_samples(samples)
    first: dict[str, int] = {}
    labels = []
    for i, sample in enumerate(samples):
        image = pictures.to_rgb(pictures.read(sample))
        labels.append(first.setdefault(hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest(), i))
    return _grouped(np.array(labels, dtype=int), prompts, None)


def near_duplicates(features: Any, prompts: Sequence[Hashable] | None = None, *, threshold: float) -> Duplicates:
    """Images whose features have a cosine of ``threshold`` or more, directly or through others.

    What is near depends on the features, so there is no default: look at the cosines of images that you find equal.

    Args:
        features: (N, d). prompts: as in ``duplicates``.
    Errors: ValueError for a threshold outside (0, 1], a row of zeros.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold}; a cosine in (0, 1] is needed")
    x = unit(matrix(features, at_least=1))
    labels = np.arange(len(x))
    for i in range(len(x)):
        joined = np.unique(labels[i:][x[i:] @ x[i] >= threshold - 1e-12])  # the image's own label among them
        if joined.size > 1:
            labels[np.isin(labels, joined)] = joined[0]
    return _grouped(labels, prompts, threshold)


def _grouped(labels: np.ndarray, prompts: Sequence[Hashable] | None, threshold: float | None) -> Duplicates:
    """labels: (N,) of each image the index of the first one that is the same."""
    n = len(labels)
    if prompts is not None and len(prompts) != n:
        raise ValueError(f"{n} images and {len(prompts)} prompts: give one prompt id an image")
    members: dict[int, list[int]] = {}
    for i, first in enumerate(labels.tolist()):
        members.setdefault(first, []).append(i)
    groups = tuple(tuple(rows) for rows in members.values() if len(rows) > 1)
    across = None if prompts is None else sum(len({prompts[i] for i in rows}) > 1 for rows in groups)
    return Duplicates(n, groups, sum(map(len, groups)) / n if n else 0.0, across, threshold)


def _over_prompts(metric: str, n: int, prompts: Sequence[Hashable], of_prompt: Callable[[list[int]], float]) -> Diversity:
    if len(prompts) != n:
        raise ValueError(f"{n} images and {len(prompts)} prompts: give one prompt id an image")
    rows: dict[Hashable, list[int]] = {}
    for i, prompt in enumerate(prompts):
        rows.setdefault(prompt, []).append(i)
    several = {prompt: found for prompt, found in rows.items() if len(found) > 1}
    if not several:
        raise ValueError(f"none of the {len(rows)} prompts has two images: diversity within a prompt needs at least two")
    values = {str(prompt): of_prompt(found) for prompt, found in several.items()}
    sizes = [len(found) for found in several.values()]
    few = f"{len(values)} prompts: the interval is too narrow below {FEW_PROMPTS}" if len(values) < FEW_PROMPTS else ""
    value = float(np.mean(list(values.values())))
    interval, per_prompt = mean_ci(list(values.values())), (min(sizes), max(sizes))
    return Diversity(metric, value, interval, values, len(values), sum(sizes), per_prompt, len(rows) - len(several), few)
