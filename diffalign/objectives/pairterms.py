r"""Losses of a pair that are not a function of its margin alone: they are added to the link, or stand in its place.

    term(z, winner, loser) -> (P,)        for the label "winner beats loser"; z is the margin in that direction

The objective takes p * term(z, chosen, rejected) + (1 - p) * term(-z, rejected, chosen), so soft labels mean what they do in a link.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from diffalign.objectives.evidence import Evidence
from diffalign.objectives.links import Link
from diffalign.objectives.objective import AllReduce, alone


@dataclass(frozen=True)
class Side:
    """One side of P pairs: the rows (P,) of the evidence it is, and its rewards (P,) times beta and the label's scale."""

    evidence: Evidence
    rows: Tensor
    reward: Tensor

    @property
    def error(self) -> Tensor:
        """(P,) l = -2 * policy."""
        return self.evidence.error[self.rows]

    def named(self, name: str) -> Tensor:
        """(P,) of the further scalar `name` (N,)."""
        return self.evidence.named(name, len(self.evidence.policy))[self.rows]

    def of_pair(self, name: str) -> Tensor:
        """(P,) the further scalar `name` (P,)."""
        return self.evidence.named(name, len(self.rows))


class PairTerm:
    """`needs` as in an objective; `at_start`: its value while policy and reference are equal, None where the model decides it; `reads`:
    what of the labels it reads besides probability and weight, "margin" with z, "scale" with z or a side's reward."""

    needs: frozenset[str] = frozenset()
    at_start: float | None = None
    reads: frozenset[str] = frozenset()

    def __call__(self, z: Tensor, winner: Side, loser: Side) -> Tensor:
        raise NotImplementedError


OF_Z = frozenset({"scale", "margin"})


@dataclass(frozen=True)
class WinnerError(PairTerm):
    r"""weight * l^w: plain denoising of the winner, as in MaPO, and in CRPO's L_DPO + L_FM (TangoFlux, not verified). For text,
    weight * (-2 log pi(y^w)).

    Raises:
        ValueError: unless weight is positive.
    """

    weight: float = 1.0

    def __post_init__(self):
        if not self.weight > 0:
            raise ValueError(f"the weight of the winner's error must be positive, or 0 for none; got {self.weight}")

    def __call__(self, z: Tensor, winner: Side, loser: Side) -> Tensor:
        return self.weight * winner.error


