r"""Links to a gap of rewards: they read the comparison's margin as R_chosen - R_rejected, in the scorer's units, and no probability.

    link(z, gap) -> loss (P,)        z = beta * scale * (r_chosen - r_rejected), without the margin

Symmetric: link(z, gap) = link(-z, -gap). `eta` turns a gap of rewards into a log-odds; p = sigma(eta gap) is Bradley and Terry's.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from diffalign.objectives.links import Link


@dataclass(frozen=True)
class GapLink(Link):
    """Base: `eta` is the scale of the rewards.

    Raises:
        ValueError: unless eta is positive and finite.
    """

    soft: ClassVar[bool] = False
    reads_gap: ClassVar[bool] = True
    eta: float = 1.0

    def __post_init__(self):
        if not 0 < self.eta < math.inf:
            raise ValueError(f"eta scales the gap of two rewards and must be positive and finite; got {self.eta}")


@dataclass(frozen=True)
class GapRegression(GapLink):
    r"""loss = (z - eta gap)^2,   slope = 2 (z - eta gap):  REBEL (arXiv:2404.16767) and NeMo-Aligner's rpo_sq."""

    def __call__(self, z: Tensor, gap: Tensor) -> Tensor:
        return (z - self.eta * gap) ** 2

    def slope(self, z: Tensor, gap: Tensor) -> Tensor:
        return 2 * (z - self.eta * gap)


@dataclass(frozen=True)
class GapKL(GapLink):
    r"""loss = KL( Bernoulli(p) || Bernoulli(sigma(z)) ),  p = sigma(eta gap),   slope = sigma(z) - p:  NeMo-Aligner's rpo_bwd_kl.

    The logistic loss of the soft label p less p's entropy, so that the least value is 0, at z = eta gap.
    """

    def __call__(self, z: Tensor, gap: Tensor) -> Tensor:
        return bernoulli_kl(self.eta * gap, z)

    def slope(self, z: Tensor, gap: Tensor) -> Tensor:
        return torch.sigmoid(z) - torch.sigmoid(self.eta * gap)


@dataclass(frozen=True)
class GapReverseKL(GapLink):
    r"""loss = KL( Bernoulli(sigma(z)) || Bernoulli(p) ),  p = sigma(eta gap),   slope = sigma(z) sigma(-z) (z - eta gap):  rpo_fwd_kl."""

    def __call__(self, z: Tensor, gap: Tensor) -> Tensor:
        return bernoulli_kl(z, self.eta * gap)

    def slope(self, z: Tensor, gap: Tensor) -> Tensor:
        return torch.sigmoid(z) * torch.sigmoid(-z) * (z - self.eta * gap)


def bernoulli_kl(x: Tensor, y: Tensor) -> Tensor:
    """KL( Bernoulli(sigma(x)) || Bernoulli(sigma(y)) ) from the log-odds, which lose nothing where a probability rounds to 1."""
    return torch.sigmoid(x) * (F.logsigmoid(x) - F.logsigmoid(y)) + torch.sigmoid(-x) * (F.logsigmoid(-x) - F.logsigmoid(-y))
