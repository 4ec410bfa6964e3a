r"""Lists with a target distribution: what the samples' rewards should be in proportion to, and the losses that say so.

    target(rankings, evidence) -> log q (N,), normalised over every list, without gradient
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from diffalign.objectives.evidence import Evidence
from diffalign.objectives.labels import Rankings
from diffalign.objectives.lists import ListShape, log_softmax, per_list, sizes


class Target:
    """`needs` as of an objective."""

    needs: frozenset[str] = frozenset()

    def __call__(self, rankings: Rankings, evidence: Evidence | None) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class SoftmaxTarget(Target):
    r"""q = softmax(relevance/temperature). With `standardised` the relevance is first brought to mean 0 and deviation 1 in its list.

    Raises:
        ValueError: unless the temperature is positive.
    """

    temperature: float = 1.0
    standardised: bool = False

    def __post_init__(self):
        if not self.temperature > 0:
            raise ValueError(f"the temperature of the scores must be positive; got {self.temperature}")

    def __call__(self, rankings: Rankings, evidence: Evidence | None) -> Tensor:
        score = rankings.relevance
        if self.standardised:
            count = sizes(rankings, score)
            score = score - (per_list(score, rankings) / count)[rankings.group]
            deviation = (per_list(score**2, rankings) / count).sqrt()
            score = score / deviation.clamp(min=1e-6)[rankings.group]
        return log_softmax(score / self.temperature, rankings)


@dataclass(frozen=True)
class Posterior(Target):
    r"""q in proportion to  prior/proposal * sigma(relevance):  BRAIn's p(y | x, good) on samples of a proposal (arXiv:2402.02479).

    The proposal's log-probability is the evidence's reference, the prior's its extra; the relevance is R(y) - gamma of the prompt. Biased
    for few samples. How the paper chooses gamma was not verified.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reference", "extra:prior"})

    def __call__(self, rankings: Rankings, evidence: Evidence | None) -> Tensor:
        prior = evidence.named("prior", rankings.rows).detach() - evidence.the_reference
        return log_softmax(prior + F.logsigmoid(rankings.relevance), rankings)


@dataclass(frozen=True)
class CrossEntropy(ListShape):
    r"""-sum_i q_i log softmax(r)_i, or with `less_entropy` KL(q || softmax(r)), the same less q's entropy. Its gradient is softmax(r) - q.

    InfoNCA (arXiv:2402.05369), ADPO (arXiv:2510.18913), and BRAIn's gradient. Two samples and one certain winner: DPO.
    """

    target: Target
    less_entropy: bool = False

    @property
    def needs(self) -> frozenset[str]:
        return self.target.needs

    def __call__(self, rewards: Tensor, rankings: Rankings, evidence: Evidence | None) -> Tensor:
        log_q = self.target(rankings, evidence)
        gap = (log_q if self.less_entropy else 0) - log_softmax(rewards, rankings)
        return per_list(log_q.exp() * gap, rankings)

    def at_start(self, rankings: Rankings) -> Tensor:
        """(G,) log n, whatever the target, as softmax(0) is uniform; less the entropy of q where that is taken off."""
        uniform = sizes(rankings, rankings.relevance).log()
        if not self.less_entropy:
            return uniform
        log_q = self.target(rankings, None)
        return uniform + per_list(log_q.exp() * log_q, rankings)


@dataclass(frozen=True)
class ReverseCrossEntropy(ListShape):
    r"""KL(softmax(r) || q):  EXO of K samples (arXiv:2402.00856). Its gradient is pi_i (A_i - E_pi A), A = log pi - log q; not convex."""

    target: Target

    @property
    def needs(self) -> frozenset[str]:
        return self.target.needs

    def __call__(self, rewards: Tensor, rankings: Rankings, evidence: Evidence | None) -> Tensor:
        log_pi = log_softmax(rewards, rankings)
        return per_list(log_pi.exp() * (log_pi - self.target(rankings, evidence)), rankings)


