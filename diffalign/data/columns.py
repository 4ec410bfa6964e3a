"""From the columns of a row to a record: which columns mean what, and what counts as a bad row.

    prompt chosen rejected            a pair, with any optional column of Pair
    prompt jpg_0 jpg_1 label_0        a pair as Pick-a-Pic writes it: label_0 is the probability that jpg_0 wins (0.5 is a tie)
    prompt sample label               a label
    prompt samples ranks|scores       a ranking

``caption`` is read as ``prompt`` where there is no ``prompt``. Any other name comes through ``columns={"prompt": "text", ...}``.
"""

import difflib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from diffalign.data.image import Image
from diffalign.data.records import Label, Pair, Ranking, Record

IMAGES = ("chosen", "rejected", "jpg_0", "jpg_1", "sample", "source", "mask")
TEXTS = ("id", "prompt", "prompt_chosen", "prompt_rejected", "origin")
NUMBERS = ("probability", "weight", "margin", "label_0")
LISTS = ("scores", "ranks")
PAIR_OPTIONAL = ("id", "prompt_chosen", "prompt_rejected", "probability", "weight", "margin", "scores", "source", "mask", "origin")


class BadRow(ValueError):
    """A row that cannot become a record. ``reason`` is what Counts files it under."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Layout:
    """A kind of row: the columns it needs, those it may have, and how its values (by canonical name) become a record."""

    needs: tuple[str, ...]
    optional: tuple[str, ...]
    build: Callable[[dict], Record]


def _pick_a_pic(values: dict) -> Pair:
    first_wins = values.pop("label_0")
    if not 0.0 <= first_wins <= 1.0:
        raise BadRow("label out of range", f"label_0 is {first_wins!r}; allowed is the probability that jpg_0 wins, 0 to 1.")
    images = [values.pop("jpg_0"), values.pop("jpg_1")]
    chosen, rejected = images if first_wins >= 0.5 else reversed(images)
    return Pair(chosen=chosen, rejected=rejected, probability=max(first_wins, 1.0 - first_wins), **values)


LAYOUTS = (
    Layout(("prompt", "chosen", "rejected"), PAIR_OPTIONAL, lambda values: Pair(**values)),
    Layout(("prompt", "jpg_0", "jpg_1", "label_0"), tuple(name for name in PAIR_OPTIONAL if name != "probability"), _pick_a_pic),
    Layout(("prompt", "sample", "label"), ("id", "weight", "mask", "origin"), lambda values: Label(**values)),
    Layout(("prompt", "samples", "ranks"), ("id", "scores", "weight", "mask", "origin"), lambda values: Ranking(**values)),
    Layout(("prompt", "samples", "scores"), ("id", "weight", "mask", "origin"), lambda values: Ranking(**values)),
)
KNOWN = tuple(dict.fromkeys(name for layout in LAYOUTS for name in (*layout.needs, *layout.optional)))


def check_columns(columns: Mapping[str, str]):
    """ValueError when a key of the user's column map is none of ours."""
    for name in columns:
        if name not in KNOWN:
            close = difflib.get_close_matches(name, KNOWN, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"columns: unknown key {name!r} (write {{ours: yours}}); allowed are {', '.join(KNOWN)}.{hint}")


def resolve(found: Iterable[str], columns: Mapping[str, str]) -> tuple[Layout, dict[str, str], tuple[str, ...]]:
    """(layout, {canonical name: column}, columns no one uses) for a row with the columns ``found``.

    Raises ValueError, listing what was found, when a mapped column is absent or no layout fits.
    """
    found = tuple(found)
    listing = ", ".join(found) or "none"
    for name, column in columns.items():
        if column not in found:
            raise ValueError(f"columns: {name!r} is mapped to {column!r}, which is not there. Columns found: {listing}.")
    names = {name: name for name in KNOWN if name in found and name not in columns.values()} | dict(columns)
    if "prompt" not in names and "caption" in found:
        names["prompt"] = "caption"
    for layout in LAYOUTS:
        if all(name in names for name in layout.needs):
            useless = [name for name in columns if name not in layout.needs and name not in layout.optional]
            if useless:
                raise ValueError(f"columns: {', '.join(useless)} mean nothing for rows of {', '.join(layout.needs)}. Leave them out.")
            names = {name: column for name, column in names.items() if name in layout.needs or name in layout.optional}
            return layout, names, tuple(column for column in found if column not in names.values())
    layouts = "; or ".join(", ".join(layout.needs) for layout in LAYOUTS)
    raise ValueError(
        f"no layout fits the columns found: {listing}. Needed are {layouts}. Name yours with columns={{'prompt': 'yours', ...}}."
    )


