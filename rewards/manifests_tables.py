"""Tables that name samples and prompts: .jsonl, .json, .csv, .parquet; and prompts alone, .txt too."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffalign.rewards.manifests_items import Item, Sample

TABLES = (".jsonl", ".json", ".csv", ".parquet")
# Ours, and the names it is known by elsewhere: Hugging Face image folders, Diffusion-SDPO's manifests, captioned data sets.
NAMES = {
    "image": ("image", "file_name", "path", "image_path", "img_path", "gen_image_path"),
    "prompt": ("prompt", "caption", "text", "prompt_en", "prompt_zh"),
    "prompt_id": ("prompt_id", "id", "index"),
    "seed": ("seed",),
    "model": ("model",),
}


def table_items(path: Path, columns: Mapping[str, str] | None = None) -> Iterator[Item]:
    """The items of a table; paths are relative to its folder.

    Raises ValueError, which names the table, for what is no table, has no column of samples, or does not have a mapped column.
    """
    columns = columns or {}
    if unknown := set(columns) - set(NAMES):
        raise ValueError(f"columns: unknown {', '.join(sorted(unknown))}; ours are {', '.join(NAMES)} (write ours, then theirs)")
    for where, row in rows(path):
        names = _resolved(where, row, columns)
        about = {ours: _text(row[theirs]) for ours, theirs in names.items() if ours != "image"}
        given = row[names["image"]]
        if isinstance(given, Sample):
            yield Item(f"{path}#{given.row}", given, **about)
        elif isinstance(given, str) and given.strip():
            yield Item(given, Sample(path.parent / given), **about)
        else:
            yield Item(where, Sample(path), **about, error=f"{where}: {names['image']} is {given!r}; a path is needed")


@dataclass(frozen=True)
class PromptTable:
    """id -> prompt, in the file's order; ``has_ids`` says whether the ids are the file's own or its line numbers, from 0."""

    path: Path
    prompts: dict[str, str]
    has_ids: bool


def prompt_table(path: Path) -> PromptTable:
    """The prompts of a file: lines of .txt, a .json list of texts, or rows with a prompt and perhaps an id. ValueError for another."""
    if not path.is_file():
        raise ValueError(f"prompts: there is no file {path}")
    if path.suffix.lower() == ".txt":
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        while lines and not lines[-1].strip():
            lines.pop()
        return PromptTable(path, {str(i): line.strip() for i, line in enumerate(lines)}, False)
    if path.suffix.lower() not in TABLES:
        raise ValueError(f"prompts: {path} is none of .txt, {', '.join(TABLES)}")
    texts = _json_list(path) if path.suffix.lower() == ".json" else [None]
    if all(isinstance(text, str) for text in texts):
        return PromptTable(path, {str(i): text for i, text in enumerate(texts)}, False)
    found, has_ids = {}, None
    for i, (where, row) in enumerate(rows(path)):
        names = {ours: _first(row, NAMES[ours]) for ours in ("prompt", "prompt_id")}
        if names["prompt"] is None:
            raise ValueError(f"{where}: columns found are {', '.join(row)}; needed is one of {', '.join(NAMES['prompt'])}")
        has_ids = names["prompt_id"] is not None
        key = _text(row[names["prompt_id"]]) if has_ids else str(i)
        if key in found:
            raise ValueError(f"{where}: a second prompt with the id {key!r}")
        found[key] = _text(row[names["prompt"]]) or ""
    return PromptTable(path, found, bool(has_ids))


def rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) of a table. Cells of parquet that hold bytes come as Samples, unread. ValueError for what is no such table."""
    kind = path.suffix.lower()
    if kind == ".json":
        for i, row in enumerate(_json_list(path)):
            yield f"{path}[{i}]", _object(f"{path}[{i}]", row)
    elif kind == ".jsonl":
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    try:
                        row = json.loads(line)
                    except json.JSONDecodeError as error:
                        raise ValueError(f"{path}:{number}: not JSON ({error})") from error
                    yield f"{path}:{number}", _object(f"{path}:{number}", row)
    elif kind == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as lines:
            for number, row in enumerate(csv.DictReader(lines), 1):
                if None in row or None in row.values():
                    raise ValueError(f"{path}: row {number} has more or fewer fields than the header; quote fields that hold a comma")
                yield f"{path}: row {number}", row
    else:
        yield from _parquet_rows(path)


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a readable parquet file ({error})") from error
    held = [field.name for field in schema if _holds_bytes(field.type)]
    plain = [name for name in schema.names if name not in held]
    with pq.ParquetFile(path) as file:
        count = file.metadata.num_rows
        batches = file.iter_batches(columns=plain) if plain else ()
        told = (row for batch in batches for row in batch.to_pylist()) if plain else ({} for _ in range(count))
        for i, row in enumerate(told):
            yield f"{path}#{i}", {**row, **{name: Sample(path, name, i) for name in held}}


def _holds_bytes(kind) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
    return types.is_binary(kind) or types.is_large_binary(kind)


def _resolved(where: str, row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, str]:
    """ours -> theirs, of the columns that are there."""
    for ours, theirs in columns.items():
        if theirs not in row:
            raise ValueError(f"{where}: {ours!r} is mapped to {theirs!r}, which is not there; found are {', '.join(row)}")
    names = {ours: columns.get(ours) or _first(row, known) for ours, known in NAMES.items()}
    if names["image"] is None:
        known = ", ".join(NAMES["image"])
        raise ValueError(f"{where}: columns found are {', '.join(row)}; needed is one of {known} (or map yours: --columns image YOURS)")
    return {ours: theirs for ours, theirs in names.items() if theirs is not None}


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in row), None)


def _text(value: Any) -> str | None:
    return None if value is None or not str(value).strip() else str(value)


def _json_list(path: Path) -> list:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    if not isinstance(found, list):
        raise ValueError(f"{path}: needed is a list, [...]; one object a line is a .jsonl file")
    return found


def _object(where: str, row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(f"{where}: a {type(row).__name__}; needed is an object, {{...}}")
    return row
