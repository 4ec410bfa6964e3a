"""``diffalign score`` as a user meets it: tables, facts beside them, shards, exit codes."""

import csv
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from diffalign import cli
from diffalign.rewards import load_reward
from diffalign.rewards.command import CallError, run
from tests.rewards.small import write_clip, write_images

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def folder(tmp_path):
    """Six images with a text each, of which the third is no image."""
    paths = write_images(tmp_path / "images", 6)
    paths[2].write_bytes(b"no image")
    for i, path in enumerate(paths):
        path.with_suffix(".txt").write_text(f"a large red circle, number {i}")
    return tmp_path / "images"


def arguments(folder, clip, *more, reward=("pickscore",)):
    weights = [part for name in reward for part in ("--weights", f"{name}={clip}")]
    return [str(part) for part in (folder, "--reward", *reward, *weights, "--device", "cpu", "--cache", folder.parent / "cache", *more)]


def expected(folder, clip, name="pickscore", **options):
    paths = [path for path in sorted(folder.glob("*.png")) if path.stem != "00002"]
    return load_reward(name, str(clip), **options).score(paths, [path.with_suffix(".txt").read_text() for path in paths]).tolist()


def test_tables_of_every_kind_hold_the_same(folder, clip, tmp_path, capsys):
    want = expected(folder, clip)
    for kind in ("csv", "jsonl", "parquet"):
        assert run(arguments(folder, clip, "--output", tmp_path / f"t.{kind}", "--summary")) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith(f"{tmp_path}/t.csv  {tmp_path}/t.json  (6 samples, 1 errors, ")
    assert err.splitlines()[0].split() == ["reward", "n", "mean", "median", "NaN", "errors"]
    assert err.splitlines()[1].split()[:2] == ["pickscore", "5"] and err.splitlines()[1].split()[-2:] == ["0", "1"]
    rows = {
        "csv": list(csv.DictReader((tmp_path / "t.csv").open())),
        "jsonl": [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()],
        "parquet": pq.read_table(tmp_path / "t.parquet").to_pylist(),
    }
    for kind, found in rows.items():
        assert list(found[0]) == ["image", "prompt", "reward", "score", "error"] and len(found) == 6
        assert [float(row["score"]) for i, row in enumerate(found) if i != 2] == want
        assert "cannot identify image file" in found[2]["error"] and not found[0]["error"]
        assert {row["reward"] for row in found} == {"pickscore"}
        assert found[1]["image"] == f"{folder}/00001.png" and found[1]["prompt"] == "a large red circle, number 1"
        assert found[2]["score"] is None if kind == "jsonl" else math.isnan(float(found[2]["score"]))
    facts = json.loads((tmp_path / "t.json").read_text())
    assert facts["rewards"]["pickscore"] == load_reward("pickscore", str(clip)).state()
    assert facts["summary"]["pickscore"] == {
        "n": 5, "mean": pytest.approx(sum(want) / 5), "median": sorted(want)[2], "nan": 0, "errors": 1,
    }  # fmt: skip
    assert (facts["samples"], facts["decoded"], facts["measured"], facts["from_cache"]) == (6, 0, 0, 5)
    assert sorted(path.name for path in folder.iterdir() if path.suffix not in (".png", ".txt")) == []


def test_several_rewards_a_column_each(folder, clip, tmp_path, capsys):
    names = ("pickscore", "clip-torchmetrics")
    call = arguments(folder, clip, "--wide", "--options", "pickscore/scale=cosine", "--options", "clip-torchmetrics/scale=1", reward=names)
    assert run(call) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert list(rows[0]) == ["image", "prompt", *names, "error"] and rows[2]["error"].startswith("UnidentifiedImageError: ")
    cosine = expected(folder, clip, scale="cosine")
    for name in names:
        assert [float(row[name]) for i, row in enumerate(rows) if i != 2] == pytest.approx(cosine, abs=1e-6)


