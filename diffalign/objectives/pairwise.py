r"""The pair objective: a pure function of evidence and comparison. No tokens, no latents, no devices."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from diffalign.objectives.adaptive import AdaptiveBeta
from diffalign.objectives.comparison import Comparison
from diffalign.objectives.evidence import Evidence
from diffalign.objectives.links import Link
from diffalign.objectives.metrics import pair_metrics
from diffalign.objectives.objective import Objective
from diffalign.objectives.pairterms import PairTerm, Side
from diffalign.objectives.rewards import RewardMap
from diffalign.objectives.sides import PairReward
from diffalign.objectives.terms import Terms
from diffalign.objectives.weights import PairWeight


@dataclass(frozen=True)
class PairObjective(Objective):
    r"""Reward map -> margin -> link, and terms beside it:

        r    = reward(evidence)                                                         (N,)   nats, or minus half a mean squared error
        z    = beta * scale * (r_chosen - loser_weight * r_rejected) - margin           (P,)   no units
        loss = link(z; p) + sum of p * term(z, chosen, rejected) + (1 - p) * term(-z, rejected, chosen)

    A link that reads a gap takes the margin in p's place, and z goes without it: link(beta * scale * (...); margin).

    beta enters here, once. With LogRatio, Logistic and denoising evidence, z = -beta/2 * Delta, Delta the error difference of
    arXiv:2311.12908, eq. 14: beta = 5000 is the released code's 5000, and 2500 in diffusers' SD script, which drops the half.

    *Deviates:* eq. 14's T and omega(lambda_t) are part of beta, and its norms are means over latent elements, as in the released code.

    Args:
        reward: reward map of a sample, or of the sides of a pair.
        link: link, or None where the terms are the whole loss (then there is no gradient factor among the metrics).
        beta: strength of the comparison, per unit of evidence.
        terms: losses that read more than the margin.
        loser_weight: multiplies the rejected side's reward inside z. Not 1, swapping pair and label changes the loss.
        balanced: keep the share extra["balance"] (P,) of the gradient through the rejected side's reward, and all of its value:
            r_rejected becomes sg[r] + balance * (r - sg[r]) (Diffusion-SDPO, arXiv:2511.03317).
        flipped: where the policy is worse than the reference on the chosen side (sg[r_chosen] < 0), take the rejected one for a second
            chosen: z adds its reward (SePPO's anchor-based flipping, arXiv:2410.05255, from reviews). loser_weight multiplies it all
            the same.
        adaptive: where given, beta is its, at most `beta`. It observes calls whose policy carries a gradient: validation leaves no trace.
        weighting: a weight of every pair, beside the label's.
        ignores: of the labels' scale and margin, those that may be there and say nothing. Others that are not read are refused.

    Raises:
        ValueError: unless beta is positive and finite and loser_weight at least 0; on call, if the evidence lacks what `needs` names or has
            fewer rows than `pairs`, if the labels are not a Comparison, or if they say something that this objective does not read.
    """

    takes: ClassVar[str] = "pairs"
    unit: ClassVar[str] = "pair"
    labels: ClassVar[type] = Comparison

    reward: RewardMap | PairReward
    link: Link | None
    beta: float
    terms: tuple[PairTerm, ...] = ()
    loser_weight: float = 1.0
    balanced: bool = False
    flipped: bool = False
    adaptive: AdaptiveBeta | None = None
    weighting: PairWeight | None = None
    ignores: frozenset[str] = frozenset()

    def __post_init__(self):
        if not 0 < self.beta < math.inf:
            raise ValueError(f"beta must be positive and finite; got {self.beta}")
        if self.link is None and all(term.at_start == 0 for term in self.terms):
            raise ValueError("without a link some term must compare or denoise; got " + (", ".join(map(str, self.terms)) or "no terms"))
        if not 0 <= self.loser_weight < math.inf:
            raise ValueError(f"loser_weight must be at least 0 and finite; got {self.loser_weight}")

    @property
    def needs(self) -> frozenset[str]:
        more = {"extra:balance"} if self.balanced else set()
        if self.weighting is not None:
            more |= self.weighting.needs
        return self.reward.needs.union(more, *(term.needs for term in self.terms))

    @property
    def reads(self) -> frozenset[str]:
        """Which of a comparison's probability, weight, scale and margin change this loss."""
        if isinstance(self.reward, PairReward) and self.reward.sorts:
            return frozenset()
        found = {"weight"} | {name for term in self.terms for name in term.reads}
        if self.link is not None:
            found |= {"scale", "margin"}
        return frozenset(found | ({"probability"} if self.link is None or self.link.soft else set()))

    @property
    def regresses(self) -> bool:
        """Whether the link regresses on the comparison's margin as a known gap of two rewards: with margins of 0 it asks for no gap."""
        return self.link is not None and not self.link.soft

    def __call__(self, evidence: Evidence, comparison: Comparison) -> Terms:
        """Evidence of N samples, P labelled pairs among them -> P losses (`Terms` of unit "pair") and their metrics."""
        comparison = self._beside(comparison, evidence.policy)
        if not comparison.given <= self.reads | self.ignores:
            raise self._unread(comparison.given - self.reads - self.ignores)
        rewards, pairs = self._rewards(evidence, comparison.pairs)
        beta = self._beta(rewards, pairs, comparison.scale)
        chosen, rejected = (beta * rewards)[pairs.T]
        if self.balanced:
            kept = rejected.detach()
            rejected = kept + evidence.named("balance", len(kept)).detach() * (rejected - kept)
        z = comparison.scale * (chosen - self._weight_of_loser(chosen) * rejected)
        label = comparison.probability
        if self.link is not None and self.link.reads_gap:
            label = comparison.margin
        else:
            z = z - comparison.margin
        loss = self._loss(z, label, Side(evidence, comparison.pairs[:, 0], comparison.scale * chosen),
                          Side(evidence, comparison.pairs[:, 1], comparison.scale * rejected), comparison.probability)
        metrics = pair_metrics(chosen, rejected, z, label, self.link)
        if self.adaptive is not None:
            metrics["beta"] = (beta * len(z), len(z))
        weight = comparison.weight
        if self.weighting is not None:
            weight = weight * self.weighting(evidence, comparison.pairs)
        return Terms(loss, weight, self.unit, metrics)

    def _unread(self, names: frozenset[str]) -> ValueError:
        """The error for labels that this objective would have to pass over in silence."""
        if names == {"probability"} and self.regresses:
            return ValueError("this objective regresses the margin on a known gap and cannot read a probability other than 1: "
                              "put what is known about a pair into the comparison's margin")
        said, read = ", ".join(sorted(names)), ", ".join(sorted(self.reads)) or "none"
        return ValueError(f"the comparison's {said} would change nothing here: of probability, weight, scale and margin it reads "
                          f"{read}. Leave the others at their neutral values, or choose another objective")

    def _rewards(self, evidence: Evidence, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Rewards before beta, and the rows (P, 2) of them that are compared: the samples' own, or two a pair."""
        if not isinstance(self.reward, PairReward):
            return self.reward(evidence), pairs
        rows = torch.arange(len(pairs), device=pairs.device)
        return torch.cat(self.reward(evidence, pairs)), torch.stack([rows, rows + len(pairs)], dim=1)

    def _beta(self, rewards: Tensor, pairs: Tensor, scale: Tensor) -> float | Tensor:
        """The beta of this call, after an adaptive one has seen the batch's margins."""
        if self.adaptive is None:
            return self.beta
        if rewards.requires_grad:
            chosen, rejected = rewards.detach()[pairs.T]
            self.adaptive.observe(scale * (chosen - self._weight_of_loser(chosen) * rejected))
        return self.adaptive(rewards)

    def _weight_of_loser(self, chosen: Tensor) -> Tensor | float:
        """What multiplies the rejected side's reward, (P,) where a pair may flip."""
        return torch.where(chosen < 0, -self.loser_weight, self.loser_weight).to(chosen) if self.flipped else self.loser_weight

    def _loss(self, z: Tensor, label: Tensor, chosen: Side, rejected: Side, p: Tensor) -> Tensor:
        """(P,) link and terms."""
        parts = [] if self.link is None else [self.link(z, label)]
        for term in self.terms:
            parts.append(p * term(z, chosen, rejected) + (1 - p) * term(-z, rejected, chosen))
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)

    def loss_at_start(self, comparison: Comparison) -> Tensor:
        r"""(P,) the loss while policy and reference are equal: every r is 0 and so z = -margin. ln 2 for plain labels and a logistic link.

        Raises:
            ValueError: if there is no such value: no reference, or a term that reads the model's own error.
        """
        if not self.reward.starts_at_zero:
            lacks = "has no reference" if "reference" not in self.reward.needs else "is not 0 where policy and reference agree"
            raise ValueError(f"{type(self.reward).__name__} {lacks}, so its loss at the start depends on the model")
        for term in self.terms:
            if term.at_start is None:
                raise ValueError(f"{type(term).__name__} reads the policy's own error, so the loss at the start depends on the model")
        if self.link is None:
            loss = torch.zeros_like(comparison.margin)
        elif self.link.reads_gap:
            loss = self.link(torch.zeros_like(comparison.margin), comparison.margin)
        else:
            loss = self.link(-comparison.margin, comparison.probability)
        return loss + more if (more := sum(term.at_start for term in self.terms)) else loss

    def state_dict(self) -> dict[str, float]:
        return {} if self.adaptive is None else self.adaptive.state_dict()

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        if self.adaptive is None:
            super().load_state_dict(state)
        else:
            self.adaptive.load_state_dict(state)
