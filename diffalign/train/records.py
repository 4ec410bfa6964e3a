"""The records of a run: read, of the kind that the method takes, with the columns it needs, some held out."""

from __future__ import annotations

import hashlib

from diffalign import data
from diffalign.methods import Point
from diffalign.objectives import Objective, PairObjective
from diffalign.train.config import TrainConfig
from diffalign.train.errors import ConfigError

FROM_SCORES = "p = sigmoid(s_chosen - s_rejected) of calibrated scores is one (for PickScore, s = (cosine - 0.1154)/0.1666)"


def read_records(config: TrainConfig, point: Point) -> tuple[list[data.Record], list[data.Record], list[str]]:
    """(records to train on, records to measure on, lines about both).

    Raises:
        ConfigError: nothing is left to train on, or the method needs what the data does not say, with how to make it.
    """
    return divide(config, point, *read_rows(config))


def read_rows(config: TrainConfig, decode: bool = False, **changes: str) -> tuple[list[data.Record], data.Counts]:
    """The records of ``config.data`` as they are, and what became of every row; arguments of ``data.read`` may be changed."""
    asked = {"columns": config.columns, "ties": config.ties, "split": config.data_split, "on_bad": config.on_bad_data}
    return data.read(config.data, decode=decode, **{**asked, **changes})


def divide(
    config: TrainConfig, point: Point, records: list[data.Record], counts: data.Counts
) -> tuple[list[data.Record], list[data.Record], list[str]]:
    """What ``read_records`` gives, from the records that were read."""
    try:
        records, conversion = data.as_source(records, point.source)
    except ValueError as error:
        raise ConfigError(f"{config.method}: {error}") from None
    if missing := _missing(records, point):
        raise ConfigError(f"{config.method}: {missing}")
    train, held_out = data.hold_out(records, config.held_out, config.seed)
    kept_out = len(held_out)
    train, held_out = some(train, config.max_pairs, config.seed), some(held_out, config.max_held_out_pairs, config.seed)
    what = point.source
    if not train:
        raise ConfigError(f"no record is left to train on: {counts}; {kept_out} are held out (held_out {config.held_out})")
    notes = [f"data: {counts}"] + ([conversion] if conversion else [])
    notes.append(f"{what}: {len(train)} to train on, {kept_out} held out ({len(held_out)} measured), no prompt in both")
    if masked := sum(record.mask is not None for record in [*train, *held_out]):
        whole = len(train) + len(held_out) - masked
        notes.append(f"masks: errors count within the mask of {masked} {what}" + (f", and everywhere in {whole}" if whole else ""))
    if config.held_out and not held_out:
        notes.append(f"no prompt fell into the held-out share of {config.held_out}: no held-out accuracy; raise held_out to get one")
    return train, held_out, notes


def _missing(records: list[data.Record], point: Point) -> str | None:
    """What the point reads and these records do not have, with how to make it."""
    if point.source == "rankings":
        odd = [data.relevance(record) for record in records]
        odd = [(record.id, scores) for record, scores in zip(records, odd, strict=True) if not 0 <= min(scores) <= max(scores) <= 1]
        if not odd:
            return None
        name, scores = odd[0]
        return (
            f"scores of a ranking are read as win probabilities in [0, 1] (gains 2^score - 1), and {len(odd)} of {len(records)} rankings "
            f"have others, the first is {name} with {', '.join(f'{score:g}' for score in scores)}: scale them, or give ranks"
        )
    if point.conditioning == "dual captions":
        without = [pair for pair in records if pair.prompt_chosen is None and pair.prompt_rejected is None]
        if without:
            return (
                f"dual captions need a caption of each side, and {len(without)} of {len(records)} pairs have neither of the columns "
                "prompt_chosen and prompt_rejected. Write them, or make them: python -m diffalign.pipelines.captions DATA dual.parquet"
            )
    if point.soft_label_scale is not None and all(pair.probability == 1.0 for pair in records):
        return f"soft labels are needed and every pair has probability 1: give a column probability in [0, 1]; {FROM_SCORES}"
    return missing_gap(records, point.objective, point.build_objective())


def missing_gap(records: list[data.Record], name: str, objective: Objective) -> str | None:
    """What an objective that regresses on a gap of rewards misses where every pair's is 0, with how to make it; else None."""
    if not (isinstance(objective, PairObjective) and objective.regresses and all(pair.margin == 0.0 for pair in records)):
        return None
    return (
        f"{name} regresses on the gap of two rewards and every pair has margin 0: give it as the column margin, R_chosen - R_rejected, "
        "R a sample's reward (of capo calibrated: its mean win probability against the reference model's samples)"
    )


def key_of(records: list[data.Record]) -> str:
    """One key of what the records say: ids, captions, labels, weights. A resumed run has to find the same."""
    said = [{name: value for name, value in vars(record).items() if name not in NOT_SAID} for record in records]
    return data.content_key("records", *(repr(sorted(facts.items())) for facts in said))


NOT_SAID = {"chosen", "rejected", "sample", "samples", "source", "mask", "origin"}  # images, of which the ids tell, and where it came from


def some(records: list, limit: int | None, seed: int) -> list:
    """At most ``limit`` records, those with the smallest hashes of their ids."""
    if limit is None or len(records) <= limit:
        return records
    return sorted(records, key=lambda record: hashlib.sha256(f"{seed}/{record.id}".encode()).digest())[:limit]
