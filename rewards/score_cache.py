"""Scores kept by content: what was scored once is not scored again, whatever its file is called and whoever asks.

One sqlite file of two tables:

    scores    sha256(content of the decoded sample, prompt, state of the reward) -> score
    files     place, size and time of change of a file -> content of its decoded sample; so a rerun need not even decode

A score is safe once ``keep`` has returned, against SIGKILL too: a run that was killed goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

BUSY_SECONDS = 60.0  # how long a process waits for another that writes


def default_folder() -> Path:
    """``$XDG_CACHE_HOME/diffalign``, or ``~/.cache/diffalign``: never beside the data."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffalign"


def content(decoded: Any) -> str:
    """A hash of what was decoded, in hex: for an RGB image its size and bytes.

    Other modes hash what they hold (palette, transparency, 16 bits), since rewards turn them into RGB in different ways. Arrays and
    tensors hash type, shape and bytes; tuples and lists their parts.
    Raises ValueError for what has no agreed bytes.
    """
    digest = hashlib.sha256()
    _add(digest, decoded)
    return digest.hexdigest()


def _add(digest, value: Any) -> None:
    if isinstance(value, Image.Image):
        digest.update(f"{value.mode} {value.size} ".encode())
        if value.mode == "P":
            digest.update(repr((value.getpalette("RGBA"), value.info.get("transparency"))).encode())
        elif "transparency" in value.info:
            digest.update(repr(value.info["transparency"]).encode())
        digest.update(value.tobytes())
    elif isinstance(value, Tensor):
        _add(digest, value.detach().cpu().numpy())
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype} {value.shape} ".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, tuple | list):
        digest.update(f"{len(value)} parts ".encode())
        for part in value:
            _add(digest, part)
    elif isinstance(value, str | bytes | int | float):
        digest.update(f"{type(value).__name__} ".encode() + (value if isinstance(value, bytes) else repr(value).encode()))
    else:
        raise ValueError(f"a sample that decodes to a {type(value).__name__} cannot be told from another: score it without a cache")


def state_key(state: Mapping[str, Any]) -> str:
    """A hash of ``Reward.state()``: other weights, settings, precision or versions are another reward."""
    return hashlib.sha256(json.dumps(state, sort_keys=True, default=str).encode()).hexdigest()


def score_key(content: str, prompt: str, state: str) -> bytes:
    """The key of one score; ``state`` is a ``state_key``."""
    return hashlib.sha256(json.dumps([content, prompt, state]).encode()).digest()


class ScoreCache:
    """A cache in ``folder``; any number of threads and processes may use it at once.

    NaN, a reward's "no answer", is not kept: asked again, the reward may have one.
    """

    def __init__(self, folder: str | Path):
        self.path = Path(folder) / "scores.sqlite"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(self.path, timeout=BUSY_SECONDS, check_same_thread=False)
        with self._lock, self._db:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("CREATE TABLE IF NOT EXISTS scores (key BLOB PRIMARY KEY, score REAL NOT NULL) WITHOUT ROWID")
            self._db.execute("CREATE TABLE IF NOT EXISTS files (identity TEXT PRIMARY KEY, content TEXT NOT NULL) WITHOUT ROWID")

    def content_of(self, identity: str) -> str | None:
        """The content of a file that has not changed since it was decoded."""
        found = self._rows("SELECT content FROM files WHERE identity = ?", (identity,))
        return found[0][0] if found else None

    def scores(self, keys: Sequence[bytes]) -> dict[bytes, float]:
        """Those scores of ``keys`` that are kept."""
        marks = ",".join("?" * len(keys))
        return dict(self._rows(f"SELECT key, score FROM scores WHERE key IN ({marks})", tuple(keys)))

    def keep(self, scores: Mapping[bytes, float], files: Iterable[tuple[str, str]] = ()) -> None:
        """Scores, and (identity, content) of the files they are of, in one transaction."""
        with self._lock, self._db:
            self._db.executemany("INSERT OR REPLACE INTO files VALUES (?, ?)", files)
            self._db.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?)", [(k, s) for k, s in scores.items() if s == s])

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _rows(self, query: str, values: tuple) -> list[tuple]:
        with self._lock:
            return self._db.execute(query, values).fetchall()
