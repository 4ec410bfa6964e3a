r"""Terms of a pair that read what a text step measures beside the log-probabilities: other conditions, rationales, teachers, fresh samples.

They are pair terms as in pairterms.py; extras.py says what each named number holds.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from diffalign.objectives.extras import EXTRAS
from diffalign.objectives.pairterms import PairTerm, Side


def check_weight(name: str, weight: float) -> None:
    """ValueError unless the weight is positive and finite."""
    if not 0 < weight < math.inf:
        raise ValueError(f"{name} must be positive and finite; got {weight}")


@dataclass(frozen=True)
class ConditionContrast(PairTerm):
    r"""-weight log sigma(beta (a - c)),   a the winner's log-ratio, c = extra["contrast"] the same response's under another condition:

    the same words, but for the wrong picture (Re-Align, arXiv:2502.13146; mDPO, arXiv:2406.11839). Equal conditions: ln 2, no gradient.
    The label's scale multiplies the pair's own margin only.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reference", "extra:contrast"})
    beta: float
    weight: float = 1.0

    def __post_init__(self):
        check_weight("the weight of the contrast", self.weight)

    @property
    def at_start(self) -> float:
        return self.weight * math.log(2)

    def __call__(self, z: Tensor, winner: Side, loser: Side) -> Tensor:
        a = winner.evidence.log_ratio[winner.rows]
        return -self.weight * F.logsigmoid(self.beta * (a - winner.named("contrast")))


@dataclass(frozen=True)
class SpectralTriplet(PairTerm):
    r"""weight * max(0, gap + margin),   gap = extra["spectral_gap"] (P,):  TARS' term in frequency (arXiv:2507.21584, released code)."""

    needs: ClassVar[frozenset[str]] = frozenset({"extra:spectral_gap"})
    weight: float
    margin: float = 0.5

    def __post_init__(self):
        check_weight("frequency_weight", self.weight)

    def __call__(self, z: Tensor, winner: Side, loser: Side) -> Tensor:
        return self.weight * F.relu(winner.of_pair("spectral_gap") + self.margin)


@dataclass(frozen=True)
class Rationale(PairTerm):
    r"""-log sigma(gamma * log pi(rationale)), of the sum over its tokens or, with `mean`, of their mean (arXiv:2407.14477, released code).

    *Deviates:* the paper is said to write gamma times the rationale's negative log-likelihood; for improbable rationales the two agree.
    """

    gamma: float
    mean: bool = False

    def __post_init__(self):
        check_weight("gamma, the weight of the rationale,", self.gamma)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"extra:rationale"} | ({"extra:rationale_size"} if self.mean else set()))

    def __call__(self, z: Tensor, winner: Side, loser: Side) -> Tensor:
        logp = winner.of_pair("rationale")
        if self.mean:
            logp = logp / winner.of_pair("rationale_size").detach().clamp(min=1)
        return -F.logsigmoid(self.gamma * logp)


@dataclass(frozen=True)
class Added(PairTerm):
    r"""weight * (extra[name] of the winner + extra[name] of the loser): a loss which the step computes itself, such as a distillation's."""

    name: str
    weight: float = 1.0

    def __post_init__(self):
        check_weight(f"the weight of {self.name}", self.weight)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({f"extra:{self.name}"})

    @property
    def at_start(self) -> float | None:
        return 0.0 if EXTRAS[self.name].starts_at_zero else None

    def __call__(self, z: Tensor, winner: Side, loser: Side) -> Tensor:
        return self.weight * (winner.named(self.name) + loser.named(self.name))


@dataclass(frozen=True)
class AddedOfPair(PairTerm):
    r"""weight * extra[name] (P,), a loss of the pair (a negative weight: a gain)."""

    name: str
    weight: float = 1.0

    def __post_init__(self):
        check_weight(f"the size of the weight of {self.name}", abs(self.weight))

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({f"extra:{self.name}"})

    @property
    def at_start(self) -> float | None:
        return 0.0 if EXTRAS[self.name].starts_at_zero else None

    def __call__(self, z: Tensor, winner: Side, loser: Side) -> Tensor:
        return self.weight * winner.of_pair(self.name)


@dataclass(frozen=True)
class Optimism(PairTerm):
    r"""weight * (o_w policy_w + o_l policy_l),   o = extra["from_reference"]: XPO's exploration, away from what the reference samples.

    Source: arXiv:2405.21046 through TRL's XPO trainer (the sum of log pi over the reference's samples).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"extra:from_reference"})
    weight: float

    def __post_init__(self):
        check_weight("alpha, the weight of the optimism,", self.weight)

    def __call__(self, z: Tensor, winner: Side, loser: Side) -> Tensor:
        sides = [side.named("from_reference").detach() * side.evidence.policy[side.rows] for side in (winner, loser)]
        return self.weight * (sides[0] + sides[1])
