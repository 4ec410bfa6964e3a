r"""Links: what a margin costs, the last step of  reward map -> margin -> link.

    link          (z (P,), probability (P,)) -> loss (P,)       and its slope dloss/dz, in closed form, for the metrics

Every link is symmetric:  link(z, p) = link(-z, 1 - p)  - swapping the two samples and the label changes nothing. Smoothing of labels,
q = p (1 - eps) + (1 - p) eps, is `smooth` wherever a link offers it. Links to a gap of rewards are in gaps.py.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor


class Link:
    """z and the soft label -> loss, one a pair, and the loss's slope in z. `soft` says whether it can read a probability; `reads_gap`,
    whether it is given the comparison's margin, a gap of rewards, in the probability's place, and z without that margin."""

    soft: ClassVar[bool] = True
    reads_gap: ClassVar[bool] = False

    def __call__(self, z: Tensor, probability: Tensor) -> Tensor:
        raise NotImplementedError

    def slope(self, z: Tensor, probability: Tensor) -> Tensor:
        raise NotImplementedError


def smooth(probability: Tensor, label_smoothing: float) -> Tensor:
    """q = p (1 - eps) + (1 - p) eps: the label after smoothing."""
    return probability * (1 - label_smoothing) + (1 - probability) * label_smoothing


def check_smoothing(label_smoothing: float) -> None:
    """ValueError unless 0 <= label_smoothing < 1/2."""
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing is the share of labels taken to be wrong, in [0, 0.5); got {label_smoothing}")


@dataclass(frozen=True)
class Logistic(Link):
    r"""loss = -q log sigma(z) - (1 - q) log sigma(-z),   slope = sigma(z) - q,   q = p (1 - eps) + (1 - p) eps.

    The cross-entropy of Bernoulli(q) to Bernoulli(sigma(z)); its least value is at z = logit(q). With p = 1 and label smoothing
    eps = 0 it is DPO (arXiv:2305.18290, eq. 7), with eps > 0 conservative DPO, and with p a probability the soft-label form.

    Raises:
        ValueError: unless 0 <= label_smoothing < 1/2.
    """

    label_smoothing: float = 0.0

    def __post_init__(self):
        check_smoothing(self.label_smoothing)

    def __call__(self, z: Tensor, probability: Tensor) -> Tensor:
        q = smooth(probability, self.label_smoothing)
        return -q * F.logsigmoid(z) - (1 - q) * F.logsigmoid(-z)

    def slope(self, z: Tensor, probability: Tensor) -> Tensor:
        return torch.sigmoid(z) - smooth(probability, self.label_smoothing)


@dataclass(frozen=True)
class Hinge(Link):
    r"""loss = p max(0, 1 - z) + (1 - p) max(0, 1 + z),   slope = (1 - p) [z > -1] - p [z < 1]   (arXiv:2309.06657, its hinge loss).

    The pair stops teaching at z = 1. The corner z = 1 itself counts as flat, as in `relu`.
    """

    def __call__(self, z: Tensor, probability: Tensor) -> Tensor:
        return probability * F.relu(1 - z) + (1 - probability) * F.relu(1 + z)

    def slope(self, z: Tensor, probability: Tensor) -> Tensor:
        return (1 - probability) * (z > -1) - probability * (z < 1)


@dataclass(frozen=True)
class Squared(Link):
    r"""loss = ((z - (q - 1/2)) / tau)^2,   slope = 2 (z - (q - 1/2)) / tau^2,   q = p (1 - eps) + (1 - p) eps.

    With z = tau h it is IPO, (h - 1/(2 tau))^2 for p = 1 and no smoothing (arXiv:2310.12036); h is the margin before beta, so tau is the
    row's beta. For q < 1 the target is that of the symmetrised regression, h = (q - 1/2)/tau: a tie pulls the margin to zero.

    Raises:
        ValueError: unless tau > 0 and 0 <= label_smoothing < 1/2.
    """

    tau: float
    label_smoothing: float = 0.0

    def __post_init__(self):
        check_smoothing(self.label_smoothing)
        if not self.tau > 0:
            raise ValueError(f"tau must be positive; got {self.tau}")

    def __call__(self, z: Tensor, probability: Tensor) -> Tensor:
        return ((z - (smooth(probability, self.label_smoothing) - 0.5)) / self.tau) ** 2

    def slope(self, z: Tensor, probability: Tensor) -> Tensor:
        return 2 * (z - (smooth(probability, self.label_smoothing) - 0.5)) / self.tau**2


@dataclass(frozen=True)
class Regression(Link):
    r"""loss = z^2,   slope = 2 z:  beta * (r_chosen - r_rejected) is regressed on the comparison's `margin`, the gap between two rewards.

    A gap says more than a probability, so a soft label is refused (`soft`). Swapping the samples turns the gap's sign and changes nothing.
    """

    soft: ClassVar[bool] = False

    def __call__(self, z: Tensor, probability: Tensor) -> Tensor:
        return z**2

    def slope(self, z: Tensor, probability: Tensor) -> Tensor:
        return 2 * z


@dataclass(frozen=True)
class ReverseKL(Link):
    r"""loss = KL( Bernoulli(sigma(z)) || Bernoulli(q) ),   slope = sigma(z) sigma(-z) (z - logit q),   q = p (1 - alpha) + (1 - p) alpha.

    Logistic is the cross-entropy the other way round. Its least value, zero, is at z = logit q as there; it is not convex: a pair far on
    the wrong side teaches little. `exact` takes 1 - q from the other label and not from q: for small alpha it keeps float32's digits, which
    the row dmpo does without, so as not to change.

    Raises:
        ValueError: unless 0 < alpha < 1/2. At alpha = 0 a plain label makes every finite margin infinitely wrong.
    """

    alpha: float
    exact: bool = False

    def __post_init__(self):
        if not 0 < self.alpha < 0.5:
            raise ValueError(f"alpha, the share of labels taken to be wrong, keeps the loss finite and lies in (0, 0.5); got {self.alpha}")

    def __call__(self, z: Tensor, probability: Tensor) -> Tensor:
        q = smooth(probability, self.alpha)
        return torch.sigmoid(z) * (F.logsigmoid(z) - q.log()) + torch.sigmoid(-z) * (F.logsigmoid(-z) - self._log_other(q, probability))

    def slope(self, z: Tensor, probability: Tensor) -> Tensor:
        q = smooth(probability, self.alpha)
        return torch.sigmoid(z) * torch.sigmoid(-z) * (z - q.log() + self._log_other(q, probability))

    def _log_other(self, q: Tensor, probability: Tensor) -> Tensor:
        """log(1 - q)"""
        return smooth(1 - probability, self.alpha).log() if self.exact else torch.log1p(-q)


@dataclass(frozen=True)
class Sigmoid(Link):
    r"""loss = p sigma(-z) + (1 - p) sigma(z),   slope = (1 - 2 p) sigma(z) sigma(-z):  one minus KTO's value (arXiv:2402.01306).

    Bounded, so that a label which is far out on either side stops teaching.
    """

    def __call__(self, z: Tensor, probability: Tensor) -> Tensor:
        return probability * torch.sigmoid(-z) + (1 - probability) * torch.sigmoid(z)

    def slope(self, z: Tensor, probability: Tensor) -> Tensor:
        return (1 - 2 * probability) * torch.sigmoid(z) * torch.sigmoid(-z)


@dataclass(frozen=True)
class Robust(Link):
    r"""loss = [-(1 - eps) log sigma(z) + eps log sigma(-z)] / (1 - 2 eps)  of a plain label:  provably robust DPO (arXiv:2403.00409).

    slope = sigma(z) - (p - eps)/(1 - 2 eps). If labels are flipped with probability eps, its mean over the flips is the logistic loss of
    the true label. Unbounded below: it falls with slope -eps/(1 - 2 eps) for ever.

    Raises:
        ValueError: unless 0 <= label_smoothing < 1/2.
    """

    label_smoothing: float

    def __post_init__(self):
        check_smoothing(self.label_smoothing)

    def _target(self, probability: Tensor) -> Tensor:
        """(p - eps)/(1 - 2 eps): the label before the noise, which may lie outside [0, 1]."""
        return (probability - self.label_smoothing) / (1 - 2 * self.label_smoothing)

    def __call__(self, z: Tensor, probability: Tensor) -> Tensor:
        q = self._target(probability)
        return -q * F.logsigmoid(z) - (1 - q) * F.logsigmoid(-z)

    def slope(self, z: Tensor, probability: Tensor) -> Tensor:
        return torch.sigmoid(z) - self._target(probability)


@dataclass(frozen=True)
class DiscoPOP(Link):
    r"""loss = (1 - m) (-log sigma(z)) + m exp(-z),  m = sigma(z/tau)  of a plain label:  DiscoPOP (arXiv:2406.08414, eq. 5, as in TRL).

    Logistic where the pair is wrong, exponential where it is right; not convex in between. m exp(-z) is computed as
    exp(log m - z), which stays finite for every z. A soft label mixes the two directions.

    Raises:
        ValueError: unless 0 < tau <= 1. Above 1 the exponential outgrows m on the wrong side.
    """

    tau: float = 0.05

    def __post_init__(self):
        if not 0 < self.tau <= 1:
            raise ValueError(f"tau, the width of the change from logistic to exponential, must lie in (0, 1]; got {self.tau}")

    def _one(self, z: Tensor) -> Tensor:
        x = z / self.tau
        return -torch.sigmoid(-x) * F.logsigmoid(z) + (F.logsigmoid(x) - z).exp()

    def _one_slope(self, z: Tensor) -> Tensor:
        x = z / self.tau
        off, step = torch.sigmoid(-x), torch.sigmoid(x) * torch.sigmoid(-x) / self.tau
        return step * F.logsigmoid(z) - off * torch.sigmoid(-z) + (F.logsigmoid(x) - z).exp() * (off / self.tau - 1)

    def __call__(self, z: Tensor, probability: Tensor) -> Tensor:
        return probability * self._one(z) + (1 - probability) * self._one(-z)

    def slope(self, z: Tensor, probability: Tensor) -> Tensor:
        return probability * self._one_slope(z) - (1 - probability) * self._one_slope(-z)
