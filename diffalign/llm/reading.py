"""From the columns of a row to a record of texts. Any file that ``diffalign.data`` opens, with TRL's column names:

    prompt chosen rejected            a pair, plain text or chats
    chosen rejected                   a pair whose responses have the prompt they share in front (``texts.split_off_prompt``)
    prompt completion label           a label: 1 or true is good
    prompt completions ranks|scores   a ranking

A chat is a list of turns {"role", "content"}, in a CSV file written as JSON. ``sample`` and ``samples`` are read as ``completion`` and
``completions``, ``score_chosen`` and ``score_rejected`` as a pair's ``scores``. Other names come through ``columns={"prompt": "text"}``.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from diffalign.data import Counts, Label, Pair, Ranking, Record
from diffalign.data.columns import BadRow, flag, listed, number, plain_text
from diffalign.data.readers import collect, open_rows
from diffalign.llm.texts import ASSISTANT, Text, split_off_prompt, turns

PLAIN = ("id", "origin")
NUMBERS = ("probability", "weight", "margin", "score_chosen", "score_rejected")
LAYOUTS = {  # kind -> (columns it needs, columns it may have)
    "pair": (("chosen", "rejected"), ("prompt", "id", "origin", "probability", "weight", "margin", "scores", *NUMBERS[-2:])),
    "label": (("prompt", "completion", "label"), ("id", "origin", "weight")),
    "ranking by ranks": (("prompt", "completions", "ranks"), ("id", "origin", "weight", "scores")),
    "ranking": (("prompt", "completions", "scores"), ("id", "origin", "weight")),
}
KNOWN = tuple(dict.fromkeys(name for needs, may in LAYOUTS.values() for name in (*needs, *may)))
ALIASES = {"completion": "sample", "completions": "samples"}


def read_texts(
    source: str | Path, *, columns: Mapping[str, str] | None = None, ties: str = "drop", split: str = "train", on_bad: str = "error"
) -> tuple[list[Record], Counts]:
    """The records of ``source``, their samples ``Text``, and what became of every row. Arguments and errors as of ``data.read``."""
    columns = dict(columns or {})
    for name in columns:
        if name not in KNOWN:
            close = difflib.get_close_matches(name, KNOWN, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"columns: unknown key {name!r} (write {{ours: yours}}); allowed are {', '.join(KNOWN)}.{hint}")
    _, rows = open_rows(source, split)
    return collect(source, rows, lambda found: resolve(found, columns), to_record, ties=ties, on_bad=on_bad)


def resolve(found: Iterable[str], columns: Mapping[str, str]) -> tuple[str, dict[str, str], tuple[str, ...]]:
    """(kind of row, {our name: column}, columns no one uses). Raises ValueError, listing what was found, where no layout fits."""
    found = tuple(found)
    listing = ", ".join(found) or "none"
    for name, column in columns.items():
        if column not in found:
            raise ValueError(f"columns: {name!r} is mapped to {column!r}, which is not there. Columns found: {listing}.")
    names = {name: name for name in KNOWN if name in found and name not in columns.values()}
    names |= {name: other for name, other in ALIASES.items() if name not in names and other in found}
    names |= columns
    for kind, (needs, may) in LAYOUTS.items():
        if all(name in names for name in needs):
            kept = {name: column for name, column in names.items() if name in needs or name in may}
            return kind, kept, tuple(column for column in found if column not in kept.values())
    layouts = "; or ".join(", ".join(needs) for needs, _ in LAYOUTS.values())
    raise ValueError(f"no layout of texts fits the columns found: {listing}. Needed are {layouts}. Name yours with columns.")


def to_record(row: Mapping[str, Any], layout: tuple, where: str) -> Record:
    """The record of one row. Raises BadRow, whose message does not repeat ``where``."""
    kind, names, _ = layout
    values = {name: _converted(name, column, row[column]) for name, column in names.items() if row[column] is not None}
    for name in LAYOUTS[kind][0]:
        if name not in values:
            raise BadRow("missing value", f"{names[name]} is empty; it is needed.")
    try:
        return _built(kind, {"id": None, **values})
    except ValueError as error:
        raise BadRow("invalid record", str(error)) from error


def _built(kind: str, values: dict[str, Any]) -> Record:
    if kind == "pair":
        return _pair(values)
    prompt = values.pop("prompt")
    if kind == "label":
        text = _text(prompt, values.pop("completion"))
        return Label(prompt=text.shown, sample=text, **values)
    texts = tuple(_text(prompt, response) for response in values.pop("completions"))
    return Ranking(prompt=texts[0].shown if texts else "", samples=texts, **values)


def _pair(values: dict[str, Any]) -> Pair:
    prompt, chosen, rejected = (values.pop(name, None) for name in ("prompt", "chosen", "rejected"))
    if prompt is None or (isinstance(prompt, str) and _is_whole_chat(chosen) and _is_whole_chat(rejected)):
        prompt, chosen, rejected = split_off_prompt(chosen, rejected)
    if chosen == rejected:
        raise ValueError("chosen and rejected are the same: there is nothing to prefer")
    sides = [_text(prompt, side) for side in (chosen, rejected)]
    scores = values.pop("score_chosen", None), values.pop("score_rejected", None)
    if None not in scores:
        values.setdefault("scores", scores)
    return Pair(prompt=sides[0].shown, chosen=sides[0], rejected=sides[1], **values)


def _is_whole_chat(side) -> bool:
    """Whether a response is a chat from its beginning on, so that a column ``prompt`` can only repeat in words what it starts with."""
    return not isinstance(side, str) and bool(side) and side[0]["role"] != ASSISTANT


def _text(prompt, response) -> Text:
    """The text; a prompt in plain words before a chat's response is a user's turn."""
    if isinstance(prompt, str) and not isinstance(response, str):
        prompt = ({"role": "user", "content": prompt},)
    return Text(prompt, response)


def _converted(name: str, column: str, raw: Any):
    if name in PLAIN:
        return plain_text(column, raw)
    if name in NUMBERS:
        return number(column, raw)
    if name == "label":
        return flag(column, raw)
    if name in ("ranks", "scores"):
        return [number(column, item) for item in listed(column, raw)]
    if name == "completions":
        return [_turns_or_text(column, item) for item in listed(column, raw)]
    return _turns_or_text(column, raw)


def _turns_or_text(column: str, raw: Any):
    """Plain text as it is, a chat as its turns (from JSON where a CSV file holds it)."""
    if isinstance(raw, str) and raw.lstrip().startswith("[{"):
        try:
            raw = json.loads(raw)
        except json.JSONDecodeError:
            return raw
    if isinstance(raw, str):
        return raw
    if not isinstance(raw, list | tuple):
        raise BadRow("bad text", f"{column} is a {type(raw).__name__}, {str(raw)[:80]!r}; text or a list of turns is needed.")
    try:
        return turns(raw)
    except ValueError as error:
        raise BadRow("bad chat", f"{column}: {error}") from error
