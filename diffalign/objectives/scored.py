r"""The objective of single samples that carry a number: their reward is regressed on it, or it scales their likelihood."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from diffalign.objectives.evidence import Evidence
from diffalign.objectives.labels import Scores
from diffalign.objectives.objective import Objective
from diffalign.objectives.rewards import RewardMap
from diffalign.objectives.terms import Terms


class ScoreLoss:
    """rewards (N,) after beta, the evidence and the labels' values (N,) -> loss (N,). `needs` as of an objective; `at_start`: value -> loss
    while policy and reference are equal, or None where the model decides it."""

    needs: frozenset[str] = frozenset()

    def __call__(self, rewards: Tensor, evidence: Evidence, value: Tensor) -> Tensor:
        raise NotImplementedError

    def at_start(self, value: Tensor) -> Tensor | None:
        raise NotImplementedError


@dataclass(frozen=True)
class Regress(ScoreLoss):
    r"""((beta r - value) / scale)^2:  A2PO at scale 1 (arXiv:2505.20686 through TRL), with value = R - V*, V* the soft value of the prompt
    (`recipes.soft_value`); with scale = beta, (r - value/beta)^2.

    A plain mean in V*'s place would not do: the optimum of the regularised problem is R less beta log E exp(R/beta).

    Raises:
        ValueError: unless the scale is positive and finite.
    """

    scale: float = 1.0

    def __post_init__(self):
        if not 0 < self.scale < math.inf:
            raise ValueError(f"beta, which the values are divided by, must be positive and finite; got {self.scale}")

    def __call__(self, rewards: Tensor, evidence: Evidence, value: Tensor) -> Tensor:
        return ((rewards - value) / self.scale) ** 2

    def at_start(self, value: Tensor) -> Tensor:
        return (value / self.scale) ** 2


@dataclass(frozen=True)
class NashGradient(ScoreLoss):
    r"""beta k - (value - 1/2) policy,   k = extra["token_kl"] = sum_t sg[lr_t] log pi(y_t):  Nash-MD on a recorded sample of the policy.

    value: probability that the sample beats one of the mixture of policy and reference. Source: arXiv:2312.00886 through TRL's trainer as
    our notes have it. Its value means nothing; its gradient is REINFORCE's, and right for samples of the present policy only.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reference", "extra:token_kl"})
    beta: float

    def __call__(self, rewards: Tensor, evidence: Evidence, value: Tensor) -> Tensor:
        return self.beta * evidence.named("token_kl", len(value)) - (value - 0.5) * evidence.policy

    def at_start(self, value: Tensor) -> None:
        return None


@dataclass(frozen=True)
class ScoreObjective(Objective):
    r"""Reward map -> loss of reward and value, one a sample:  loss = form(beta * reward(evidence), value).

    Raises:
        ValueError: unless beta is positive; on call, if the evidence lacks what `needs` names, or the labels are not Scores of its rows.
    """

    takes: ClassVar[str] = "scores"
    unit: ClassVar[str] = "sample"
    labels: ClassVar[type] = Scores

    reward: RewardMap
    form: ScoreLoss
    beta: float

    def __post_init__(self):
        if not 0 < self.beta < math.inf:
            raise ValueError(f"beta must be positive and finite; got {self.beta}")

    @property
    def needs(self) -> frozenset[str]:
        return self.reward.needs | self.form.needs

    def __call__(self, evidence: Evidence, comparison: Scores) -> Terms:
        """Evidence of N samples and a value for each -> N losses (`Terms` of unit "sample") and their metrics."""
        rewards = self.beta * self.reward(evidence)
        comparison = self._beside(comparison, rewards)
        loss = self.form(rewards, evidence, comparison.value)
        count = comparison.rows
        metrics = {"rewards/all": (rewards.detach().sum(), count), "values": (comparison.value.sum(), count)}
        return Terms(loss, comparison.weight, self.unit, metrics)

    def loss_at_start(self, comparison: Scores) -> Tensor:
        """(N,) the loss while every reward is 0. ValueError where the model decides it."""
        value = self.form.at_start(comparison.value) if self.reward.starts_at_zero else None
        if value is None:
            raise ValueError(f"{type(self.form).__name__} reads the policy's own likelihood, so the loss at the start depends on the model")
        return value
