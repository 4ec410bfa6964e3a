"""Implicit against explicit reward: which of the two still ranks pairs right where neither was trained."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffalign.data import Pair
from diffalign.eval.diagnostics.likelihoods import measure, share
from diffalign.eval.stats.compare import WinRate, compare
from diffalign.rewards import Reward


@dataclass(frozen=True)
class Generalisation:
    """On one set of pairs: accuracies of the two rewards (``WinRate`` of the chosen over the rejected, ties one half), implicit minus
    explicit with its paired interval, and ``agreement``, the share of pairs that both rank alike (a tie on one side counts one half)."""

    name: str
    implicit: WinRate
    explicit: WinRate
    difference: float
    difference_ci: tuple[float, float]
    agreement: float

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def measures(self) -> dict[str, dict[str, Any]]:
        return {
            f"{self.name}: implicit-reward accuracy": share(self.implicit),
            f"{self.name}: explicit-reward accuracy": share(self.explicit),
            f"{self.name}: implicit minus explicit": measure(self.difference, self.difference_ci, self.implicit.n_prompts),
        }


def generalisation(name: str, implicit, explicit, groups=None, **interval) -> Generalisation:
    """Accuracy of the implicit reward of an aligned model and of a trained reward on the same pairs (the comparison of arXiv:2409.03650).

    The project's notes of that paper: implicit accuracy falls by about 3 % on average out of distribution, at most 7 %; not verified.

    Args:
        name: of the set, such as "in distribution". groups, interval: as ``compare`` takes them.
        implicit: (P, 2) log pi - log ref of (chosen, rejected), such as ``PairErrors.rewards``. explicit: (P, 2) scores of a reward.

    Raises:
        ValueError: shapes do not match, or numbers that are not finite.
    """
    implicit, explicit = (np.asarray(values, dtype=np.float64) for values in (implicit, explicit))
    if implicit.ndim != 2 or implicit.shape[1] != 2 or explicit.shape != implicit.shape:
        raise ValueError(f"implicit has shape {implicit.shape}, explicit {explicit.shape}: both must be (P, 2), chosen and rejected a pair")
    right = [(values[:, 0] > values[:, 1]) + 0.5 * (values[:, 0] == values[:, 1]) for values in (implicit, explicit)]
    paired = compare(*right, groups, **interval)
    return Generalisation(
        name=name,
        implicit=compare(*implicit.T, groups, **interval),
        explicit=compare(*explicit.T, groups, **interval),
        difference=paired.mean_difference,
        difference_ci=paired.mean_difference_ci,
        agreement=float(1 - abs(right[0] - right[1]).mean()),
    )


def drop(inside: WinRate, outside: WinRate) -> tuple[float, tuple[float, float]]:
    r"""Accuracy in distribution minus accuracy out of it, on different pairs, and the interval from those of the two.

        [d - sqrt((a - low_a)^2 + (high_b - b)^2),  d + sqrt((high_a - a)^2 + (b - low_b)^2)],   d = a - b

    the "square and add" of Newcombe (Statistics in Medicine 17, 1998, method 10), which takes any two independent intervals (from memory,
    not checked against the paper).
    """
    a, b = inside.win_rate, outside.win_rate
    (low_a, high_a), (low_b, high_b) = inside.win_rate_ci, outside.win_rate_ci
    return a - b, (a - b - math.hypot(a - low_a, high_b - b), a - b + math.hypot(high_a - a, b - low_b))


def explicit_rewards(reward: Reward, pairs: Sequence[Pair], *, batch_size: int | None = None) -> np.ndarray:
    """(P, 2) float64 scores of the chosen and the rejected image of each pair, for its prompt.

    Args:
        reward: from ``load_reward``; a learned one shows how an explicit reward generalises.

    Raises:
        ValueError: no pairs, unreadable images, and what the reward refuses.
    """
    if not pairs:
        raise ValueError("there is no pair to score: give at least one")
    images, prompts = [image.load() for pair in pairs for image in pair.images], [pair.prompt for pair in pairs for _ in (0, 1)]
    return reward.score(images, prompts, batch_size=batch_size).double().numpy().reshape(-1, 2)
