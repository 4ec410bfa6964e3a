r"""What a single sample's reward is measured against, where it has no partner: one number for all samples of a call, without gradient.

    baseline(rewards (N,), evidence, labels, beta, all_reduce) -> scalar, in the units of `rewards` (after beta)

Statistics are sums, so that `all_reduce` makes those of all ranks. It is called in training calls only (rewards with gradient), once a
call on every rank; validation takes its own batch, or what training has left, and leaves no trace.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from diffalign.objectives.evidence import Evidence
from diffalign.objectives.labels import Labels
from diffalign.objectives.objective import AllReduce


class Baseline:
    """`needs` as of an objective; `state_dict` and `load_state_dict` as there."""

    needs: frozenset[str] = frozenset()

    def __call__(self, rewards: Tensor, evidence: Evidence, labels: Labels, beta: float, all_reduce: AllReduce) -> Tensor:
        raise NotImplementedError

    def state_dict(self) -> dict[str, float]:
        return {}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state and was given {', '.join(state)}: was it saved by another objective?")


@dataclass(frozen=True)
class Zero(Baseline):
    """0: every reward is measured against the reference itself."""

    def __call__(self, rewards: Tensor, evidence: Evidence, labels: Labels, beta: float, all_reduce: AllReduce) -> Tensor:
        return rewards.new_zeros(())


@dataclass(frozen=True)
class BatchMean(Baseline):
    """max(0, mean of the rewards): Diffusion-KTO's estimate of the divergence, from the labelled samples themselves (as released)."""

    def __call__(self, rewards: Tensor, evidence: Evidence, labels: Labels, beta: float, all_reduce: AllReduce) -> Tensor:
        mean = torch.stack([rewards.detach().sum(), rewards.new_tensor(float(len(rewards)))])
        total, count = all_reduce(mean) if rewards.requires_grad else mean
        return (total / count.clamp(min=1)).clamp(min=0)


@dataclass(frozen=True)
class MismatchedMean(Baseline):
    """max(0, beta * mean of extra["mismatched"]): KTO's estimate of the divergence, from responses after the prompts of other records
    (arXiv:2402.01306). The clamp comes after the mean over ranks."""

    needs: ClassVar[frozenset[str]] = frozenset({"extra:mismatched"})

    def __call__(self, rewards: Tensor, evidence: Evidence, labels: Labels, beta: float, all_reduce: AllReduce) -> Tensor:
        values = evidence.named("mismatched", len(rewards)).detach()
        mean = torch.stack([values.sum(), values.new_tensor(float(len(values)))])
        total, count = all_reduce(mean) if rewards.requires_grad else mean
        return (beta * total / count.clamp(min=1)).clamp(min=0).to(rewards.dtype)


@dataclass
class RunningMean(Baseline):
    r"""delta, a mean over every training call so far, this one included: BCO's reward shift (arXiv:2404.04656).

    by_class: the mean of two running means, that of the liked and that of the disliked, (E+[r] + E-[r])/2; a class not seen is left out.
    Else: one running mean over all samples, as in TRL's BCO trainer.

    The paper's delta is that of the first kind by our notes; how it was averaged over steps was not verified.
    """

    STATE: ClassVar[tuple[str, ...]] = ("liked_reward", "liked_count", "disliked_reward", "disliked_count")
    by_class: bool = True
    sums: Tensor | None = field(default=None, compare=False, repr=False)  # (2, 2) float64: reward and count, of the liked and the disliked

    def __call__(self, rewards: Tensor, evidence: Evidence, labels: Labels, beta: float, all_reduce: AllReduce) -> Tensor:
        sums = self.sums
        if rewards.requires_grad:
            values = rewards.detach().double()
            liked = labels.desirable.double()
            now = torch.stack([torch.stack([(values * side).sum(), side.sum()]) for side in (liked, 1 - liked)])
            now = all_reduce(now)
            self.sums = sums = now if sums is None else sums.to(now) + now
        if sums is None:
            return rewards.new_zeros(())
        sums = sums.to(rewards.device)
        if not self.by_class:
            sums = sums.sum(0, keepdim=True)
        means = sums[:, 0] / sums[:, 1].clamp(min=1)
        return (means.sum() / (sums[:, 1] > 0).sum().clamp(min=1)).to(rewards.dtype)

    def state_dict(self) -> dict[str, float]:
        if self.sums is None:
            return {}
        return dict(zip(self.STATE, self.sums.flatten().tolist(), strict=True))

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        if not state:
            self.sums = None
            return
        if set(state) != set(self.STATE):
            raise ValueError(f"a running mean's state is {', '.join(self.STATE)}; got {', '.join(state)}: is it another objective's?")
        self.sums = torch.tensor([state[name] for name in self.STATE], dtype=torch.float64).view(2, 2)
