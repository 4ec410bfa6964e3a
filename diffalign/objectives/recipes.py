r"""From what judges and reward models say to labels: what published data recipes compute before an ordinary objective. No model, no text.

Everything is about the K samples of one prompt; scores are a reward model's, in its own units.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def win_rates(probability: Tensor) -> Tensor:
    r"""(K, K) probability that row i beats column j -> (K,) P_i, its mean over all K, the sample itself counting 1/2 (SPPO,
    arXiv:2405.00675, released code): the relevance of the row sppo.

    Raises:
        ValueError: unless the table is square and p_ij + p_ji = 1 off the diagonal.
    """
    if probability.ndim != 2 or probability.shape[0] != probability.shape[1]:
        raise ValueError(f"probability must be (K, K), row beats column; got {tuple(probability.shape)}")
    table = torch.where(torch.eye(len(probability), dtype=torch.bool, device=probability.device), 0.5, probability)
    if not torch.allclose(table + table.T, torch.ones_like(table), atol=1e-4):
        raise ValueError("probabilities must be those of one comparison, p_ij + p_ji = 1: average a judge over both orders first")
    return table.mean(1)


def skew_scores(embeddings: Tensor) -> Tensor:
    r"""(K, 2m) embeddings v -> (K, K) s_ij = v_i^T R v_j,  R of m blocks [[0, -1], [1, 0]]:  a general preference model
    (arXiv:2410.02197, released code). s_ij = -s_ji, so cycles can be told; P(i beats j) = sigma(s_ij/0.1). The mean over j is the relevance
    of the row general-preference.

    Raises:
        ValueError: for an odd dimension.
    """
    if embeddings.ndim != 2 or embeddings.shape[1] % 2:
        raise ValueError(f"embeddings must be (K, 2m), an even dimension; got {tuple(embeddings.shape)}")
    even, odd = embeddings[:, 0::2], embeddings[:, 1::2]
    return odd @ even.T - even @ odd.T


def soft_value(scores: Tensor, beta: float) -> Tensor:
    r"""(K,) scores of samples of the reference -> V* = beta log mean exp(score/beta), a scalar (A*-PO, arXiv:2505.20686, TRL; beta 0.5).

    The advantage of the rows a2po and direct-advantage is a score less V*. beta -> infinity: the mean; beta -> 0: the best.
    """
    return beta * (torch.logsumexp(scores / beta, 0) - math.log(len(scores)))


def rejection_sample(scores: Tensor, count: int, beta: float, generator: torch.Generator | None = None) -> Tensor:
    r"""Rows (count,) of scores (K,), drawn without replacement, accepted with exp((score - best left)/beta): RSO (arXiv:2309.06657).

    As the pool grows the kept samples are those of pi_sft exp(score/beta). beta is the temperature of the divergence, not the loss's. The
    best is that of the samples left at each pass over them, by recollection of the paper's listing.

    Raises:
        ValueError: for more samples than there are, or a beta which is not positive.
    """
    if not 0 < count <= len(scores):
        raise ValueError(f"count must be from 1 to the {len(scores)} samples there are; got {count}")
    if not beta > 0:
        raise ValueError(f"beta must be positive; got {beta}")
    left, kept = list(range(len(scores))), []
    while len(kept) < count:
        chance = ((scores[left] - scores[left].max()) / beta).exp()
        accepted = torch.rand(len(left), generator=generator) < chance.cpu()
        kept += [row for row, yes in zip(left, accepted.tolist(), strict=True) if yes]
        left = [row for row, yes in zip(left, accepted.tolist(), strict=True) if not yes]
    return torch.tensor(kept[:count])


def curriculum(scores: Tensor) -> Tensor:
    r"""(K,) scores -> (K - 1, 2) pairs (best, other), from the widest gap to the narrowest: the stages of Curry-DPO (arXiv:2403.07230).

    In the paper each stage's reference is the model after the stage before; how many stages it takes by default is from recollection.
    """
    order = scores.argsort(descending=True, stable=True)
    return torch.stack([order[:1].expand(len(order) - 1), order[1:].flip(0)], dim=1)


def transformed(scores: Tensor, threshold: Tensor | float) -> Tensor:
    r"""log sigma(score - threshold): rewards that stop growing above the prompt's threshold (arXiv:2402.00742; the 85 % quantile of the
    base policy's scores, from recollection). Sums over several reward models are a logical and."""
    return F.logsigmoid(scores - threshold)


def self_labels(first: Tensor, second: Tensor, beta: float) -> Tensor:
    r"""Log-ratios of an older policy over its reference -> probability sigma(beta (first - second)) that the first response is the better
    one: Selfie's labels (arXiv:2406.04412, from summaries; beta 0.1). Detached: a policy must not label what it is trained on now."""
    return torch.sigmoid(beta * (first - second).detach())
