r"""What more than sums of log-probabilities an objective may ask a step on text for, by the names of ``objectives/extras.py``.

Those that need another model, another condition or a column of the data are not measured here; an objective that asks for one is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffalign.llm.batch import TextBatch
from diffalign.llm.evidence import tail_log_ratio, token_sum
from diffalign.llm.models import TokenOutput
from diffalign.train.labels import pairs_of


@dataclass(frozen=True)
class Step:
    """What a measure may read: the policy's and the reference's outputs on a batch, and both models. ``whole``: the policy's output on the
    tokens of prompt and response, where the objective asks for more than the response."""

    model: object
    reference: object | None
    batch: TextBatch
    mask: Tensor  # (N, T - 1) bool, the trained places
    policy: TokenOutput
    expected: TokenOutput | None
    whole: TokenOutput | None
    autocast: Callable


def self_agreement(step: Step) -> Tensor:
    """(N,) mean over the response of log pi(y_t) - log sum_v pi(v)^2 (WPO, arXiv:2406.11827), without gradient."""
    gap = step.policy.logps.detach() - step.policy.squares
    return token_sum(gap, step.mask) / step.mask.sum(1)


def sequential_kl(step: Step) -> Tensor:
    """(N,) sum over the response of KL(reference || policy) over the vocabulary (TDPO, arXiv:2404.11999)."""
    states, other = step.policy.states, step.expected.states
    if states is None or other is None:
        raise ValueError(
            "sequential_kl compares whole distributions, which log-probabilities computed before training, or a model with a head of its "
            "own, do not give: leave out precompute_ref_log_probs, or choose another objective"
        )
    head = step.model.module.head
    found = head.divergence(states, other, step.model.module.chunk)
    return token_sum(found.new_zeros(step.mask.shape).masked_scatter(step.mask, found), step.mask)


def mismatched(step: Step) -> Tensor:
    """(N,) log-ratio of the row before's response after this row's prompt (KTO's estimate of the divergence, arXiv:2402.01306), without
    gradient. Raises ValueError for a batch of one."""
    ids, trained = exchanged(step.batch)
    with torch.no_grad(), step.autocast():
        policy = step.model.predict(ids, trained).logps
    with step.autocast():
        expected = step.reference.predict(ids, trained).logps
    return token_sum(policy - expected, trained[:, 1:])


def exchanged(batch: TextBatch) -> tuple[Tensor, Tensor]:
    """(token ids, trained) of rows that have the prompt of row i and the response of row i - 1 (the first: of the last), as in TRL."""
    count = len(batch.input_ids)
    if count < 2:
        raise ValueError("mismatched responses are those of a batch's other records, and this batch has one record: raise train_batch_size")
    starts = batch.trained.int().argmax(1)
    rows, flags = [], []
    for i in range(count):
        k = (i - 1) % count
        prompt, answer = batch.input_ids[i, : starts[i]], batch.input_ids[k, starts[k] : batch.lengths[k]]
        rows.append(torch.cat([prompt, answer]))
        flags.append(torch.cat([torch.zeros_like(prompt, dtype=torch.bool), batch.trained[k, starts[k] : batch.lengths[k]]]))
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(rows, batch_first=True), pad(flags, batch_first=True)


MEASURES: dict[str, Callable[[Step], Tensor]] = {
    "tail": lambda step: tail_log_ratio(step.policy.logps, step.expected.logps, step.mask, pairs_of(step.batch.labels)),
    "token_kl": lambda step: token_sum(step.policy.logps, step.mask, (step.policy.logps - step.expected.logps).detach()),
    "self_agreement": self_agreement,
    "sequential_kl": sequential_kl,
    "mismatched": mismatched,
    "joint": lambda step: token_sum(step.whole.logps, step.batch.written[:, 1:]),
    "joint_size": lambda step: (step.batch.lengths - 1).to(step.policy.logps.dtype),
}
NEEDS_WHOLE = ("joint",)


def asked_of(objective) -> list[str]:
    """The names of the further numbers that an objective reads."""
    return sorted(need.removeprefix("extra:") for need in objective.needs if need.startswith("extra:"))


def unmeasured(objective) -> str | None:
    """Why a step on text cannot serve an objective, or None."""
    missing = [name for name in asked_of(objective) if name not in MEASURES]
    if not missing:
        return None
    return (
        f"this objective reads {', '.join(missing)}, which training on text does not measure (it measures {', '.join(MEASURES)}): "
        "choose another objective, or measure it and call the objective yourself"
    )
