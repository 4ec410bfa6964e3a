r"""Text evidence: from log-probabilities a token to one number a response."""

from collections.abc import Mapping

import torch
from torch import Tensor

from diffalign.objectives import Evidence
from diffalign.objectives.evidence import upcast


def sequence_evidence(
    policy_logps: Tensor, mask: Tensor, reference_logps: Tensor | None = None, *, extra: Mapping[str, Tensor] | None = None
) -> Evidence:
    r"""Sums of token log-probabilities:  policy_i = sum_t mask_it log pi(y_it | x_i, y_i<t)   (arXiv:2305.18290).

    Other sums (``tail_log_ratio``, say) are further scalars that an objective asks for by name; a mean over tokens is a reward map, which
    divides by ``size``.

    Args:
        policy_logps: (N, T) log-probability of every token under the policy, in nats. What lies outside the mask is never read, so padding
            may hold anything.
        mask: (N, T) bool, or zeros and ones: the response tokens that are trained, the end token if and only if it is.
        reference_logps: (N, T) the same under the reference, or None.
        extra: further scalars of the evidence.

    Returns:
        Evidence of N samples; `size` is the number of response tokens, from the mask.

    Raises:
        ValueError: if the shapes differ, the mask holds anything but 0 and 1, or a response has no token.
    """
    for name, value in (("mask", mask), ("reference_logps", reference_logps)):
        if value is not None and value.shape != policy_logps.shape:
            raise ValueError(f"{name} has shape {tuple(value.shape)}, policy_logps {tuple(policy_logps.shape)}: both must be (N, T)")
    if policy_logps.ndim != 2:
        raise ValueError(f"policy_logps must be (N, T), one log-probability a token; got shape {tuple(policy_logps.shape)}")
    if ((mask != 0) & (mask != 1)).any():
        raise ValueError("mask must be bool or hold zeros and ones: token weights are not part of the evidence")
    mask = mask.bool()
    size = mask.sum(1)
    if (size == 0).any():
        empty = (size == 0).nonzero().flatten().tolist()
        raise ValueError(f"responses {empty} have no token under the mask: drop them, or check the truncation that emptied them")
    reference = None if reference_logps is None else token_sum(reference_logps, mask)
    return Evidence(token_sum(policy_logps, mask), reference, size, extra or {})


def token_sum(values: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
    """(N,) sum over the mask of values (N, T), times weights (N, T) where given, in float32; what lies outside is never read."""
    values = torch.where(mask, upcast(values), 0.0)
    return (values if weights is None else values * torch.where(mask, weights.to(values), 0.0)).sum(1)


def tail_log_ratio(policy_logps: Tensor, reference_logps: Tensor, mask: Tensor, pairs: Tensor) -> Tensor:
    r"""(N,) sum of log pi - log ref over the tokens of a response after the first min(|chosen|, |rejected|) of its pair (LD-DPO's tail,
    arXiv:2409.06411); 0 for the shorter side.

    Args:
        policy_logps, reference_logps: (N, T). mask: (N, T) bool. pairs: (P, 2) int64 rows; a row in no pair has no tail.

    Raises:
        ValueError: a row in several pairs, which has no one partner.
    """
    if len(pairs.unique()) != pairs.numel():
        raise ValueError("a row of several pairs has no one partner whose length would end it: give each row to one pair only")
    size = mask.sum(1)
    common = size.clone()
    common[pairs] = size[pairs].amin(1, keepdim=True).expand(-1, 2)
    tail = mask & (mask.cumsum(1) > common[:, None])
    return token_sum(upcast(policy_logps) - upcast(reference_logps), tail)
