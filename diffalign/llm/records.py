"""The records of a run on text: read, of the kind that the objective takes, tokenized, some held out."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from diffalign import data
from diffalign.llm.batch import TextStore
from diffalign.llm.config import TextConfig
from diffalign.llm.reading import read_texts
from diffalign.llm.tokenize import Tokens, Writer
from diffalign.objectives import Objective
from diffalign.train.errors import ConfigError
from diffalign.train.records import missing_gap, some


def read_store(config: TextConfig, objective: Objective, writer: Writer) -> tuple[TextStore, int, list[str]]:
    """(records with their tokens, those to train on first; how many these are; lines about them).

    Raises:
        ConfigError: nothing is left to train on, or the data is of another kind. ValueError: a row that cannot be used, with its place.
    """
    records, counts = read_texts(config.data, columns=config.columns, ties=config.ties, split=config.data_split, on_bad=config.on_bad_data)
    try:
        records, conversion = data.as_source(records, objective.takes)
    except ValueError as error:
        raise ConfigError(f"{config.objective}: {error}") from None
    if missing := missing_gap(records, config.objective, objective):
        raise ConfigError(missing)
    tokens, dropped = tokenized(records, writer, skip=config.on_bad_data == "skip")
    records = [record for record in records if record.id in tokens]
    train, held_out = data.hold_out(records, config.held_out, config.seed)
    kept_out = len(held_out)
    train, held_out = some(train, config.max_pairs, config.seed), some(held_out, config.max_held_out_pairs, config.seed)
    if not train:
        raise ConfigError(f"no record is left to train on: {counts}{dropped}; {kept_out} are held out (held_out {config.held_out})")
    what = objective.takes
    notes = [f"data: {counts}{dropped}"] + ([conversion] if conversion else [])
    notes.append(f"{what}: {len(train)} to train on, {kept_out} held out ({len(held_out)} measured), no prompt in both")
    if config.held_out and not held_out:
        notes.append(f"no prompt fell into the held-out share of {config.held_out}: no held-out accuracy; raise held_out to get one")
    chosen = [*train, *held_out]
    rows = [row for record in chosen for row in tokens[record.id]]
    lengths, sizes = [len(row.ids) for row in rows], [row.size for row in rows]
    notes.append(
        f"text: {len(rows)} responses of {statistics.median(sizes):.0f} tokens (median; {max(sizes)} at most), with their prompts "
        f"{statistics.median(lengths):.0f} ({max(lengths)})"
    )
    if writer.merged:
        notes.append(f"text: in {writer.merged} texts a token spans the border of prompt and response; that response was tokenized alone")
    return TextStore(chosen, [tokens[record.id] for record in chosen]), len(train), notes


def tokenized(records: Sequence[data.Record], writer: Writer, *, skip: bool) -> tuple[dict[str, tuple[Tokens, ...]], str]:
    """(record id -> the tokens of its responses, what to say of the records left out).

    Raises:
        ValueError: a record that cannot be tokenized or is too long, unless such are skipped.
    """
    found, too_long, bad = {}, 0, 0
    for record in records:
        try:
            rows = tuple(writer.cut(writer(text)) for text in record.images)
        except ValueError as error:
            if not skip:
                raise ValueError(f"{record.id} ({record.prompt[:40]!r}): {error}") from None
            bad += 1
            continue
        if None in rows:
            too_long += 1
        else:
            found[record.id] = rows
    counts = [(too_long, "longer than max_length"), (bad, "that could not be tokenized")]
    return found, "".join(f", {count} {why} left out" for count, why in counts if count)
