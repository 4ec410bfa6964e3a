"""How much better a picture scores for its own prompt than for another's: what a reward sees of the prompt in the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def shuffled(prompts: Sequence[str], seed: int = 0) -> list[str]:
    """Another prompt for each: a seeded cyclic permutation of the different prompts (Sattolo's algorithm), so that no prompt stays and
    equal prompts get the same partner.

    Raises:
        ValueError: fewer than two different prompts.
    """
    texts = list(dict.fromkeys(prompts))
    if len(texts) < 2:
        raise ValueError(f"prompts can only be shuffled among at least 2 different ones; there {'is' if texts else 'are'} {len(texts)}")
    order, rng = list(range(len(texts))), np.random.default_rng(seed)
    for i in range(len(order) - 1, 0, -1):
        j = int(rng.integers(i))
        order[i], order[j] = order[j], order[i]
    partner = {text: texts[other] for text, other in zip(texts, order, strict=True)}
    return [partner[prompt] for prompt in prompts]


def shuffle_gap(reward: Any, images: Any, prompts: Sequence[str], scores, seed: int = 0) -> np.ndarray:
    """(N,) float64: score for the own prompt - score for the shuffled one.

    Args:
        reward: anything with ``score(images, prompts) -> (N,)`` that reads prompts. scores: (N,) of the own prompts.
    """
    other = np.asarray(reward.score(images, shuffled(prompts, seed)), dtype=np.float64)
    return np.asarray(scores, dtype=np.float64) - other
