r"""Shapes of a list's loss:  rewards (N,) of the samples of G lists, and their labels -> loss (G,).

Lists are ragged: `rankings.group` says which list a row is of, so sums over a list are index_adds and orders are (N, N) masks.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffalign.objectives.evidence import Evidence
from diffalign.objectives.labels import Rankings
from diffalign.objectives.links import Link, Logistic

MOST_GAIN = 30.0  # relevance above which the gain 2^relevance - 1 makes one pair the whole loss


class ListShape:
    """`needs` as of an objective; `link`: of the pairs of a list, for the metrics, or None."""

    needs: frozenset[str] = frozenset()
    link: Link | None = None

    def __call__(self, rewards: Tensor, rankings: Rankings, evidence: Evidence | None) -> Tensor:
        raise NotImplementedError

    def at_start(self, rankings: Rankings) -> Tensor:
        """(G,) the loss while every reward is 0."""
        return self(torch.zeros_like(rankings.relevance), rankings, None)


def per_list(values: Tensor, rankings: Rankings) -> Tensor:
    """(N,) -> (G,): the sums over lists."""
    return values.new_zeros(rankings.groups).index_add(0, rankings.group, values)


def sizes(rankings: Rankings, like: Tensor) -> Tensor:
    """(G,) how many samples every list has."""
    return per_list(torch.ones_like(like), rankings)


def log_softmax(values: Tensor, rankings: Rankings) -> Tensor:
    """(N,) values less the log of the sum of their exponentials over their list."""
    highest = values.new_full((rankings.groups,), -torch.inf).scatter_reduce(0, rankings.group, values.detach(), "amax")
    shifted = values - highest[rankings.group]
    return shifted - per_list(shifted.exp(), rankings).log()[rankings.group]


def dcg_gaps(rankings: Rankings, scores: Tensor | None = None) -> Tensor:
    r"""(N, N) Delta_ij = |G_i - G_j| |1/D_i - 1/D_j|,  G = 2^relevance - 1,  D = log(1 + rank):  what a swap changes in DCG; 0 elsewhere.

    Rows are the better samples, columns the worse of the same list. Equal relevance: equal gain, so no gap (arXiv:2410.18013). The rank is
    that of the labels, or that of `scores` (N,) where given.

    Raises:
        ValueError: for a relevance above 30.
    """
    if rankings.highest > MOST_GAIN:
        raise ValueError(f"relevance must be at most {MOST_GAIN:g} here; got {rankings.highest:g}: the gain is 2^relevance - 1, "
                         "so calibrate scores to win probabilities first")
    rank = rankings.rank() if scores is None else model_rank(rankings, scores)
    gain, discount = 2**rankings.relevance - 1, torch.log1p(rank.to(rankings.relevance.dtype))
    gap = (gain[:, None] - gain).abs() * (1 / discount[:, None] - 1 / discount).abs()
    return torch.where(rankings.better(), gap, 0.0)


def model_rank(rankings: Rankings, scores: Tensor) -> Tensor:
    """(N,) from 1, the highest score of a list, on. Equal scores rank as their labels do: at the start, where all are equal."""
    same = rankings.group[:, None] == rankings.group
    above = (scores[:, None] > scores) | ((scores[:, None] == scores) & rankings.better())
    return 1 + (same & above).sum(0)


@dataclass(frozen=True)
class SwapGaps(ListShape):
    r"""sum over i better than j of  Delta_ij * link(z_ij; 1),   z_ij = beta (r_i - r_j),   Delta_ij what swapping the two costs in DCG.

    The ranks in Delta are those of the labels (RankDPO, arXiv:2410.18013), or with `by_model` those of the rewards themselves, detached
    (LiPO-lambda, arXiv:2402.01878; from recollection). Two samples: Delta times DPO.

    *Deviates:* tied samples share a rank (the paper's scores do not tie), so their order in the batch does not matter.
    """

    link: Link = Logistic()
    by_model: bool = False

    def __call__(self, rewards: Tensor, rankings: Rankings, evidence: Evidence | None) -> Tensor:
        z = rewards[:, None] - rewards
        gaps = dcg_gaps(rankings, rewards.detach() if self.by_model else None)
        return per_list((gaps * self.link(z, torch.ones_like(z))).sum(1), rankings)


@dataclass(frozen=True)
class CrossPairs(ListShape):
    r"""mean over i better than j of  link(c_i beta (r_i - r_j); 1),   c_i = `anisotropy` where i is of relevance `top`, else 1:  TRPA
    (arXiv:2504.04524, released code).

    A list without two levels is judged by itself: the mean of link(+-r; 1), + where its relevance is `top`, without beta, as released.

    *Deviates:* the release averages over all pairs of a batch, here over the pairs of a list, so that a list counts once however its levels
    fall; and it judges single samples only where a whole batch has no pair. Its divergence penalty (0.001) is the trainer's.
    """

    beta: float
    anisotropy: float = 2.5
    top: float = 0.0
    link: Link = Logistic()

    def __post_init__(self):
        if not self.anisotropy > 0:
            raise ValueError(f"anisotropy must be positive; got {self.anisotropy}: 1 treats all pairs alike")

    def __call__(self, rewards: Tensor, rankings: Rankings, evidence: Evidence | None) -> Tensor:
        best = rankings.relevance == self.top
        scale = torch.where(best, self.anisotropy, 1.0).to(rewards.dtype)
        better, z = rankings.better(), scale[:, None] * (rewards[:, None] - rewards)
        losses = torch.where(better, self.link(z, torch.ones_like(z)), 0.0).sum(1)
        pairs = per_list(better.sum(1).to(rewards.dtype), rankings)
        single = self.link(torch.where(best, rewards, -rewards) / self.beta, torch.ones_like(rewards))
        alone = per_list(single, rankings) / sizes(rankings, rewards)
        return torch.where(pairs > 0, per_list(losses, rankings) / pairs.clamp(min=1), alone)


@dataclass(frozen=True)
class PlackettLuce(ListShape):
    r"""sum over the samples of  logsumexp of the rewards not above it  -  its own:  minus the log-probability of the order.

    The sample of k-th relevance is drawn among those that are left, in proportion to exp(beta r). Tied samples stay in each other's sums
    (Breslow's form). Two samples: DPO; equal rewards: log n!.
    """

    def __call__(self, rewards: Tensor, rankings: Rankings, evidence: Evidence | None) -> Tensor:
        left = (rankings.group[:, None] == rankings.group) & (rankings.relevance[:, None] >= rankings.relevance)
        rest = torch.where(left, rewards, -torch.inf).logsumexp(1)
        return per_list(rest - rewards, rankings)
