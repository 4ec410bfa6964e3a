r"""The objective of single samples that people liked or did not, without partners."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from diffalign.objectives.baselines import Baseline, BatchMean
from diffalign.objectives.evidence import Evidence
from diffalign.objectives.labels import Labels
from diffalign.objectives.links import Link
from diffalign.objectives.metrics import Metrics, slope_metrics
from diffalign.objectives.objective import AllReduce, Objective, alone
from diffalign.objectives.rewards import RewardMap
from diffalign.objectives.terms import Terms


@dataclass(frozen=True)
class SampleObjective(Objective):
    r"""Reward map -> distance from a baseline -> link:

        r    = reward(evidence)                                     (N,)
        z    = beta * r - baseline                                  (N,)   the baseline is one number, without gradient
        loss = lambda * link(z; 1 if desirable else 0)              lambda = desirable_weight or undesirable_weight

    With LogRatio, Sigmoid and BatchMean, beta * max(0, mean of r over the batch of all ranks), it is Diffusion-KTO (arXiv:2404.04465) as
    released, `lambda (1 - sigma(+-beta (g - Q0)))`, g = -(l_theta - l_ref).

    Units: r = g / 2, as evidence is -1/2 error, so the release's beta = 1000 is beta = 2000 here: beta means the same in every row.

    *Deviates:* BatchMean is a mean over the micro-batches of one moment on all ranks, not over the accumulated step, as released. Without a
    gradient (validation) it is the batch's own, so that one rank may validate alone.

    Args:
        reward, link, beta: as in a PairObjective.
        desirable_weight, undesirable_weight: KTO's lambda+ and lambda-; raise the rarer kind's.
        all_reduce: tensor -> its sum over all ranks. Called once a training call, so every rank must make as many calls.
        baseline: what a reward is measured against.

    Raises:
        ValueError: unless beta is positive and the weights are at least 0; on call, if the evidence lacks what `needs` names, or the labels
            are not Labels of as many rows.
    """

    takes: ClassVar[str] = "labels"
    unit: ClassVar[str] = "sample"
    labels: ClassVar[type] = Labels

    reward: RewardMap
    link: Link
    beta: float
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    all_reduce: AllReduce = alone
    baseline: Baseline = field(default_factory=BatchMean)

    def __post_init__(self):
        if not 0 < self.beta < math.inf:
            raise ValueError(f"beta must be positive and finite; got {self.beta}")
        for name in ("desirable_weight", "undesirable_weight"):
            if not 0 <= (value := vars(self)[name]) < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite; got {value}")

    @property
    def needs(self) -> frozenset[str]:
        return self.reward.needs | self.baseline.needs

    def __call__(self, evidence: Evidence, comparison: Labels) -> Terms:
        """Evidence of N samples and a label for each -> N losses (`Terms` of unit "sample") and their metrics."""
        rewards = self.beta * self.reward(evidence)
        comparison = self._beside(comparison, rewards)
        baseline = self.baseline(rewards, evidence, comparison, self.beta, self.all_reduce)
        z = rewards - baseline
        loss = self._weighted(self.link(z, comparison.desirable.to(z.dtype)), comparison.desirable)
        return Terms(loss, comparison.weight, self.unit, self._metrics(rewards.detach(), baseline, comparison))

    def _weighted(self, loss: Tensor, desirable: Tensor) -> Tensor:
        return loss * torch.where(desirable, self.desirable_weight, self.undesirable_weight).to(loss.dtype)

    def _metrics(self, rewards: Tensor, baseline: Tensor, comparison: Labels) -> Metrics:
        """TRL's names. rewards/chosen and rewards/rejected are those of the liked and of the disliked. No margins: no pairs."""
        z, liked, count = rewards - baseline, comparison.desirable, comparison.rows
        right = torch.where(liked, z > 0, z < 0) + 0.5 * (z == 0)
        slopes = slope_metrics(z, liked.to(z.dtype), self.link)
        return {
            "rewards/chosen": ((rewards * liked).sum(), comparison.liked),
            "rewards/rejected": ((rewards * ~liked).sum(), count - comparison.liked),
            "rewards/accuracies": (right.sum(), count),
            "kl": (baseline * count, count),
            **{name: (values.sum(), count) for name, values in slopes.items()},
        }

    def loss_at_start(self, comparison: Labels) -> Tensor:
        """(N,) lambda/2 for KTO: every r is 0 and so are the baseline and z. ValueError for a reward map without a reference."""
        if not self.reward.starts_at_zero:
            raise ValueError(f"{type(self.reward).__name__} has no reference, so its loss at the start depends on the model")
        z = torch.zeros_like(comparison.weight)
        return self._weighted(self.link(z, comparison.desirable.to(z.dtype)), comparison.desirable)

    def state_dict(self) -> dict[str, float]:
        return self.baseline.state_dict()

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.baseline.load_state_dict(state)