def test_shards_share_the_samples_and_the_whole_is_then_known(folder, clip, tmp_path, capsys):
    parts = []
    for i in (0, 1):
        assert run(arguments(folder, clip, "--shard", f"{i}/2", "--output", tmp_path / f"{i}.csv")) == 0
        parts.append(list(csv.DictReader((tmp_path / f"{i}.csv").open())))
    assert [len(part) for part in parts] == [3, 3]
    assert run(arguments(folder, clip, "--output", tmp_path / "all.csv")) == 0
    whole = list(csv.DictReader((tmp_path / "all.csv").open()))
    assert whole[0::2] == parts[0] and whole[1::2] == parts[1]
    facts = json.loads((tmp_path / "all.json").read_text())
    assert facts["measured"] == 0 and facts["from_cache"] == 5


def test_processes_of_accelerate_launch_write_one_table(folder, clip, tmp_path):
    """With the environment that accelerate launch gives its processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    call = [sys.executable, "-m", "diffalign", "score", *arguments(folder, clip, "--output", tmp_path / "t.csv", "--cache", "off")]
    started = [
        subprocess.Popen(
            call, cwd=REPO, env={**os.environ, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    outs = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert "6 samples, 1 errors" in outs[0] and outs[1] == ""
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert [row["image"] for row in rows] == [f"{folder}/{i:05d}.png" for i in range(6)]
    assert [float(row["score"]) for i, row in enumerate(rows) if i != 2] == pytest.approx(expected(folder, clip), abs=1e-5)


def test_strict_and_hopeless_runs_fail(folder, clip, tmp_path, capsys):
    call = arguments(folder, clip, "--output", tmp_path / "t.csv")
    assert cli.main(["score", *call, "--strict"]) == 1
    assert "00002.png: UnidentifiedImageError" in capsys.readouterr().err and not (tmp_path / "t.csv").exists()
    for path in folder.glob("*.png"):
        path.write_bytes(b"no image")
    assert cli.main(["score", *call]) == 1
    assert "nothing could be scored by pickscore; the first error: UnidentifiedImageError" in capsys.readouterr().err
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 7


def test_mistakes_in_the_call(folder, clip, tmp_path, capsys):
    call = arguments(folder, clip)
    for message, argv in (
        ("did you mean 'pickscore'?", [str(folder), "--reward", "pikscore"]),
        ("there is no such file or folder", ["nowhere", *call[1:]]),
        ("name something to score", call[1:]),
        ("reward pickscore is asked for twice", [*call, "--reward", "pickscore", "pickscore"]),
        ("output is 't.xlsx'; allowed are files that end in .csv, .jsonl, .parquet", [*call, "--output", "t.xlsx"]),
        ("shard is '2/2'; it must be i/N", [*call, "--shard", "2/2"]),
        ("shard is 'x'; it must be i/N", [*call, "--shard", "x"]),
        ("weights is 'hpsv2=x'; it must be ID=PATH", [*call, "--weights", "hpsv2=x"]),
        ("options is 'scale=1'; it must be ID/NAME=VALUE", [*call, "--options", "scale=1"]),
        ("scale must be one of logit", [*call, "--options", "pickscore/scale=2"]),
        ("batch_size is 0; it must be at least 1", [*call, "--batch-size", "0"]),
    ):
        with pytest.raises(CallError, match=message.replace("?", r"\?")):
            run(argv)
    for path in folder.glob("*.txt"):
        path.unlink()
    assert cli.main(["score", *call]) == 2
    err = capsys.readouterr().err
    assert err.startswith("diffalign: error: pickscore judges images against prompts and none has one: give --prompt, --prompts")
    assert cli.main(["score", *call, "--layout", "coco"]) == 2


def test_scores_that_are_all_equal_are_remarked_on(folder, clip, capsys):
    for path in folder.glob("*.png"):
        path.write_bytes((folder / "00000.png").read_bytes())
    assert run([*arguments(folder, clip), "--prompt", "p", "--layout", "folder"]) == 0  # each has a text of its own: nothing to remark on
    assert "are equal" not in capsys.readouterr().err
    for path in folder.glob("*.txt"):
        path.unlink()
    assert run([*arguments(folder, clip), "--prompt", "p"]) == 0
    assert "all 6 scores of pickscore are equal" in capsys.readouterr().err
