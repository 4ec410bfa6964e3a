"""TensorCache: what was put comes back, after any kill, or a damaged file is named."""

import os
import pickle
import signal
import subprocess
import sys
import time

import pytest
import torch

from diffalign.data import TensorCache
from diffalign.data import cache as cache_module

PROVENANCE = {"model": "tiny", "dtype": "float32", "resolution": 64}


def entry(i: int) -> dict[str, torch.Tensor]:
    return {"mean": torch.full((2, 3), float(i)), "std": torch.full((2, 3), -float(i)).to(torch.bfloat16)}


def filled(folder, count=10, shard_entries=4) -> TensorCache:
    cache = TensorCache(folder, PROVENANCE, shard_entries=shard_entries)
    for i in range(count):
        cache.put(f"key{i}", entry(i))
    cache.flush()
    return cache


def assert_entry(cache, i):
    got = cache.get(f"key{i}")
    assert got.keys() == entry(i).keys()
    for name, tensor in entry(i).items():
        assert got[name].dtype == tensor.dtype and torch.equal(got[name], tensor)


def shard_of(cache: TensorCache, key: str):
    """The file that holds the key, found by reading the files."""
    return next(path for path in cache.folder.glob("*.safetensors") if f'"{key}:mean"'.encode() in path.read_bytes())


def test_comes_back_in_the_same_and_in_another_cache(tmp_path):
    for cache in (filled(tmp_path), TensorCache(tmp_path, PROVENANCE)):
        assert len(cache) == 10 and sorted(cache.keys()) == sorted(f"key{i}" for i in range(10))
        assert "key3" in cache and "key10" not in cache
        for i in range(10):
            assert_entry(cache, i)
        cache.verify()
        with pytest.raises(KeyError):
            cache.get("key10")
    assert len(list(tmp_path.glob("*.safetensors"))) == 3  # 4 + 4 + 2


def test_pending_entries_are_served_and_lost_only_until_flush(tmp_path):
    cache = TensorCache(tmp_path, PROVENANCE, shard_entries=4)
    source = entry(1)
    cache.put("key1", source)
    source["mean"].fill_(99.0)  # the cache has its own copy
    assert_entry(cache, 1)
    assert len(TensorCache(tmp_path, PROVENANCE)) == 0
    reader = TensorCache(tmp_path, PROVENANCE)
    cache.flush()
    assert "key1" not in reader
    reader.refresh()
    assert_entry(reader, 1)


def test_views_and_existing_keys(tmp_path):
    big = torch.arange(12.0).reshape(3, 4)
    cache = TensorCache(tmp_path, PROVENANCE)
    cache.put("a", {"x": big[:, 1], "y": big.t()})
    cache.put("a", {"x": torch.zeros(1)})
    cache.flush()
    assert torch.equal(cache.get("a")["x"], torch.tensor([1.0, 5.0, 9.0])) and torch.equal(cache.get("a")["y"], big.t())
    with pytest.raises(ValueError, match="without ':' in the name"):
        cache.put("b", {"x:y": big})


def test_memory_only_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache = filled(None)
    assert len(cache) == 10
    for i in range(10):
        assert_entry(cache, i)
    assert list(tmp_path.iterdir()) == []


def test_few_shards_are_open_and_tensors_outlive_them(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "OPEN_SHARDS", 1)
    filled(tmp_path)
    cache = TensorCache(tmp_path, PROVENANCE)
    kept = [cache.get(f"key{i}") for i in range(10)]
    assert len(cache._opened) == 1
    assert all(torch.equal(got["mean"], entry(i)["mean"]) for i, got in enumerate(kept))


def test_travels_to_a_worker(tmp_path):
    cache = filled(tmp_path)
    assert_entry(cache, 2)
    assert_entry(pickle.loads(pickle.dumps(cache)), 2)


def test_truncated_shard_is_named(tmp_path):
    path = shard_of(filled(tmp_path), "key5")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=rf"{path.name}.*Delete this file"):
        TensorCache(tmp_path, PROVENANCE)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=rf"{path.name}.*Delete this file"):
        TensorCache(tmp_path, PROVENANCE)
    path.unlink()
    cache = TensorCache(tmp_path, PROVENANCE)
    assert sorted(cache.keys()) == ["key0", "key1", "key2", "key3", "key8", "key9"]
    assert_entry(cache, 9)


