"""Tensors by content key, on disk: computed once, found again by every later run, never trusted unread.

A folder holds ``provenance.json`` and shards ``<sha256 of the file>.safetensors``. A shard is written under another name, synced, then
renamed, so it exists whole or not at all; its name is its checksum; its header lists its keys, so there is no index that could
disagree. A process may be killed at any moment: what was flushed stays, the rest is computed again.
"""

import hashlib
import json
import os
import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from diffalign.data.keys import content_key

__all__ = ["TensorCache", "content_key"]

OPEN_SHARDS = 64  # memory-mapped at once
STALE_SECONDS = 3600.0  # age at which an unfinished file is nobody's
SEPARATOR = ":"  # between key and tensor name inside a shard


class TensorCache:
    """key -> {name: tensor}.

    Args:
        folder: where the shards lie, created when absent; None keeps everything in memory.
        provenance: what the tensors depend on beside their keys (model, dtype, resolution ...): JSON values. A folder that was made under
            another provenance is refused, with the difference.
        shard_entries: entries in a shard. An unfinished shard is lost when the process dies before ``flush``.

    Any number of processes may read and write one folder; ``refresh`` shows what others wrote. Tensors that ``get`` returns are views of
    the file or of the cache's own memory: do not change them in place.
    """

    def __init__(self, folder: str | Path | None, provenance: Mapping, *, shard_entries: int = 64):
        if shard_entries < 1:
            raise ValueError(f"TensorCache: shard_entries is {shard_entries!r}; allowed is a whole number from 1.")
        self.folder = None if folder is None else Path(folder)
        self.shard_entries = shard_entries
        self._pending: dict[str, dict[str, torch.Tensor]] = {}  # not yet written; in memory-only mode, everything
        self._places: dict[str, tuple[Path, list[str]]] = {}  # key -> (shard, tensor names)
        self._known: set[Path] = set()  # shards whose header was read
        self._verified: set[Path] = set()
        self._opened: OrderedDict[Path, safe_open] = OrderedDict()
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            self._check_provenance(_as_json(provenance))
            self.refresh()

    def __contains__(self, key: str) -> bool:
        return key in self._pending or key in self._places

    def __len__(self) -> int:
        return len(self._pending) + len(self._places)

    def keys(self) -> list[str]:
        return [*self._places, *self._pending]

    def get(self, key: str) -> dict[str, torch.Tensor]:
        """The tensors of ``key``, on the CPU. KeyError without it; ValueError when its shard is damaged."""
        if key in self._pending:
            return dict(self._pending[key])
        if key not in self._places:
            raise KeyError(key)
        path, names = self._places[key]
        shard = self._open(path)
        return {name: shard.get_tensor(f"{key}{SEPARATOR}{name}") for name in names}

    def put(self, key: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Keep a copy of the tensors. A key that is there stays as it is: keys name content, so equal keys mean equal tensors."""
        if not tensors or any(SEPARATOR in name for name in tensors):
            raise ValueError(f"TensorCache: tensors are named {list(tensors)}; needed is one or more, without {SEPARATOR!r} in the name.")
        if key in self:
            return
        self._pending[key] = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
        if len(self._pending) >= self.shard_entries:
            self.flush()

    def flush(self) -> None:
        """Write what is pending as one shard. Does nothing in memory-only mode."""
        if self.folder is None or not self._pending:
            return
        flat = {f"{key}{SEPARATOR}{name}": tensor for key, tensors in self._pending.items() for name, tensor in tensors.items()}
        data = save(flat)
        path = self.folder / f"{hashlib.sha256(data).hexdigest()}.safetensors"
        _write_atomically(path, data)
        self._places.update({key: (path, list(tensors)) for key, tensors in self._pending.items()})
        self._known.add(path)
        self._pending = {}

    def refresh(self) -> None:
        """Take in shards that other processes have written since. ValueError when a shard's header is damaged."""
        if self.folder is None:
            return
        for path in sorted(set(self.folder.glob("*.safetensors")) - self._known):
            try:
                with safe_open(path, "pt") as shard:
                    fields = [field.rpartition(SEPARATOR) for field in shard.keys()]  # noqa: SIM118 - a safe_open is no mapping
            except (SafetensorError, OSError) as error:
                raise _damaged(path, f"its header cannot be read: {error}") from error
            for key, _, name in fields:
                place = self._places.setdefault(key, (path, []))
                if place[0] == path:
                    place[1].append(name)
            self._known.add(path)

    def verify(self) -> None:
        """Check every shard against its checksum now; ``get`` does so once per shard. ValueError names the first damaged one."""
        for path in sorted(self._known):
            self._verify(path)

    def _sweep(self) -> None:
        """Remove what killed writers left; a living one renames within minutes."""
        for path in self.folder.glob("*.tmp"):
            with suppress(OSError):  # another process swept it, or the folder is read only
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()

    def _check_provenance(self, wanted: dict) -> None:
        path = self.folder / "provenance.json"
        if not path.is_file():
            if any(self.folder.glob("*.safetensors")):
                raise ValueError(f"{self.folder}: shards, but no provenance.json to tell what made them. Delete the folder or use another.")
            _write_atomically(path, json.dumps(wanted, indent=2, sort_keys=True).encode())
            return
        try:
            found = json.loads(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path}: not JSON ({error}). Delete the folder {self.folder}; it is computed again.") from error
        if found != wanted:
            old, new = ({name: json.dumps(value, sort_keys=True) for name, value in side.items()} for side in (found, wanted))
            names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
            lines = [f"  {name}: the cache has {old.get(name, 'nothing')}, this run has {new.get(name, 'nothing')}" for name in names]
            advice = "Use another cache folder, or delete this one to compute it again."
            raise ValueError("\n".join([f"{self.folder}: this cache was made under other settings.", *lines, advice]))

    def _open(self, path: Path) -> safe_open:
        if path not in self._opened:
            self._verify(path)
            self._opened[path] = safe_open(path, "pt").__enter__()
            if len(self._opened) > OPEN_SHARDS:
                self._opened.popitem(last=False)
        self._opened.move_to_end(path)
        return self._opened[path]

    def _verify(self, path: Path) -> None:
        if path in self._verified:
            return
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise _damaged(path, f"it cannot be read: {error}") from error
        if digest != path.stem:
            raise _damaged(path, f"its sha256 is {digest[:12]}..., its name says {path.stem[:12]}...")
        self._verified.add(path)

    def __getstate__(self) -> dict:
        """Opened shards do not travel to another process (a DataLoader worker); it opens its own."""
        return vars(self) | {"_opened": OrderedDict()}


def _damaged(path: Path, what: str) -> ValueError:
    return ValueError(f"{path}: damaged cache shard ({what}). Delete this file and run again: only its entries are computed anew.")


def _write_atomically(path: Path, data: bytes) -> None:
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with unfinished.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    if os.name == "posix":  # the rename itself must survive a power cut; Windows does not open folders
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _as_json(provenance: Mapping) -> dict:
    try:
        return json.loads(json.dumps(dict(provenance)))
    except TypeError as error:
        raise ValueError(
            f"TensorCache: provenance {dict(provenance)!r} cannot be written as JSON ({error}). Use text and numbers."
        ) from error
