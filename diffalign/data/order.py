"""Which records form which batch of which epoch: a pure function of (buckets, batch size, epoch, seed)."""

from collections.abc import Hashable, Sequence

from diffalign.data.keys import hash_uniform


def batches(buckets: Sequence[Hashable], batch_size: int, epoch: int, seed: int, *, drop_last: bool = True) -> list[list[int]]:
    """The batches of one epoch, each a list of record numbers of one bucket.

    ``buckets[i]`` is the bucket of record i (any hashable: (height, width), usually). Records are ordered by a hash of (seed, epoch, i),
    and a batch is emitted whenever its bucket has filled one, so buckets are mixed over the epoch. No random generator is touched:
    every process, and a resumed run, gets the same list. Incomplete batches come last, or are dropped (``drop_last``).
    Raises ValueError when nothing is left to train on.
    """
    if batch_size < 1:
        raise ValueError(f"batches: batch_size is {batch_size!r}; allowed is a whole number from 1.")
    filling: dict[Hashable, list[int]] = {}
    full = []
    for i in sorted(range(len(buckets)), key=lambda i: hash_uniform("order", seed, epoch, i)):
        batch = filling.setdefault(buckets[i], [])
        batch.append(i)
        if len(batch) == batch_size:
            full.append(filling.pop(buckets[i]))
    if not drop_last:
        full.extend(filling.values())
    if not full:
        raise ValueError(
            f"batches: {len(buckets)} records in {len(set(buckets))} buckets fill no batch of {batch_size}. "
            "Use a smaller batch size, fewer buckets, more records, or drop_last=False."
        )
    return full
