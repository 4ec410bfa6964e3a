"""What the records of a batch say, as the objective reads it, and which rows of the batch are which side."""

from __future__ import annotations

import torch
from torch import Tensor

from diffalign import data
from diffalign.objectives import Comparison, Labels, Rankings

NO_PAIRS = torch.empty(0, 2, dtype=torch.int64)


def labels_of(records: list[data.Record], *, soft_label_scale: float | None = None, swap: bool = False) -> Comparison | Labels | Rankings:
    """The labels of a batch of B records of one kind and k samples each, whose row ``side * B + b`` is sample ``side`` of record b.

    Args:
        soft_label_scale: g puts g (2p - 1) into ``Comparison.scale`` and 1 into its probability (SmPO's released code).
        swap: pairs with chosen and rejected exchanged.

    A pair of probability below 1/2 says that its rejected sample is the better one: its rows are exchanged, with 1 - p and the margin
    turned round, so that whatever reads the chosen row (terms, balance, logs) reads the winner.
    """
    first, count = records[0], len(records)
    weight = torch.tensor([record.weight for record in records])
    if isinstance(first, data.Label):
        return Labels(torch.tensor([record.label for record in records]), weight)
    if isinstance(first, data.Ranking):
        goodness = torch.tensor([data.relevance(record) for record in records])  # (B, k)
        return Rankings(torch.arange(count).repeat(goodness.shape[1]), goodness.T.flatten(), weight)
    probability = torch.tensor([record.probability for record in records])
    margin = torch.tensor([record.margin for record in records])
    turned = probability < 0.5
    probability, margin = torch.where(turned, 1 - probability, probability), torch.where(turned, -margin, margin)
    pairs, scale = Comparison.halves(count).pairs, torch.ones(count)
    if soft_label_scale is not None:
        scale, probability = soft_label_scale * (2 * probability - 1), torch.ones(count)
    pairs = torch.where((turned != swap)[:, None], pairs.flip(1), pairs)
    return Comparison(pairs, probability, weight, scale, margin)


def pairs_of(labels: Comparison | Labels | Rankings) -> Tensor:
    """(P, 2) rows that are compared with each other and therefore share a timestep; none for labels of single samples."""
    if isinstance(labels, Comparison):
        return labels.pairs
    if isinstance(labels, Rankings):
        return labels.better().nonzero()
    return NO_PAIRS


def sides_of(labels: Comparison | Labels | Rankings) -> dict[str, Tensor]:
    """Rows called ``chosen`` and ``rejected`` in logs: the sides of pairs, good and bad samples, the best and the worst of a ranking."""
    if isinstance(labels, Comparison):
        chosen, rejected = labels.pairs.T
    elif isinstance(labels, Labels):
        chosen, rejected = labels.desirable.nonzero()[:, 0], (~labels.desirable).nonzero()[:, 0]
    else:
        better = labels.better()
        beaten, beats = better.any(0), better.any(1)
        chosen, rejected = (beats & ~beaten).nonzero()[:, 0], (beaten & ~beats).nonzero()[:, 0]
    return {"chosen": chosen, "rejected": rejected}
