r"""Text evidence: from log-probabilities a token to one number a response."""

import torch
from torch import Tensor

from diffalign.objectives import Evidence
from diffalign.objectives.evidence import upcast


def sequence_evidence(policy_logps: Tensor, mask: Tensor, reference_logps: Tensor | None = None) -> Evidence:
    r"""Sums of token log-probabilities:  policy_i = sum_t mask_it log pi(y_it | x_i, y_i<t)   (arXiv:2305.18290).

    Args:
        policy_logps: (N, T) log-probability of every token under the policy, in nats. What lies outside the mask is never read, so padding
            may hold anything.
        mask: (N, T) bool, or zeros and ones: the response tokens that are trained, the end token if and only if it is.
        reference_logps: (N, T) the same under the reference, or None.

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

    def total(logps: Tensor) -> Tensor:
        return torch.where(mask, upcast(logps), 0.0).sum(1)

    return Evidence(total(policy_logps), None if reference_logps is None else total(reference_logps), size)
