r"""Rewards of pairs: which side a sample is on, what its partner is, or what the other pairs of the call are, decides its reward."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from diffalign.objectives.evidence import Evidence
from diffalign.objectives.rewards import RewardMap


class PairReward:
    """Evidence and pairs (P, 2) -> rewards (P,) of the chosen and (P,) of the rejected sides.

    `needs` and `starts_at_zero` as of a RewardMap; `sorts`: pairs of the result are not the labelled ones, so a pair's labels mean nothing.
    """

    needs: frozenset[str]
    starts_at_zero: bool
    sorts: ClassVar[bool] = False

    def __call__(self, evidence: Evidence, pairs: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


@dataclass(frozen=True)
class EachSide(PairReward):
    """One map for the chosen, another for the rejected. So swapping pair and label changes the loss."""

    chosen: RewardMap
    rejected: RewardMap

    @property
    def needs(self) -> frozenset[str]:
        return self.chosen.needs | self.rejected.needs

    @property
    def starts_at_zero(self) -> bool:
        return self.chosen.starts_at_zero and self.rejected.starts_at_zero

    def __call__(self, evidence: Evidence, pairs: Tensor) -> tuple[Tensor, Tensor]:
        return self.chosen(evidence)[pairs[:, 0]], self.rejected(evidence)[pairs[:, 1]]


@dataclass(frozen=True)
class ConditionalReference(PairReward):
    r"""r = policy - reference where the reference ranks the pair as the label does, r = policy where it does not:

        r_chosen - r_rejected = (lp_w - lp_l) - max(0, rf_w - rf_l)         (Hybrid-DPO, arXiv:2602.11902, its abstract)

    so that a reference which is wrong about a pair does not hold the policy back.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    starts_at_zero: ClassVar[bool] = False

    def __call__(self, evidence: Evidence, pairs: Tensor) -> tuple[Tensor, Tensor]:
        policy, reference = evidence.policy[pairs.T], evidence.the_reference[pairs.T]
        kept = torch.where(reference[0] >= reference[1], reference, 0.0)
        return tuple(policy - kept)


@dataclass(frozen=True)
class SortedRewards(PairReward):
    r"""The k-th smallest log-ratio of the chosen against the k-th smallest of the rejected: AOT unpaired (arXiv:2406.05882).

    Sorted within one call: micro-batches and ranks are not gathered, so the result depends on their size, as TRL's does.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    starts_at_zero: ClassVar[bool] = True
    sorts: ClassVar[bool] = True

    def __call__(self, evidence: Evidence, pairs: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(evidence.log_ratio[pairs.T].sort(dim=1).values)


@dataclass(frozen=True)
class SortedMargins(PairReward):
    r"""The k-th smallest margin of the policy, lp_w - lp_l, against the k-th smallest of the reference: AOT paired (arXiv:2406.05882).

    Sorted within one call, as SortedRewards. The two "rewards" are margins.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    starts_at_zero: ClassVar[bool] = True
    sorts: ClassVar[bool] = True

    def __call__(self, evidence: Evidence, pairs: Tensor) -> tuple[Tensor, Tensor]:
        samples = torch.stack([evidence.policy, evidence.the_reference])[:, pairs]  # (2, P, 2)
        return tuple((samples[..., 0] - samples[..., 1]).sort(dim=1).values)
