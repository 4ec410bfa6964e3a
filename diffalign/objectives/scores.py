r"""Reward maps that bend the evidence: f-divergences' scores of a ratio, odds, powers, and MaPO's score of an error."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from diffalign.objectives.evidence import Evidence
from diffalign.objectives.rewards import LengthMean, LogRatio, PolicyEvidence, RewardMap

STEEPEST = 30.0  # beyond this exponent an exponential goes on as its tangent: e^30 a unit


@dataclass(frozen=True)
class Bent(RewardMap):
    """Base: a function of another map, 0 where that is 0."""

    inner: RewardMap = field(default_factory=LogRatio)

    @property
    def needs(self) -> frozenset[str]:
        return self.inner.needs

    @property
    def starts_at_zero(self) -> bool:
        return self.inner.starts_at_zero


@dataclass(frozen=True)
class Power(Bent):
    r"""r = (u^k - 1)/k,   u = exp(inner),   k = `power`;  k = 0 is inner itself.

    With a log-ratio inside it is f'(u) of the alpha-divergence, k = alpha - 1 (f-DPO, arXiv:2309.16240): forward KL, 1 - 1/u, at k = -1,
    reverse KL, log u, at k = 0. With a mean log-probability inside and k = -alpha it is AlphaPO's reward (arXiv:2501.03884).
    The constant of f' is kept, so that r = 0 at u = 1; a difference of two does not feel it, everything else does.

    *Deviates:* where k * inner > 30 the exponential goes on as its tangent, so that a response of wildly different probability gives a
    finite loss and still a gradient; TRL clamps the exponent at 80 in its alpha branch and not at all in its forward-KL branch.

    Raises:
        ValueError: unless power is finite.
    """

    power: float = 0.0

    def __post_init__(self):
        if not math.isfinite(self.power):
            raise ValueError(f"the power must be finite; got {self.power}")

    def __call__(self, evidence: Evidence) -> Tensor:
        inner = self.inner(evidence)
        if self.power == 0:
            return inner
        x = self.power * inner
        return (torch.expm1(x.clamp(max=STEEPEST)) + math.exp(STEEPEST) * F.relu(x - STEEPEST)) / self.power


@dataclass(frozen=True)
class JensenShannon(Bent):
    r"""r = log(2u/(1 + u)) = log 2 + log sigma(inner),   u = exp(inner): f' of the Jensen-Shannon divergence (f-DPO, arXiv:2309.16240)."""

    def __call__(self, evidence: Evidence) -> Tensor:
        return math.log(2) + F.logsigmoid(self.inner(evidence))


@dataclass(frozen=True)
class Odds(Bent):
    r"""r = log P/(1 - P),   P = exp(inner):  log-odds of a mean log-probability m: m - log(1 - e^m) (ORPO, arXiv:2403.07691, eq. 4).

    For denoising evidence P = exp(-error/2). m is taken as at most -1e-6: at 0 the odds are infinite. log(1 - e^m) is computed as
    log(-expm1(m)) near 0 and log1p(-e^m) elsewhere.
    """

    inner: RewardMap = field(default_factory=lambda: LengthMean(PolicyEvidence()))

    @property
    def starts_at_zero(self) -> bool:
        return False

    def __call__(self, evidence: Evidence) -> Tensor:
        m = self.inner(evidence).clamp(max=-1e-6)
        near = m > -math.log(2)
        close, far = torch.where(near, m, -1.0), torch.where(near, -1.0, m)  # each branch sees only numbers it is finite for
        return m - torch.where(near, (-torch.expm1(close)).log(), torch.log1p(-far.exp()))


@dataclass(frozen=True)
class Penalised(Bent):
    r"""r = inner - penalty * max(0, -inner):  a log-ratio below 0 counts 1 + penalty times (DPOP's chosen side, arXiv:2402.13228).

    Raises:
        ValueError: unless penalty is at least 0 and finite.
    """

    penalty: float = 0.0

    def __post_init__(self):
        if not 0 <= self.penalty < math.inf:
            raise ValueError(f"the penalty must be at least 0 and finite; got {self.penalty}")

    def __call__(self, evidence: Evidence) -> Tensor:
        inner = self.inner(evidence)
        return inner - self.penalty * F.relu(-inner)


@dataclass(frozen=True)
class ErrorRatio(RewardMap):
    r"""r = phi(l)^power - 1,   phi(l) = s l / (exp(s l) - 1),   l = -2 * policy: MaPO's score of an error (arXiv:2406.06424).

    phi falls from 1 at no error to 0, convex; r ~ -power * s l / 2 for small errors. The -1 cancels in the margin, makes a perfect
    prediction's reward 0, and keeps the digits that `phi - phi` loses when both are near 1. Computed as expm1(power * log phi); near
    zero log phi = -x/2 - x^2/24 + x^4/2880 - x^6/181440, x = s l, so that value and gradient are finite at l = 0 and at l = infinity.

    Raises:
        ValueError: unless s and power are positive.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    starts_at_zero: ClassVar[bool] = False
    snr: float
    power: float = 1.0

    def __post_init__(self):
        if not (self.snr > 0 and self.power > 0):
            raise ValueError(f"snr and power must be positive; got {self.snr} and {self.power}")

    def __call__(self, evidence: Evidence) -> Tensor:
        x = self.snr * evidence.error
        near = x.abs() < 0.1
        far = torch.where(near, 1.0, x)  # each branch sees only numbers it is finite for, so no nan comes back through `where`
        close = torch.where(near, x, 0.0)
        square = close**2
        series = -close / 2 - square / 24 + square**2 / 2880 - square**3 / 181440
        log_phi = torch.where(near, series, far.log() - far - (-torch.expm1(-far)).log())
        return torch.expm1(self.power * log_phi)
