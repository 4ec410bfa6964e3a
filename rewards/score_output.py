"""The table of scores, its summary, and the facts beside it."""

from __future__ import annotations

import csv
import json
import math
import os
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffalign.rewards.manifests_items import Item
from diffalign.rewards.score import Scores

FORMATS = (".csv", ".jsonl", ".parquet")
ABOUT = ("prompt_id", "seed", "model")  # columns that are there where an item has them


def table(items: Sequence[Item], found: Scores, wide: bool = False) -> tuple[list[str], Iterator[dict[str, Any]]]:
    """(columns, rows): image, prompt, reward, score, error, one row an image and reward; ``wide``: one an image, a column a reward."""
    about = [name for name in ABOUT if any(vars(item)[name] is not None for item in items)]
    names = list(found.scores)
    middle = names if wide else ["reward", "score"]
    return ["image", "prompt", *about, *middle, "error"], _wide(items, found, about, names) if wide else _long(items, found, about, names)


def _long(items, found: Scores, about: list[str], names: list[str]) -> Iterator[dict[str, Any]]:
    for i, item in enumerate(items):
        for name in names:
            yield _told(item, about) | {"reward": name, "score": found.scores[name][i], "error": found.errors[name][i]}


def _wide(items, found: Scores, about: list[str], names: list[str]) -> Iterator[dict[str, Any]]:
    for i, item in enumerate(items):
        errors = {name: found.errors[name][i] for name in names}
        texts = set(errors.values()) - {None}
        error = texts.pop() if len(texts) == 1 else "; ".join(f"{name}: {text}" for name, text in errors.items() if text) or None
        yield _told(item, about) | {name: found.scores[name][i] for name in names} | {"error": error}


def _told(item: Item, about: list[str]) -> dict[str, Any]:
    return {"image": item.image, "prompt": item.prompt, **{name: vars(item)[name] for name in about}}


def write(path: Path, columns: list[str], rows: Iterator[dict[str, Any]]) -> None:
    """The table as .csv, .jsonl or .parquet, whole or not at all. A score that is NaN is ``nan`` in csv, null in jsonl."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    if path.suffix == ".parquet":
        _write_parquet(part, columns, rows)
    else:
        with part.open("w", encoding="utf-8", newline="") as file:
            write_text(file, columns, rows, path.suffix)
            file.flush()
            os.fsync(file.fileno())
    os.replace(part, path)


def write_text(file, columns: list[str], rows: Iterator[dict[str, Any]], suffix: str = ".csv") -> None:
    """The table into an open text file."""
    if suffix == ".csv":
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
        return
    for row in rows:
        plain = {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
        file.write(json.dumps(plain, ensure_ascii=False) + "\n")


def _cell(value: Any) -> Any:
    return "" if value is None else repr(value) if isinstance(value, float) else value


def _write_parquet(part: Path, columns: list[str], rows: Iterator[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = {"image", "prompt", *ABOUT, "reward", "error"}
    schema = pa.schema([(name, pa.string() if name in texts else pa.float64()) for name in columns])
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), part)


def write_json(path: Path, facts: Mapping[str, Any]) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(facts, indent=1, default=str), encoding="utf-8")
    os.replace(part, path)


def summary(found: Scores) -> dict[str, dict[str, Any]]:
    """reward -> n, mean, median (of the n finite scores), nan (answers that were none) and errors."""
    facts = {}
    for name, scores in found.scores.items():
        finite = [score for score in scores if math.isfinite(score)]
        errors = sum(error is not None for error in found.errors[name])
        facts[name] = {
            "n": len(finite),
            "mean": statistics.fmean(finite) if finite else None,
            "median": statistics.median(finite) if finite else None,
            "nan": len(scores) - len(finite) - errors,
            "errors": errors,
        }
    return facts


def print_summary(facts: Mapping[str, Mapping[str, Any]]) -> None:
    """As a table, on the screen's error stream: the other may hold the scores."""
    width = max(len("reward"), *map(len, facts))
    print(f"{'reward':{width}}  {'n':>7}  {'mean':>10}  {'median':>10}  {'NaN':>5}  {'errors':>6}", file=sys.stderr)
    for name, row in facts.items():
        mean, median = (f"{row[key]:10.4f}" if row["n"] else f"{'':>10}" for key in ("mean", "median"))
        print(f"{name:{width}}  {row['n']:7}  {mean}  {median}  {row['nan']:5}  {row['errors']:6}", file=sys.stderr)
