"""One thing to score: where its sample lies, and what it is judged against."""

from __future__ import annotations

import dataclasses
import threading
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

SUFFIXES = {
    "image": (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"),
    "audio": (".wav", ".flac", ".ogg", ".mp3"),
    "lidar": (".ply", ".bin", ".npy"),
}


@dataclass(frozen=True)
class Sample:
    """A file, or the cell of a parquet table that holds a file's bytes."""

    path: Path
    column: str | None = None
    row: int = 0

    def load(self) -> Path | bytes:
        """What a reward reads: the path, or the bytes. OSError or ValueError where there is nothing."""
        if self.column is None:
            return self.path
        value = _cell(self.path, self.column, self.row)
        data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if data is None and path is None:
            raise ValueError(f"row {self.row} of {self.path} has nothing in the column {self.column}")
        return self.path.parent / path if data is None else data

    def identity(self) -> str:
        """The file's place, size and time of change: while these stay, so does the content. OSError where there is no file."""
        facts = self.path.stat()
        cell = "" if self.column is None else f"|{self.column}|{self.row}"
        return f"{self.path.resolve()}|{facts.st_size}|{facts.st_mtime_ns}{cell}"


@dataclass(frozen=True)
class Item:
    """One row to be.

    image    how the table calls the sample: its path as given, or its place in a table
    error    what is known to be wrong with it before it is read: it is not scored, its row says so
    prompt_id, seed, model   where a table or a layout tells them (a layout: the number among the prompt's samples as the seed)
    """

    image: str
    sample: Sample
    prompt: str | None = None
    prompt_id: str | None = None
    seed: str | None = None
    model: str | None = None
    error: str | None = None

    def with_prompt(self, prompt: str) -> Item:
        return dataclasses.replace(self, prompt=prompt)


def image_files(paths: Iterable[Path], modality: str = "image") -> list[Path]:
    """Those that are files of a modality, by their suffix, sorted."""
    return sorted(path for path in paths if path.suffix.lower() in SUFFIXES[modality] and path.is_file())


_READING = threading.Lock()  # several workers want cells of the same row group: it is read once


def _cell(path: Path, column: str, row: int):
    with _READING:
        starts = _row_group_starts(path)
        group = bisect_right(starts, row) - 1
        return _row_group(path, column, group)[row - starts[group]]


@lru_cache(maxsize=64)
def _row_group_starts(path: Path) -> list[int]:
    import pyarrow.parquet as pq

    facts, starts = pq.read_metadata(path), [0]
    for group in range(facts.num_row_groups):
        starts.append(starts[-1] + facts.row_group(group).num_rows)
    return starts


@lru_cache(maxsize=3)
def _row_group(path: Path, column: str, group: int) -> list:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return file.read_row_group(group, columns=[column]).column(column).to_pylist()
