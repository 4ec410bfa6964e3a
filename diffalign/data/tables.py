"""Rows out of files: jsonl, json, csv, parquet, and the two forms of a Hugging Face dataset. Images stay encoded throughout."""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

ROWS_AT_ONCE = 64  # of a parquet file; each may hold two encoded images
SPLIT = re.compile(r"(train|validation|valid|val|test|dev)(?![a-z])")  # how split files, or folders, of a dataset repository begin
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

Rows = Iterator[tuple[str, dict]]


def jsonl_rows(path: Path) -> Rows:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield f"{path}:{number}", _object(f"{path}:{number}", line)


def json_rows(path: Path) -> Rows:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error}).") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: needed is a list of objects, [{{...}}, {{...}}]. One object a line is a .jsonl file.")
    for number, row in enumerate(rows):
        yield f"{path}[{number}]", row


def csv_rows(path: Path) -> Rows:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        for number, row in enumerate(csv.DictReader(lines), 1):
            if None in row or None in row.values():
                raise ValueError(f"{path}: row {number} has more or fewer fields than the header. Quote fields that hold a comma.")
            yield f"{path}: row {number}", row


def parquet_rows(paths: Iterable[Path]) -> Rows:
    import pyarrow.parquet

    for path in paths:
        try:
            file = pyarrow.parquet.ParquetFile(path)
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(f"{path}: not a readable parquet file ({error}). Fetch or write it again.") from error
        with file:
            batches = file.iter_batches(batch_size=ROWS_AT_ONCE)
            yield from _numbered(path, (row for batch in batches for row in batch.to_pylist()))


def parquet_files(folder: Path, split: str) -> list[Path]:
    """The parquet files below ``folder``; where names tell the split (``train-00000.parquet``, ``train/0000.parquet``), of ``split``."""
    files = sorted(folder.rglob("*.parquet"))
    splits = {file: match.group(1) for file in files for part in file.relative_to(folder).parts if (match := SPLIT.match(part))}
    if not splits:
        return files
    wanted = [file for file in files if splits.get(file) == split]
    if not wanted:
        raise ValueError(f"{folder}: no parquet file of split {split!r}; found are {', '.join(sorted(set(splits.values())))}.")
    return wanted


def saved_dataset_rows(folder: Path, split: str) -> Rows:
    """Rows of a folder that ``datasets.save_to_disk`` wrote."""
    import datasets

    try:
        dataset = datasets.load_from_disk(str(folder))
    except Exception as error:  # whatever arrow or datasets raises on a damaged folder
        raise ValueError(f"{folder}: datasets cannot load it ({error}). Save it again with save_to_disk.") from error
    if isinstance(dataset, datasets.DatasetDict):
        if split not in dataset:
            raise ValueError(f"{folder}: no split {split!r}; found are {', '.join(dataset)}.")
        dataset = dataset[split]
    return _dataset_rows(folder, dataset)


def hub_rows(name: str, split: str) -> Rows:
    """Rows of a dataset of the Hugging Face hub, or from its local cache when offline."""
    import datasets

    try:
        dataset = datasets.load_dataset(name, split=split)
    except Exception as error:  # offline, no such dataset, no such split, gated: the reader needs one message
        raise ValueError(
            f"{name!r} is no local file or folder, and as a dataset of the hub it could not be loaded (split {split!r}): {error}. "
            "Check the path; or be online once; or give a local folder, .jsonl, .csv, .json or .parquet file."
        ) from error
    return _dataset_rows(name, dataset)


def _dataset_rows(name, dataset) -> Rows:
    # The arrow view gives images as {'bytes', 'path'}; the default view would decode every one of them.
    batches = dataset.with_format("arrow").iter(batch_size=ROWS_AT_ONCE)
    return _numbered(name, (row for batch in batches for row in batch.to_pylist()))


def _numbered(name, rows: Iterable[dict]) -> Rows:
    return ((f"{name}[{number}]", row) for number, row in enumerate(rows))


def _object(where: str, text: str) -> dict:
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error}). Mend or remove the line.") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where}: a {type(row).__name__}; needed is one object a line, {{...}}.")
    return row
