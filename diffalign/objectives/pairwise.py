r"""The pair objective: a pure function of evidence and comparison. No tokens, no latents, no devices."""

import math
from dataclasses import dataclass

from torch import Tensor

from diffalign.objectives.comparison import Comparison
from diffalign.objectives.components import Link, RewardMap
from diffalign.objectives.evidence import Evidence
from diffalign.objectives.metrics import pair_metrics
from diffalign.objectives.terms import Terms


@dataclass(frozen=True)
class PairObjective:
    r"""Reward map -> margin -> link:

        r    = reward(evidence)                                         (N,)   nats, or minus half a mean squared error
        z    = beta * scale * (r_chosen - r_rejected) - margin          (P,)   no units
        loss = link(z; probability)                                     (P,)

    beta enters here, once. With LogRatio, Logistic and denoising evidence, z = -beta/2 * Delta, Delta the error difference of
    arXiv:2311.12908, eq. 14: beta = 5000 is the released code's 5000, and 2500 in diffusers' SD script, which drops the half.

    *Deviates:* eq. 14's T and omega(lambda_t) are part of beta, and its norms are means over latent elements, as in the released code.

    Args:
        reward: reward map.
        link: link.
        beta: strength of the comparison, per unit of evidence.

    Raises:
        ValueError: unless beta is positive and finite; on call, if the evidence lacks what `needs` names or has fewer rows than `pairs`.
    """

    reward: RewardMap
    link: Link
    beta: float

    def __post_init__(self):
        if not 0 < self.beta < math.inf:
            raise ValueError(f"beta must be positive and finite; got {self.beta}")

    @property
    def needs(self) -> frozenset[str]:
        """Fields of the evidence read besides `policy`: "reference", "size"."""
        return self.reward.needs

    def __call__(self, evidence: Evidence, comparison: Comparison) -> Terms:
        """Evidence of N samples, P labelled pairs among them -> P losses (`Terms` of unit "pair") and their metrics."""
        rewards = self.beta * self.reward(evidence)
        if comparison.rows > len(rewards):
            raise ValueError(
                f"the comparison reaches row {comparison.rows - 1} and the evidence has {len(rewards)} rows: build both from one batch"
            )
        comparison = comparison.beside(rewards)
        chosen, rejected = rewards[comparison.pairs.T]
        z = comparison.scale * (chosen - rejected) - comparison.margin
        loss = self.link(z, comparison.probability)
        metrics = pair_metrics(chosen, rejected, z, comparison.probability, self.link)
        return Terms(loss, comparison.weight, "pair", metrics)

    def loss_at_start(self, comparison: Comparison) -> Tensor:
        r"""(P,) the loss while policy and reference are equal: every r is 0 and so z = -margin. ln 2 for plain labels and a logistic link.

        Raises:
            ValueError: if the objective has no reference, and therefore no such value.
        """
        if "reference" not in self.needs:
            raise ValueError(f"{type(self.reward).__name__} has no reference, so its loss at the start depends on the model")
        return self.link(-comparison.margin, comparison.probability)
