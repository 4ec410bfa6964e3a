r"""Weights of pairs that come from the evidence: they multiply the loss outside the link, beside the label's own, and have no gradient."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from diffalign.objectives.evidence import Evidence


class PairWeight:
    """Evidence and pairs (P, 2) -> (P,) at least 0, detached. `needs` as of an objective."""

    needs: frozenset[str]

    def __call__(self, evidence: Evidence, pairs: Tensor) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class SelfAgreement(PairWeight):
    r"""w = min(1, exp(A_w + A_l)),   A = extra["self_agreement"] of a side: how likely the policy itself was to write the pair (WPO,
    arXiv:2406.11827, eq. 2 as in its released code).

    A token of typical probability, sum_v pi(v)^2, counts 1. `capped` = False leaves out the min(1, .), as TRL does.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"extra:self_agreement"})
    capped: bool = True

    def __call__(self, evidence: Evidence, pairs: Tensor) -> Tensor:
        agreement = evidence.named("self_agreement", len(evidence.policy)).detach()[pairs].sum(1)
        return (agreement.clamp(max=0.0) if self.capped else agreement).exp()


@dataclass(frozen=True)
class PromptNearness(PairWeight):
    r"""w = exp(-alpha d),   d = extra["prompt_distance"] (P,): a chosen prompt that drifted from what was asked for teaches less (Sem-DPO,
    arXiv:2507.20133, from summaries).

    The denominator counts pairs, not weights: dividing by the sum of w would undo the damping.

    Raises:
        ValueError: for a negative alpha.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"extra:prompt_distance"})
    alpha: float

    def __post_init__(self):
        if not self.alpha >= 0:
            raise ValueError(f"alpha, how fast the weight falls with the distance, must be at least 0; got {self.alpha}")

    def __call__(self, evidence: Evidence, pairs: Tensor) -> Tensor:
        return (-self.alpha * evidence.named("prompt_distance", len(pairs)).detach()).exp()
