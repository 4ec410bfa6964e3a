"""From tokenized records to what a step consumes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffalign import data
from diffalign.llm.tokenize import Tokens
from diffalign.objectives import Comparison, Labels, Rankings
from diffalign.train.labels import labels_of

LEAST_BATCHES = 8  # of records of about one length: fewer would leave many batches of an epoch unfilled
MOST_BUCKETS = 16


@dataclass(frozen=True)
class TextBatch:
    """B records of k responses as N = k B rows: row ``side * B + b`` is response ``side`` of record b, so that chosen and rejected go
    through the network together.

    ``input_ids``: (N, T) int64, filled up on the right with the row's last token, which nothing reads. ``trained``: (N, T) bool, the tokens
    that are evidence. ``lengths``: (N,) int64, tokens of a row before it is filled up. ``labels``: what people said, as the objective
    reads it. ``ids``: B record ids.
    """

    ids: list[str]
    input_ids: Tensor
    trained: Tensor
    lengths: Tensor
    labels: Comparison | Labels | Rankings

    def to(self, device) -> TextBatch:
        moved = {name: getattr(self, name).to(device) for name in ("input_ids", "trained", "lengths")}
        return dataclasses.replace(self, **moved)

    @property
    def written(self) -> Tensor:
        """(N, T) bool, the tokens of prompt and response."""
        return torch.arange(self.input_ids.shape[1], device=self.input_ids.device) < self.lengths[:, None]


class TextStore:
    """Records with the tokens of their responses: record i has ``tokens[i]``, one ``Tokens`` a response."""

    def __init__(self, records: Sequence[data.Record], tokens: Sequence[tuple[Tokens, ...]]):
        self.records, self.tokens = list(records), list(tokens)

    def __len__(self) -> int:
        return len(self.records)

    def length(self, i: int) -> int:
        """Tokens of the longest response of record i, with its prompt."""
        return max(len(tokens.ids) for tokens in self.tokens[i])

    def __call__(self, indices: list[int]) -> TextBatch:
        """The batch of these records."""
        records = [self.records[i] for i in indices]
        rows = [row for side in zip(*(self.tokens[i] for i in indices), strict=True) for row in side]
        width = max(len(row.ids) for row in rows)
        input_ids = torch.empty(len(rows), width, dtype=torch.int64)
        trained = torch.zeros(len(rows), width, dtype=torch.bool)
        for i, row in enumerate(rows):
            input_ids[i, : len(row.ids)] = torch.tensor(row.ids)
            input_ids[i, len(row.ids) :] = row.ids[-1]
            trained[i, : len(row.ids)] = torch.tensor(row.trained)
        lengths = torch.tensor([len(row.ids) for row in rows])
        return TextBatch([record.id for record in records], input_ids, trained, lengths, labels_of(records))


def length_buckets(lengths: Sequence[int], batch_size: int) -> list[int]:
    """For every record a number, the same for records of about one length, so that batches of one number need little filling up: shares of
    equal size of the records by length, at least eight batches to a share."""
    count = min(MOST_BUCKETS, max(1, len(lengths) // (LEAST_BATCHES * batch_size)))
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    buckets = [0] * len(lengths)
    for place, i in enumerate(order):
        buckets[i] = place * count // len(lengths)
    return buckets
