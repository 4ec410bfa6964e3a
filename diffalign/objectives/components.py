r"""The parts that pair objectives are made of:  reward map -> margin -> link.

    reward map    Evidence -> (N,)                one reward a sample, zero where policy and reference agree (if it has a reference)
    link          (z (P,), probability (P,)) -> loss (P,)       and its slope dloss/dz, in closed form, for the metrics

Every link is symmetric:  link(z, p) = link(-z, 1 - p)  - swapping the two samples and the label changes nothing.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from diffalign.objectives.evidence import Evidence


class RewardMap(Protocol):
    """Evidence -> one reward a sample. `needs` names the fields of the evidence it reads besides `policy`."""

    needs: frozenset[str]

    def __call__(self, evidence: Evidence) -> Tensor: ...


class Link(Protocol):
    """z and the soft label -> loss, one a pair, and the loss's slope in z."""

    def __call__(self, z: Tensor, probability: Tensor) -> Tensor: ...

    def slope(self, z: Tensor, probability: Tensor) -> Tensor: ...


# ---- reward maps


@dataclass(frozen=True)
class LogRatio:
    r"""r = policy - reference, the implicit reward of arXiv:2305.18290, eq. 5 (without its beta). Sums stay sums."""

    needs: ClassVar[frozenset[str]] = frozenset({"reference"})

    def __call__(self, evidence: Evidence) -> Tensor:
        return evidence.log_ratio


@dataclass(frozen=True)
class PolicyEvidence:
    r"""r = policy: reference-free (CPO, arXiv:2401.08417)."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, evidence: Evidence) -> Tensor:
        return evidence.policy


@dataclass(frozen=True)
class LengthMean:
    r"""r = inner / size: the mean over a sample's tokens (of PolicyEvidence: SimPO, arXiv:2405.14734). A denoising error is a mean
    already and has size 1.

    Raises:
        ValueError: if the evidence has no size.
    """

    inner: RewardMap = field(default_factory=LogRatio)

    @property
    def needs(self) -> frozenset[str]:
        return self.inner.needs | {"size"}

    def __call__(self, evidence: Evidence) -> Tensor:
        if evidence.size is None:
            raise ValueError("a length mean needs the size of every sample and the evidence has size=None: "
                             "give the token counts, or ones where the evidence is a mean already")
        return self.inner(evidence) / evidence.size


# ---- links


@dataclass(frozen=True)
class Logistic:
    r"""loss = -q log sigma(z) - (1 - q) log sigma(-z),   slope = sigma(z) - q,   q = p (1 - eps) + (1 - p) eps.

    The cross-entropy of Bernoulli(q) to Bernoulli(sigma(z)); its least value is at z = logit(q). With p = 1 and label smoothing
    eps = 0 it is DPO (arXiv:2305.18290, eq. 7), with eps > 0 conservative DPO, and with p a probability the soft-label form.

    Raises:
        ValueError: unless 0 <= label_smoothing < 1/2.
    """

    label_smoothing: float = 0.0

    def __post_init__(self):
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing is the share of labels taken to be wrong, in [0, 0.5); got {self.label_smoothing}")

    def target(self, probability: Tensor) -> Tensor:
        """q (P,): the label after smoothing."""
        return probability * (1 - self.label_smoothing) + (1 - probability) * self.label_smoothing

    def __call__(self, z: Tensor, probability: Tensor) -> Tensor:
        q = self.target(probability)
        return -q * F.logsigmoid(z) - (1 - q) * F.logsigmoid(-z)

    def slope(self, z: Tensor, probability: Tensor) -> Tensor:
        return torch.sigmoid(z) - self.target(probability)


@dataclass(frozen=True)
class Hinge:
    r"""loss = p max(0, 1 - z) + (1 - p) max(0, 1 + z),   slope = (1 - p) [z > -1] - p [z < 1]   (arXiv:2309.06657, its hinge loss).

    The pair stops teaching at z = 1. The corner z = 1 itself counts as flat, as in `relu`.
    """

    def __call__(self, z: Tensor, probability: Tensor) -> Tensor:
        return probability * F.relu(1 - z) + (1 - probability) * F.relu(1 + z)

    def slope(self, z: Tensor, probability: Tensor) -> Tensor:
        return (1 - probability) * (z > -1) - probability * (z < 1)


@dataclass(frozen=True)
class Squared:
    r"""loss = ((z - (p - 1/2)) / tau)^2,   slope = 2 (z - (p - 1/2)) / tau^2.

    With z = tau h it is IPO, (h - 1/(2 tau))^2 for p = 1 (arXiv:2310.12036); h is the margin before beta, so tau is the row's beta.
    For p < 1 the target is that of the symmetrised regression, h = (p - 1/2)/tau: a tie pulls the margin to zero.

    Raises:
        ValueError: unless tau > 0.
    """

    tau: float

    def __post_init__(self):
        if not self.tau > 0:
            raise ValueError(f"tau must be positive; got {self.tau}")

    def __call__(self, z: Tensor, probability: Tensor) -> Tensor:
        return ((z - (probability - 0.5)) / self.tau) ** 2

    def slope(self, z: Tensor, probability: Tensor) -> Tensor:
        return 2 * (z - (probability - 0.5)) / self.tau**2