@dataclass(frozen=True)
class NoiseContrast(ListShape):
    r"""-(1/K) sum_i log sigma(-r_i) - sum_i q_i log sigma(r_i):  NCA of K samples (arXiv:2402.05369, released code), which holds the sum of
    the rewards too. Two samples and one certain winner: the pair form. Equal rewards at 0: 2 ln 2."""

    target: Target

    @property
    def needs(self) -> frozenset[str]:
        return self.target.needs

    def __call__(self, rewards: Tensor, rankings: Rankings, evidence: Evidence | None) -> Tensor:
        noise = -per_list(F.logsigmoid(-rewards), rankings) / sizes(rankings, rewards)
        return noise - per_list(self.target(rankings, evidence).exp() * F.logsigmoid(rewards), rankings)


@dataclass(frozen=True)
class TemperedRanking(ListShape):
    r"""PRO (arXiv:2306.17492, released code), on s = beta r, r a mean log-probability, k over the samples from the best on:

        L_k = log( exp(s_k T_k) + sum_j exp(s_j T_kj) ) - s_k T_k,   T_kj = R_k - R_j over the samples below k,   T_k = max_j T_kj

    plus nll_weight (n - 1)^2 times minus the policy evidence of the best. The temperatures multiply the scores. Of tied samples the one in
    the earlier row stands first, as in a stable sort.

    *Deviates:* the release adds 1e-10 inside the log; here it is a logsumexp.
    """

    nll_weight: float = 2.0

    def __post_init__(self):
        if not self.nll_weight >= 0:
            raise ValueError(f"nll_weight must be at least 0; got {self.nll_weight}")

    def __call__(self, rewards: Tensor, rankings: Rankings, evidence: Evidence | None) -> Tensor:
        score, row = rankings.relevance, torch.arange(rankings.rows, device=rewards.device)
        tied = (score[:, None] == score) & (row[:, None] < row)
        below = (rankings.group[:, None] == rankings.group) & ((score[:, None] > score) | tied)  # column comes after the row's sample
        heat = torch.where(below, score[:, None] - score, 0.0)
        largest = heat.amax(1) if rankings.rows else score
        logits = torch.where(below, rewards * heat, -torch.inf)
        own = rewards * largest
        each = torch.cat([own[:, None], logits], dim=1).logsumexp(1) - own
        last = ~below.any(1)
        loss = per_list(torch.where(last, 0.0, each), rankings)
        best = ~below.any(0)
        nll = per_list(torch.where(best, -evidence.policy, 0.0), rankings)
        return loss + self.nll_weight * (sizes(rankings, rewards) - 1) ** 2 * nll


@dataclass(frozen=True)
class Extremes(ListShape):
    r"""1/2 [ (r_w - (s_w - offset)/beta)^2 + (r_l - (s_l - offset)/beta)^2 ]  of the best and the worst sample of a list.

    SPPO as published (arXiv:2405.00675, released code): s is the mean probability to win, offset 1/2. With a general preference model
    (arXiv:2410.02197) s is the mean skew-symmetric score, offset 0.

    Of tied samples the earlier row stands for them; a list whose samples all tie teaches nothing. beta is inverse: its targets are s/beta.
    """

    beta: float
    offset: float = 0.5

    def __call__(self, rewards: Tensor, rankings: Rankings, evidence: Evidence | None) -> Tensor:
        better, row = rankings.better(), torch.arange(rankings.rows, device=rewards.device)
        beats, beaten = better.any(1), better.any(0)
        error = ((rewards - (rankings.relevance - self.offset)) / self.beta) ** 2 / 2
        loss = rewards.new_zeros(rankings.groups)
        for candidates in (beats & ~beaten, beaten & ~beats):  # the best, the worst
            first = torch.full((rankings.groups,), rankings.rows, device=rewards.device)
            first = first.scatter_reduce(0, rankings.group, torch.where(candidates, row, rankings.rows), "amin")
            loss = loss + per_list(torch.where(candidates & (row == first[rankings.group]), error, 0.0), rankings)
        return loss