def to_record(row: Mapping, layout: Layout, names: Mapping[str, str], base: Path, where: str, decode: bool) -> Record:
    """The record of one row. Image paths are relative to ``base``. Raises BadRow, whose message does not repeat ``where``."""
    values = {}
    for name, column in names.items():
        raw = row[column]
        absent = raw is None or (isinstance(raw, str) and not raw.strip())
        if not absent:
            values[name] = _convert(name, column, raw, base, f"{where} {column}", decode)
        elif name == "prompt":
            raise BadRow("empty prompt", f"{column} is {raw!r}; a record needs a prompt.")
        elif name in layout.needs:
            raise BadRow("missing image" if name in IMAGES else "missing value", f"{column} is {raw!r}; it is needed.")
    try:
        return layout.build({"id": None} | values)
    except BadRow:
        raise
    except ValueError as error:
        raise BadRow("invalid record", str(error)) from error


def _convert(name: str, column: str, raw, base: Path, where: str, decode: bool):
    if name in IMAGES:
        return _image(column, raw, base, where, decode)
    if name in TEXTS:
        return plain_text(column, raw)
    if name in NUMBERS:
        return number(column, raw)
    if name == "label":
        return flag(column, raw)
    items = listed(column, raw)
    if name in LISTS:
        return [number(column, item) for item in items]
    return [_image(column, item, base, f"{where}[{number}]", decode) for number, item in enumerate(items)]


def _image(column: str, raw, base: Path, where: str, decode: bool) -> Image:
    """From a path, encoded bytes, or the {'bytes', 'path'} struct of Hugging Face datasets. Reads the header; with ``decode``, all."""
    data, path = (raw.get("bytes"), raw.get("path")) if isinstance(raw, Mapping) else (None, raw)
    if isinstance(path, bytes):
        data, path = path, None
    if data is None and not isinstance(path, (str, Path)):
        raise BadRow("missing image", f"{column} is {str(raw)[:80]!r}; needed are a path, encoded bytes or a {{'bytes', 'path'}} struct.")
    if data is None and not os.path.isfile(base / path):  # False, not an error, for a URL or a base64 text
        raise BadRow("missing file", f"{column}: there is no file {base / path}. Relative paths start at {base}.")
    image = Image(path=base / path) if data is None else Image(data=data, name=str(path or where))
    try:
        image.check(decode)
    except ValueError as error:
        raise BadRow("unreadable image", f"{column}: {error}") from error
    return image


def plain_text(column: str, raw) -> str:
    if isinstance(raw, bool) or not isinstance(raw, (str, int)):
        raise BadRow("bad text", f"{column} is a {type(raw).__name__}, {str(raw)[:80]!r}; one text is needed.")
    return str(raw)


def number(column: str, raw) -> float:
    try:
        value = float(raw)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise BadRow("bad number", f"{column} is {raw!r}; a finite number is needed.")
    return value


def flag(column: str, raw) -> bool:
    flag = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}.get(str(raw).strip().lower())
    if flag is None:
        raise BadRow("label out of range", f"{column} is {raw!r}; allowed are 1 or true (good) and 0 or false (bad).")
    return flag


def listed(column: str, raw) -> list:
    """A list, or (in CSV files) a list written as JSON."""
    try:
        items = json.loads(raw) if isinstance(raw, str) else raw
    except json.JSONDecodeError:
        items = None
    if not isinstance(items, (list, tuple)):
        raise BadRow("bad list", f"{column} is {raw!r}; a list is needed (in a CSV file, written as JSON).")
    return list(items)
