"""Whether what a model gained survives changes of its pictures that nobody sees.

A reward that is fed by an adversarial pattern falls when the picture is saved as a JPEG, blurred by half a pixel, cut by two in a hundred
or mirrored; a reward that is fed by what the picture shows hardly does.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from diffalign.eval.stats.compare import compare
from diffalign.rewards.images import as_samples, read, to_rgb

QUALITY, SIGMA, CUT = 75, 0.5, 0.02  # of the JPEG; of the blur, in pixels; share of each side that is cut away
SIDES = re.compile(r"\b(left|right|west|east|clockwise|counterclockwise)\b", re.IGNORECASE)  # prompts that a mirrored picture contradicts
CHUNK = 64  # pictures in memory at once


def jpeg(image: Image.Image) -> Image.Image:
    """Saved at quality 75 (4:2:0) and read again."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, subsampling="4:2:0")
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def blur(image: Image.Image) -> Image.Image:
    """A Gaussian of standard deviation 0.5 pixels (PIL's, three box filters)."""
    return image.filter(ImageFilter.GaussianBlur(SIGMA))


def crop(image: Image.Image) -> Image.Image:
    """One in a hundred of the width and height cut off at every border, and resized back (bicubic; parts of pixels count)."""
    right, down = image.width * CUT / 2, image.height * CUT / 2
    box = (right, down, image.width - right, image.height - down)
    return image.resize(image.size, Image.Resampling.BICUBIC, box=box)


PERTURBATIONS = {"JPEG 75": jpeg, "blur 0.5 px": blur, "crop 2 %": crop, "mirrored": ImageOps.mirror}


@dataclass(frozen=True)
class Drop:
    """What one change of the pictures costs. Over the ``n`` pictures that count (mirrored: prompts that name no side):

    base, model     mean(score - score of the changed picture) of either model
    excess          model - base, that is how much less the model is ahead after the change, and its interval
    gain            mean(model's score - base's score) before it
    lost            excess / gain: the share of the gain that the change takes; NaN where there is no gain
    """

    name: str
    n: int
    base: float
    model: float
    excess: float
    excess_ci: tuple[float, float]
    gain: float
    lost: float

    def to_json(self) -> dict:
        return asdict(self)


def rescored(reward: Any, images: Any, prompts: Sequence[str], perturbation: str) -> np.ndarray:
    """(N,) float64 scores of the changed pictures; NaN for a mirrored picture whose prompt names a side.

    Args:
        reward: anything with ``score(images, prompts) -> (N,)``. images: paths, PIL images or a tensor (N, 3, H, W) in [0, 1].
    Raises:
        ValueError: an unknown perturbation.
    """
    if perturbation not in PERTURBATIONS:
        raise ValueError(f"no perturbation {perturbation!r}; known: {', '.join(PERTURBATIONS)}")
    change, images, prompts = PERTURBATIONS[perturbation], as_samples(images), list(prompts)
    scores = np.full(len(prompts), np.nan)
    rows = [i for i, prompt in enumerate(prompts) if perturbation != "mirrored" or not SIDES.search(prompt)]
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        changed = [change(to_rgb(read(images[i]))) for i in part]
        scores[part] = np.asarray(reward.score(changed, [prompts[i] for i in part]), dtype=np.float64)
    return scores


def drops(
    reward: Any, base_images: Any, model_images: Any, prompts: Sequence[str], scores_base, scores_model, groups: Sequence | None = None, *,
    confidence: float = 0.95,
) -> list[Drop]:
    """Each perturbation's ``Drop``, of one reward; a perturbation that suits none of the prompts is left out.

    Args:
        scores_base, scores_model: (N,) that reward's scores of the pictures as they are. groups: (N,) prompt ids.
    Raises:
        ValueError: numbers of pictures, prompts and scores that differ.
    """
    before = [np.asarray(scores, dtype=np.float64) for scores in (scores_base, scores_model)]
    counts = {len(prompts), len(as_samples(base_images)), len(as_samples(model_images)), *map(len, before)}
    if len(counts) > 1:
        raise ValueError(f"robustness needs as many pictures of both models, prompts and scores: got {sorted(counts)}")
    groups, found = np.arange(len(prompts)) if groups is None else np.asarray(groups), []
    for name in PERTURBATIONS:
        after = [rescored(reward, images, prompts, name) for images in (base_images, model_images)]
        rows = np.isfinite(np.stack([*before, *after])).all(0)
        if rows.any():
            base, model = (old[rows] - new[rows] for old, new in zip(before, after, strict=True))
            result = compare(model, base, groups[rows], confidence=confidence)
            gain = float((before[1] - before[0])[rows].mean())
            lost = result.mean_difference / gain if gain > 0 else float("nan")
            interval = result.mean_difference_ci
            found.append(Drop(name, int(rows.sum()), result.mean_b, result.mean_a, result.mean_difference, interval, gain, lost))
    return found
