"""Training and held-out records that never share a prompt."""

from collections.abc import Sequence

from diffalign.data.keys import hash_uniform
from diffalign.data.records import Record


def hold_out(records: Sequence[Record], share: float, seed: int) -> tuple[list[Record], list[Record]]:
    """(train, held_out): a prompt is held out when a hash of (seed, prompt) falls below ``share``.

    The decision looks at one prompt only: it does not depend on the order of the records, and adding records never moves a prompt from
    one side to the other. Prompts that differ only in case or spacing count as one. ``share`` is therefore the *expected* share of prompts;
    with few prompts a side can be empty.
    Raises ValueError when ``share`` is not in [0, 1).
    """
    if not 0.0 <= share < 1.0:
        raise ValueError(f"hold_out: share is {share!r}; allowed is a number from 0 (hold out nothing) to below 1.")
    sides: tuple[list[Record], list[Record]] = ([], [])
    for record in records:
        prompt = " ".join(record.prompt.split()).casefold()
        sides[hash_uniform("hold_out", seed, prompt) < share].append(record)
    return sides
