"""Several rewards for raters who disagree: which rater belongs to which, by hard expectation maximisation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffalign import data


class Groups:
    """Raters, each in one of ``count`` groups; a group has a reward of its own.

        start      a hash of (seed, rater): groups alike in size, so that the rewards begin to differ
        E step     u -> argmax_k of the sum over u's pairs of log P_k(the choice)       ``assign``
        M step     every reward is trained on the pairs of its raters                    (the loop)

    Source: MaxMin-RLHF (arXiv:2402.08925), which then aligns with the least of the rewards; the algorithm as reviews give it, not verified
    against the paper. A pair's rater is its ``origin``.

    Raises:
        ValueError: a pair without a rater, or fewer raters than groups.
    """

    def __init__(self, pairs: Sequence[data.Pair], count: int, seed: int):
        self.count = count
        if count > 1 and (lost := next((pair for pair in pairs if pair.origin is None), None)):
            raise ValueError(
                f"groups is {count} and pair {lost.id} does not say who rated it: map your column of raters, --columns origin YOURS"
            )
        raters = sorted({_rater(pair) for pair in pairs})
        if len(raters) < count:
            raise ValueError(f"groups is {count} and the data has {len(raters)} raters; there must be at least as many")
        order = sorted(raters, key=lambda rater: data.content_key("rater", seed, rater))
        self.of: dict[str, int] = {rater: i % count for i, rater in enumerate(order)}

    def group(self, pair: data.Pair) -> int:
        return self.of[_rater(pair)]

    def assign(self, pairs: Sequence[data.Pair], log_likelihood: Tensor) -> int:
        """The E step. ``log_likelihood``: (groups, pairs) log-probability of every choice under every reward. Returns how many raters
        changed. A tie stays where it is."""
        total = {rater: torch.zeros(self.count, dtype=torch.float64) for rater in self.of}
        for pair, column in zip(pairs, log_likelihood.T.double().cpu(), strict=True):
            total[_rater(pair)] += column
        changed = 0
        for rater, values in total.items():
            best = int(values.argmax())
            if values[best] > values[self.of[rater]]:
                self.of[rater], changed = best, changed + 1
        return changed


def _rater(pair: data.Pair) -> str:
    return pair.origin or ""