@dataclass(frozen=True)
class Anchor(PairTerm):
    r"""weight/2 * (drift^w + drift^l): holds both predictions near the reference's (SimpleTuner's anchor_alpha; not from a paper).

    Raises:
        ValueError: unless weight is positive.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reference", "extra:drift"})
    at_start: ClassVar[float] = 0.0
    weight: float

    def __post_init__(self):
        if not self.weight > 0:
            raise ValueError(f"anchor_weight must be positive, or 0 for none; got {self.weight}")

    def __call__(self, z: Tensor, winner: Side, loser: Side) -> Tensor:
        return self.weight / 2 * (winner.named("drift") + loser.named("drift"))


@dataclass(frozen=True)
class LinearWeight(PairTerm):
    r"""w (l^w - l^l),   w = sg[clamp(1/2 - 0.4 z, eta, 1 - eta)]:  Linear-DPO (arXiv:2605.21123; the released code, not its equations).

    The release writes the weight 0.2 * beta * Delta + 0.5, and z = -beta/2 * Delta. It starts at 1/2, as a logistic link's factor does.

    Raises:
        ValueError: unless 0 <= eta < 1/2.
    """

    reads: ClassVar[frozenset[str]] = OF_Z
    eta: float = 0.0

    def __post_init__(self):
        if not 0 <= self.eta < 0.5:
            raise ValueError(f"eta is the least weight of a pair, in [0, 0.5); got {self.eta}")

    def weight(self, z: Tensor) -> Tensor:
        """(P,) how much a pair teaches, detached."""
        return (0.5 - 0.4 * z.detach()).clamp(self.eta, 1 - self.eta)

    def __call__(self, z: Tensor, winner: Side, loser: Side) -> Tensor:
        return self.weight(z) * (winner.error - loser.error)


@dataclass(frozen=True)
class ScoreMatching(PairTerm):
    r"""mean(((e - y) - k (e - e_ref))^2) of the winner,   k = beta sigma(-z):  DSPO, the released code's SD 1.5 branch (huaishengzhu/DSPO).

    With l = mean (e - y)^2, cross = mean (e - y)(e - e_ref) and drift = mean (e - e_ref)^2 it is  l - 2 k cross + k^2 drift,  from scalars
    alone. The gradient flows through k, as released. e is the prediction, y its target, of whatever kind the model predicts.

    *Deviates:* the release's SDXL branch is another heuristic (it switches on the batch's drift reaching 0.1) and is not offered. Not
    verified against the paper, whose margin may not have the one half (its repository's issue 3).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reference", "extra:drift", "extra:cross"})
    reads: ClassVar[frozenset[str]] = OF_Z
    beta: float

    def __call__(self, z: Tensor, winner: Side, loser: Side) -> Tensor:
        k = self.beta * torch.sigmoid(-z)
        return winner.error - 2 * k * winner.named("cross") + k**2 * winner.named("drift")


@dataclass(frozen=True)
class Points(PairTerm):
    r"""weight * [ like link(x_w; 1) + unlike link(x_w; 0) + dislike link(x_l; 0) ],   x = beta * scale * r of a side, without z.

    The two sides are judged by themselves, each against 0, so that the sum of their rewards is held too (a margin is blind to it):

        Logistic (1, 0, 1)        BCO of a pair, -log sigma(x_w) - log sigma(-x_l)                  (arXiv:2404.04656, its shift 0)
        Logistic (1, 1/2, 1/2)    NCA, -log sigma(x_w) - 1/2 log sigma(-x_w) - 1/2 log sigma(-x_l)  (arXiv:2402.05369)
        Sigmoid  (1, 0, 1)        APO-zero, 1 - sigma(x_w) + sigma(x_l)                             (arXiv:2408.06266, eq. 7)
        Squared  (1, 0, 1)        SPPO, (r_w - 1/(2 beta))^2 + (r_l + 1/(2 beta))^2, tau = beta     (arXiv:2405.00675)

    Raises:
        ValueError: for a negative weight.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"scale"})
    link: Link
    like: float = 1.0
    unlike: float = 0.0
    dislike: float = 1.0
    weight: float = 1.0

    def __post_init__(self):
        if min(self.like, self.unlike, self.dislike, self.weight) < 0:
            raise ValueError(f"the weights of points must be at least 0; got {self}")

    @property
    def at_start(self) -> float:
        zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        up, down = self.link(zero, one).item(), self.link(zero, 1 - one).item()
        return self.weight * (self.like * up + (self.unlike + self.dislike) * down)

    def __call__(self, z: Tensor, winner: Side, loser: Side) -> Tensor:
        one = torch.ones_like(z)
        parts = ((self.like, winner, one), (self.unlike, winner, 1 - one), (self.dislike, loser, 1 - one))
        return self.weight * sum(share * self.link(side.reward, label) for share, side, label in parts if share)


@dataclass(frozen=True)
class Likelihood(PairTerm):
    r"""chosen * nll(winner) - rejected * nll(loser),  nll of a sample by `per`:

        "sequence"   -policy, the sum over its tokens (half of a denoising error)
        "token"      -policy/size, the mean over its tokens
        "batch"      -policy * pairs/tokens of all winners of the call: averaged over pairs it is the mean over all tokens, as in TRL

    With chosen = 1 it is plain likelihood (the SFT term of CPO, ORPO, RPO); with `rejected` > 0 it is REDI (arXiv:2505.24850),
    unbounded below. Pairs and tokens of "batch" are counted over all ranks, in a training call. `joint`: of prompt and response tokens.

    *Deviates:* "batch" counts a call, not the accumulated step; TRL counts a call of one rank.

    Raises:
        ValueError: for another `per`, or weights which are negative or both 0.
    """

    PER: ClassVar[tuple[str, ...]] = ("sequence", "token", "batch")
    chosen: float = 1.0
    rejected: float = 0.0
    per: str = "token"
    joint: bool = False
    all_reduce: AllReduce = alone

    def __post_init__(self):
        if self.per not in self.PER:
            raise ValueError(f"per is {self.per!r}; allowed are {', '.join(self.PER)}")
        if min(self.chosen, self.rejected) < 0 or not self.chosen + self.rejected > 0:
            raise ValueError(f"the weight of a likelihood must be positive, or 0 for none; got {self.chosen} and {self.rejected}")

    @property
    def needs(self) -> frozenset[str]:
        if self.joint:
            return frozenset({"extra:joint", "extra:joint_size"})
        return frozenset() if self.per == "sequence" else frozenset({"size"})

    def __call__(self, z: Tensor, winner: Side, loser: Side) -> Tensor:
        parts = ((self.chosen, winner), (-self.rejected, loser))
        return sum(weight * self._nll(side) for weight, side in parts if weight)

    def _nll(self, side: Side) -> Tensor:
        """(P,)"""
        policy = side.named("joint") if self.joint else side.evidence.policy[side.rows]
        if self.per == "sequence":
            return -policy
        sizes = side.named("joint_size").detach() if self.joint else side.evidence.sizes[side.rows]
        if self.per == "token":
            return -policy / sizes
        count = torch.stack([sizes.sum(), sizes.new_tensor(float(len(sizes)))])
        tokens, pairs = self.all_reduce(count) if policy.requires_grad else count
        return -policy * (pairs / tokens.clamp(min=1))
