"""``read``: any source of preferences to records, with an account of every row."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from diffalign.data import folders, tables
from diffalign.data.columns import BadRow, check_columns, resolve, to_record
from diffalign.data.counts import Counts
from diffalign.data.records import Pair, Record

FILE_READERS = {".jsonl": tables.jsonl_rows, ".json": tables.json_rows, ".csv": tables.csv_rows}
TIES = ("drop", "half")
ON_BAD = ("error", "skip")
SOURCES = (
    "a folder with chosen/ and rejected/; a folder of name_w.png and name_l.png; a .jsonl, .csv, .json or .parquet file; "
    "a folder of .parquet files; a folder written by datasets.save_to_disk; a dataset of the hub (owner/name)"
)


def read(
    source: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    ties: str = "drop",
    split: str = "train",
    on_bad: str = "error",
    decode: bool = False,
) -> tuple[list[Record], Counts]:
    """The records of ``source`` in its order, and what became of every row.

    Args:
        source: a path or the id of a dataset on the hub; see ``SOURCES``, ``folders`` and ``columns`` for the layouts.
        columns: {our name: their name} for columns that are not recognised by themselves.
        ties: pairs whose probability is exactly one half: ``drop``, or ``half`` (keep them with probability 0.5), whatever the source.
            *Deviates:* the released Diffusion-DPO code drops ties only for data sets named pickapic and elsewhere trains them as wins.
        split: of a dataset that has splits.
        on_bad: a row without prompt, with a missing file, an unreadable header or a value out of range: ``error``, or ``skip`` and count.
        decode: decode every image now, which finds truncated files before training does, at the price of a pass over the pixels.

    A repeated id is a second opinion, not an error: it is kept, and its id gets ``~2``, ``~3``, ... (``Counts.repeated``), so that its
    noise is its own. Raises ValueError when the source, a column or every row is unusable.
    """
    columns = dict(columns or {})
    check_columns(columns)
    base, rows = open_rows(source, split)
    return collect(
        source, rows, lambda found: resolve(found, columns), lambda row, layout, where: to_record(row, *layout[:2], base, where, decode),
        ties=ties, on_bad=on_bad,
    )  # fmt: skip


def collect(
    source: str | Path, rows: tables.Rows, resolve: Callable[..., tuple], make: Callable[..., Record], *, ties: str, on_bad: str
) -> tuple[list[Record], Counts]:
    """The records of rows of any modality, and what became of every row; ``ties`` and ``on_bad`` as of ``read``.

    Args:
        resolve: column names of a row -> (two values for ``make``, the columns that no one uses). make: (row, what ``resolve`` gave, where
            the row is) -> its record; raises BadRow.
    """
    for name, value, allowed in (("ties", ties, TIES), ("on_bad", on_bad, ON_BAD)):
        if value not in allowed:
            raise ValueError(f"read: {name} is {value!r}; allowed are {', '.join(allowed)}.")
    records: dict[str, Record] = {}
    counts = Counts()
    layouts = {}  # columns of a row -> their meaning; rows of one file may differ in optional columns
    for where, row in rows:
        counts.read += 1
        if tuple(row) not in layouts:
            try:
                layouts[tuple(row)] = resolve(row)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
        try:
            record = make(row, layouts[tuple(row)], where)
        except BadRow as error:
            if on_bad == "error":
                skip = "leave such rows out (on_bad='skip'; of a run, --on-bad-data skip)"
                raise ValueError(f"{where}: {error} Mend the row, or {skip}.") from error
            counts.drop(error.reason, f"{where}: {error}")
            continue
        if isinstance(record, Pair) and record.is_tie:
            if ties == "drop":
                counts.drop("tie")
                continue
            counts.ties += 1
        if record.id in records:
            counts.repeated += 1
            record = dataclasses.replace(record, id=_next_id(record.id, records))
        records[record.id] = record
    counts.kept = len(records)
    counts.ignored = tuple(dict.fromkeys(column for *_, unused in layouts.values() for column in unused))
    if not records:
        raise ValueError(f"{source}: no usable record ({counts}).")
    return list(records.values()), counts


def open_rows(source: str | Path, split: str) -> tuple[Path, tables.Rows]:
    """(folder that relative image paths start at, rows)"""
    path = Path(source)
    if path.is_file():
        if path.suffix in FILE_READERS:
            return path.parent, FILE_READERS[path.suffix](path)
        if path.suffix == ".parquet":
            return path.parent, tables.parquet_rows([path])
        raise ValueError(f"{path}: files of type {path.suffix!r} are not read. Allowed: {SOURCES}.")
    if path.is_dir():
        if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
            return path, tables.saved_dataset_rows(path, split)
        if folders.is_pair_folder(path):
            return path, folders.folder_rows(path)
        if parquets := tables.parquet_files(path, split):
            return path, tables.parquet_rows(parquets)
        found = ", ".join(sorted(entry.name for entry in path.iterdir())[:12]) or "nothing"
        raise ValueError(f"{path}: no known layout; the folder holds {found}. Allowed: {SOURCES}.")
    if isinstance(source, str) and tables.HUB_ID.fullmatch(source) and path.suffix not in (*FILE_READERS, ".parquet"):
        return Path(), tables.hub_rows(source, split)
    raise ValueError(f"{source}: there is no such file or folder. Allowed: {SOURCES}.")


def _next_id(id: str, taken: Mapping[str, Record]) -> str:
    number = 2
    while f"{id}~{number}" in taken:
        number += 1
    return f"{id}~{number}"