def test_flipped_bit_is_named_before_the_first_use(tmp_path):
    path = shard_of(filled(tmp_path), "key5")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # in a tensor: the file opens and has the right shape, only the numbers are wrong
    path.write_bytes(data)
    cache = TensorCache(tmp_path, PROVENANCE)
    assert_entry(cache, 9)  # another shard is fine
    with pytest.raises(ValueError, match=rf"{path.name}: damaged cache shard \(its sha256.*Delete this file"):
        cache.get("key5")
    with pytest.raises(ValueError, match=path.name):
        TensorCache(tmp_path, PROVENANCE).verify()


def test_any_flipped_byte_of_a_header_is_found(tmp_path):
    path = shard_of(filled(tmp_path, count=1), "key0")
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    for place in range(header):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        with pytest.raises(ValueError, match=rf"{path.name}.*Delete this file"):
            TensorCache(tmp_path, PROVENANCE).verify()


def test_other_provenance_is_refused_with_the_difference(tmp_path):
    filled(tmp_path)
    with pytest.raises(ValueError) as refusal:
        TensorCache(tmp_path, {"model": "tiny", "dtype": "float16", "crop": "center"})
    lines = str(refusal.value).splitlines()
    assert lines[1:-1] == [
        '  crop: the cache has nothing, this run has "center"',
        '  dtype: the cache has "float32", this run has "float16"',
        "  resolution: the cache has 64, this run has nothing",
    ]
    assert "Use another cache folder" in lines[-1]
    assert len(TensorCache(tmp_path, dict(reversed(PROVENANCE.items())))) == 10  # the order of names means nothing
    (tmp_path / "provenance.json").unlink()
    with pytest.raises(ValueError, match="no provenance.json"):
        TensorCache(tmp_path, PROVENANCE)
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        TensorCache(tmp_path / "new", {"dtype": torch.float32})


def test_a_value_of_none_differs_from_no_value(tmp_path):
    TensorCache(tmp_path, {"vae": None})
    with pytest.raises(ValueError, match="vae: the cache has null, this run has nothing"):
        TensorCache(tmp_path, {})


def test_unfinished_files_are_ignored_and_swept_when_old(tmp_path):
    path = shard_of(filled(tmp_path), "key5")
    fresh, stale = tmp_path / "aa.safetensors.1.tmp", tmp_path / "bb.safetensors.2.tmp"
    for unfinished in (fresh, stale):
        unfinished.write_bytes(path.read_bytes()[:100])
    long_ago = time.time() - 7200
    os.utime(stale, (long_ago, long_ago))
    assert len(TensorCache(tmp_path, PROVENANCE)) == 10
    assert fresh.exists() and not stale.exists()


def test_a_shard_gets_its_name_when_it_is_whole_and_synced(tmp_path, monkeypatch):
    """Dying right before the rename, the last moment at which a shard may be unfinished, leaves no file under a shard's name."""
    cache = TensorCache(tmp_path, PROVENANCE)
    cache.put("key0", entry(0))
    steps = []

    def die(source, target):
        steps.append((source.suffix, len(source.read_bytes()) > 0))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache_module.os, "fsync", lambda descriptor: steps.append("synced"))
        patch.setattr(cache_module.os, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            cache.flush()
    assert steps == ["synced", (".tmp", True)]
    assert list(tmp_path.glob("*.safetensors")) == []
    cache.flush()  # nothing was lost in the process that lived on
    assert_entry(TensorCache(tmp_path, PROVENANCE), 0)


WRITER = """
import sys, torch
from diffalign.data import TensorCache
cache = TensorCache(sys.argv[1], {"model": "tiny", "dtype": "float32", "resolution": 64}, shard_entries=2)
print("ready", flush=True)
for i in range(len(cache), 100000):
    cache.put(f"key{i}", {"mean": torch.full((2, 3), float(i)), "std": torch.full((2, 3), -float(i)).to(torch.bfloat16)})
"""


def test_killed_writer_leaves_only_whole_entries(tmp_path):
    """SIGKILL at two arbitrary moments; every entry that is there is right, and the second run goes on where the first was."""
    counts = []
    for _ in range(2):
        before = len(list(tmp_path.glob("*.safetensors")))
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        try:
            assert writer.stdout.readline() == "ready\n"
            deadline = time.time() + 60
            while len(list(tmp_path.glob("*.safetensors"))) < before + 5 and time.time() < deadline:
                time.sleep(0.01)
        finally:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            writer.stdout.close()
        cache = TensorCache(tmp_path, PROVENANCE)
        cache.verify()
        counts.append(len(cache))
        for i in range(len(cache)):  # without gaps, and right
            assert_entry(cache, i)
    assert 10 <= counts[0] < counts[1]
