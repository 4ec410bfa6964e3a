"""Tables of scores, as ``diffalign score`` writes them, and how two of them are brought onto the same prompts and seeds."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffalign.rewards.manifests_tables import TABLES, rows

BY = ("prompt_id", "seed")
ABOUT = ("image", "prompt", "prompt_id", "seed", "model", "error")  # columns of a wide table that are no rewards
SHOWN = 3  # keys that a message names


@dataclass(frozen=True)
class ScoreTable:
    """One model's scores. keys: N of them, an image's values of ``by``; scores: reward -> (N,) float64, NaN where there is none."""

    name: str
    by: tuple[str, ...]
    keys: tuple[tuple[str, ...], ...]
    scores: dict[str, np.ndarray]


def read_scores(place: str | Path, by: Sequence[str] = BY) -> ScoreTable:
    """Read a table, long (reward, score) or wide (a column a reward): .csv, .jsonl, .json or .parquet.

    Args:
        place: the file; FILE@MODEL takes the rows of one model where the table holds several. by: columns that identify an image.

    Raises:
        ValueError: no such table, a column that is missing, a cell that is no number, or an image that is there twice.
    """
    path, model = _place(str(place))
    by, long = tuple(by), None
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for where, row in rows(path):
        if long is None:
            long = "reward" in row and "score" in row
            _check_columns(path, row, by, model)
        if model is not None and str(row["model"]) != model:
            continue
        key = tuple(_text(row[name]) for name in by)
        if "" in key:
            raise ValueError(f"{where}: {by[key.index('')]} is empty, so the image cannot be found in the other table")
        cells = {_text(row["reward"]): row["score"]} if long else {name: cell for name, cell in row.items() if name not in ABOUT}
        for reward, cell in cells.items():
            if key in found.setdefault(reward, {}):
                more = "; a table of several models is named FILE@MODEL" if "model" in row and model is None else ""
                raise ValueError(f"{where}: a second score of {reward} for {told(by, key)}{more}")
            found[reward][key] = _number(where, reward, cell)
    if not any(found.values()):
        raise ValueError(f"{path}: no scores" + (f" of the model {model!r}" if model else ""))
    keys = tuple(dict.fromkeys(key for scores in found.values() for key in scores))
    return ScoreTable(
        str(place), by, keys, {reward: np.array([scores.get(key, math.nan) for key in keys]) for reward, scores in found.items()}
    )


def align(
    keys_a: Sequence[Hashable], keys_b: Sequence[Hashable], *, by: Sequence[str] = BY, names: tuple[str, str] = ("A", "B"),
    drop: bool = False,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """(rows of A, rows of B), each (K,) integers: the same keys in A's order. Keys are (prompt_id, seed), never the prompt's text.

    Args:
        by: what the parts of a key are called. names: of the two sides, for the message. drop: go on with the keys that both have.

    Raises:
        ValueError: a key is there twice on one side, or on one side only (the message says which); with ``drop``, no key is on both.
    """
    places = []
    for name, keys in zip(names, (keys_a, keys_b), strict=True):
        place = {key: row for row, key in enumerate(keys)}
        if len(place) < len(keys):
            twice = next(key for row, key in enumerate(keys) if place[key] != row)
            raise ValueError(f"{name} holds {told(by, twice)} twice")
        places.append(place)
    a, b = places
    missing = [(names[1], [key for key in a if key not in b]), (names[0], [key for key in b if key not in a])]
    common = [key for key in a if key in b]
    if any(keys for _, keys in missing) and (not drop or not common):
        parts = [f"{len(keys)} missing in {name} ({_first(by, keys)})" for name, keys in missing if keys]
        raise ValueError(
            f"the two do not hold the same {' and '.join(by)}: {len(common)} in both, {', '.join(parts)}. Generate, score what is missing"
            + (", or compare what both have (--missing drop)" if common else "; are the ids of the same list of prompts?")
        )
    return np.array([a[key] for key in common], dtype=np.int64), np.array([b[key] for key in common], dtype=np.int64)


def told(by: Sequence[str], key) -> str:
    """"prompt_id 7, seed 0"."""
    parts = key if isinstance(key, tuple) else (key,)
    return ", ".join(f"{name} {value}" for name, value in zip(by, parts, strict=False))


def _first(by: Sequence[str], keys: Sequence) -> str:
    return "; ".join(told(by, key) for key in keys[:SHOWN]) + ("; ..." if len(keys) > SHOWN else "")


def _place(text: str) -> tuple[Path, str | None]:
    path, at, model = text.rpartition("@")
    file = Path(path) if at and not Path(text).is_file() else Path(text)
    if not file.is_file():
        raise ValueError(f"there is no table {text}")
    if file.suffix.lower() not in TABLES:
        raise ValueError(f"{text} is none of {', '.join(TABLES)}")
    return file, model if file == Path(path) and at else None


def _check_columns(path: Path, row, by: Sequence[str], model: str | None) -> None:
    if "prompt" in by:
        raise ValueError("prompts cannot be told apart by their text, which lists hold more than once: align by prompt_id")
    if missing := [name for name in (*by, *(["model"] if model is not None else [])) if name not in row]:
        found = f"no column {', '.join(missing)}; found are {', '.join(row)}"
        raise ValueError(f"{path}: {found}. Choose others with --by, or score images whose table has prompt_id and seed")


def _text(value) -> str:
    return "" if value is None else str(value).strip()


def _number(where: str, reward: str, cell) -> float:
    if cell is None or cell == "":
        return math.nan
    try:
        return float(cell)
    except (TypeError, ValueError):
        raise ValueError(f"{where}: {reward} is {cell!r}; a score is a number") from None
