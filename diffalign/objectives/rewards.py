r"""Reward maps: Evidence -> one reward a sample, the first step of  reward map -> margin -> link. Here the linear ones; those that bend
the evidence are in scores.py, those that ask which side of a pair a sample is on in sides.py."""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from diffalign.objectives.evidence import Evidence
from diffalign.objectives.extras import EXTRAS


class RewardMap:
    """Evidence -> one reward a sample, (N,).

    `needs` names the fields of the evidence it reads besides `policy`; `starts_at_zero`: whether it is 0 where policy and reference agree.
    """

    needs: frozenset[str]
    starts_at_zero: bool

    def __call__(self, evidence: Evidence) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class LogRatio(RewardMap):
    r"""r = policy - reference, the implicit reward of arXiv:2305.18290, eq. 5 (without its beta). Sums stay sums."""

    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    starts_at_zero: ClassVar[bool] = True

    def __call__(self, evidence: Evidence) -> Tensor:
        return evidence.log_ratio


@dataclass(frozen=True)
class PolicyEvidence(RewardMap):
    r"""r = policy: reference-free (CPO, arXiv:2401.08417)."""

    needs: ClassVar[frozenset[str]] = frozenset()
    starts_at_zero: ClassVar[bool] = False

    def __call__(self, evidence: Evidence) -> Tensor:
        return evidence.policy


@dataclass(frozen=True)
class ScaledReference(RewardMap):
    r"""r = policy - share * reference:  DPO^gamma (arXiv:2405.19534, from reviews): 1 is LogRatio, 0 PolicyEvidence.

    Raises:
        ValueError: unless share is finite.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    share: float

    def __post_init__(self):
        if not abs(self.share) < float("inf"):
            raise ValueError(f"the share of the reference must be finite; got {self.share}")

    @property
    def starts_at_zero(self) -> bool:
        return self.share == 1

    def __call__(self, evidence: Evidence) -> Tensor:
        return evidence.policy - self.share * evidence.the_reference


@dataclass(frozen=True)
class LengthMean(RewardMap):
    r"""r = inner / size: the mean over a sample's tokens (of PolicyEvidence: SimPO, arXiv:2405.14734). A denoising error is a mean
    already and has size 1.

    Raises:
        ValueError: on call, if the evidence has no size, or a sample has none.
    """

    inner: RewardMap = field(default_factory=LogRatio)

    @property
    def needs(self) -> frozenset[str]:
        return self.inner.needs | {"size"}

    @property
    def starts_at_zero(self) -> bool:
        return self.inner.starts_at_zero

    def __call__(self, evidence: Evidence) -> Tensor:
        return self.inner(evidence) / evidence.sizes


@dataclass(frozen=True)
class Named(RewardMap):
    r"""r = extra[name] (N,), a log-ratio which the step has summed in its own way (extras.py), in place of the evidence's."""

    name: str

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"reference", f"extra:{self.name}"})

    @property
    def starts_at_zero(self) -> bool:
        return EXTRAS[self.name].starts_at_zero

    def __call__(self, evidence: Evidence) -> Tensor:
        return evidence.named(self.name, len(evidence.the_reference))


@dataclass(frozen=True)
class Plus(RewardMap):
    r"""r = inner + weight * extra[name], with the extra's gradient unless `detach`."""

    inner: RewardMap
    name: str
    weight: float = 1.0
    detach: bool = False

    @property
    def needs(self) -> frozenset[str]:
        return self.inner.needs | {f"extra:{self.name}"}

    @property
    def starts_at_zero(self) -> bool:
        return self.inner.starts_at_zero and EXTRAS[self.name].starts_at_zero

    def __call__(self, evidence: Evidence) -> Tensor:
        extra = evidence.named(self.name, len(evidence.policy))
        return self.inner(evidence) + self.weight * (extra.detach() if self.detach else extra)
