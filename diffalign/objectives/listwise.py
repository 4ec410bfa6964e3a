r"""The objective of ranked lists: rewards and labels of all samples of a list to one loss a list. Its shapes are in lists.py."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from diffalign.objectives.evidence import Evidence
from diffalign.objectives.labels import Rankings
from diffalign.objectives.lists import ListShape
from diffalign.objectives.metrics import Metrics, slope_metrics
from diffalign.objectives.objective import Objective
from diffalign.objectives.rewards import RewardMap
from diffalign.objectives.terms import Terms


@dataclass(frozen=True)
class ListObjective(Objective):
    r"""Reward map -> rewards beta * r (N,) -> loss of every list, by `shape` (G,).

    With LogRatio and SwapGaps it is RankDPO (arXiv:2410.18013), `-Delta_ij log sigma(-beta (s_i - s_j))`, s = l_theta - l_ref = -2 r, so
    its beta is half of ours. All samples of a list should share noise and timestep.

    Raises:
        ValueError: unless beta is positive; on call, if the evidence lacks what `needs` names, or the labels are not Rankings of as many
            rows.
    """

    takes: ClassVar[str] = "rankings"
    unit: ClassVar[str] = "group"
    labels: ClassVar[type] = Rankings

    reward: RewardMap
    shape: ListShape
    beta: float

    def __post_init__(self):
        if not 0 < self.beta < math.inf:
            raise ValueError(f"beta must be positive and finite; got {self.beta}")

    @property
    def needs(self) -> frozenset[str]:
        return self.reward.needs | self.shape.needs

    def __call__(self, evidence: Evidence, comparison: Rankings) -> Terms:
        """Evidence of N samples in G lists -> G losses (`Terms` of unit "group") and metrics of their ordered pairs."""
        rewards = self.beta * self.reward(evidence)
        comparison = self._beside(comparison, rewards)
        loss = self.shape(rewards, comparison, evidence)
        return Terms(loss, comparison.weight, self.unit, self._metrics(rewards.detach(), comparison))

    def _metrics(self, rewards: Tensor, rankings: Rankings) -> Metrics:
        """As of pairs, over all ordered pairs, unweighted; the link's slopes where the shape has one."""
        better, z = rankings.better(), rewards[:, None] - rewards
        values = {"rewards/margins": z, "rewards/accuracies": (z > 0) + 0.5 * (z == 0)}
        if self.shape.link is not None:
            values |= slope_metrics(z, torch.ones_like(z), self.shape.link)
        return {name: (torch.where(better, value, 0.0).sum(), rankings.ordered) for name, value in values.items()}

    def loss_at_start(self, comparison: Rankings) -> Tensor:
        """(G,) the loss while policy and reference are equal: ln 2 * sum of Delta for RankDPO. ValueError where the model decides it."""
        if not self.reward.starts_at_zero:
            raise ValueError(f"{type(self.reward).__name__} has no reference, so its loss at the start depends on the model")
        return self.shape.at_start(comparison)
