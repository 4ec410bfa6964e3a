"""read: every table format, every layout, ties, bad rows and the account of them."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffalign.data import Image, Label, Pair, Ranking, read
from tests.data.files import encoded, write


@pytest.fixture
def images(tmp_path) -> Path:
    for name, color in (("red", "red"), ("blue", "blue"), ("green", "green")):
        write(tmp_path / "img" / f"{name}.png", color)
    return tmp_path


def jsonl(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(**changes) -> dict:
    return {"prompt": "a cat", "chosen": "img/red.png", "rejected": "img/blue.png"} | changes


def digest(color) -> str:
    return Image.of(encoded(color)).digest


def test_every_table_format_gives_the_same_pairs(images, monkeypatch):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [row(weight=2.0), row(prompt='a dog, "big"', probability=0.75, weight=1.0)]
    sources = [jsonl(images / "pairs.jsonl", *rows), images / "pairs.json", images / "pairs.csv", images / "pairs.parquet"]
    sources[1].write_text(json.dumps(rows))
    with sources[2].open("w", newline="", encoding="utf-8-sig") as file:  # with the mark that spreadsheets write
        writer = csv.DictWriter(file, ["prompt", "chosen", "rejected", "probability", "weight"])
        writer.writeheader()
        writer.writerows(rows)
    pq.write_table(pa.Table.from_pylist([{"probability": None} | r for r in rows]), sources[3])
    monkeypatch.chdir("/")  # paths are relative to the table, not to where the program runs
    expected, _ = read(sources[0])
    assert [(pair.prompt, pair.weight, pair.probability) for pair in expected] == [("a cat", 2.0, 1.0), ('a dog, "big"', 1.0, 0.75)]
    assert expected[0].chosen.digest == digest("red") and expected[0].rejected.digest == digest("blue")
    for source in sources[1:]:
        pairs, counts = read(source)
        assert [vars(pair)["id"] for pair in pairs] == [pair.id for pair in expected], source
        assert [(pair.prompt, pair.weight, pair.probability) for pair in pairs] == [(p.prompt, p.weight, p.probability) for p in expected]
        assert (counts.read, counts.kept, counts.dropped) == (2, 2, {})


def test_every_optional_column(images):
    values = {
        "id": 7, "prompt_chosen": "c", "prompt_rejected": "r", "probability": 0.9, "weight": 0.5, "margin": -1, "scores": [2, 1],
        "source": "img/green.png", "mask": "img/green.png", "origin": "annotator 3",
    }  # fmt: skip
    (pair,), _ = read(jsonl(images / "pairs.jsonl", row(**values)))
    assert (pair.id, pair.prompt_chosen, pair.prompt_rejected, pair.origin) == ("7", "c", "r", "annotator 3")
    assert (pair.probability, pair.weight, pair.margin, pair.scores) == (0.9, 0.5, -1.0, (2.0, 1.0))
    assert pair.source.digest == pair.mask.digest == digest("green")


def pick(label, **changes) -> dict:
    return {"caption": "a cat", "jpg_0": "img/red.png", "jpg_1": "img/blue.png", "label_0": label, "ranking_id": 5} | changes


def test_pick_a_pic_winner_and_ties(images):
    source = jsonl(images / "pap.jsonl", pick(1), pick(0, caption="b"), pick(0.5, caption="c"), pick(0.2, caption="d"))
    pairs, counts = read(source)
    assert [pair.chosen.digest == digest("red") for pair in pairs] == [True, False, False]
    assert [pair.rejected.digest == digest("red") for pair in pairs] == [False, True, True]
    assert [pair.probability for pair in pairs] == [1.0, 1.0, 0.8]
    assert (counts.read, counts.kept, counts.dropped, counts.ties) == (4, 3, {"tie": 1}, 0)
    assert str(counts) == "4 read, 3 kept, 1 dropped (tie 1), columns not used: ranking_id"
    pairs, counts = read(source, ties="half")
    assert [(pair.prompt, pair.probability) for pair in pairs if pair.is_tie] == [("c", 0.5)]
    assert (counts.kept, counts.ties, counts.dropped) == (4, 1, {})


def test_ties_do_not_depend_on_the_layout(images):
    _, counts = read(jsonl(images / "pairs.jsonl", row(), row(prompt="b", probability=0.5)))
    assert counts.dropped == {"tie": 1}


def test_labels_and_rankings(images):
    labels, _ = read(
        jsonl(images / "labels.jsonl", *({"prompt": "p", "sample": "img/red.png", "label": v} for v in (True, 0, "false", 1.0)))
    )
    assert all(isinstance(label, Label) for label in labels)
    assert [label.label for label in labels] == [True, False, False, True]
    three = {"prompt": "p", "samples": ["img/red.png", "img/blue.png", "img/green.png"]}
    rankings, _ = read(jsonl(images / "rankings.jsonl", three | {"ranks": [2, 1, 3]}, three | {"scores": [0.1, 0.2, 0.3], "prompt": "q"}))
    assert all(isinstance(ranking, Ranking) for ranking in rankings)
    assert (rankings[0].ranks, rankings[1].scores, rankings[1].ranks) == ((2, 1, 3), (0.1, 0.2, 0.3), None)
    assert rankings[0].samples[2].digest == digest("green")
    (images / "rankings.csv").write_text('prompt,samples,ranks\np,"[""img/red.png"", ""img/blue.png""]","[1, 2]"\n')
    (ranking,), _ = read(images / "rankings.csv")
    assert ranking.ranks == (1, 2) and len(ranking.samples) == 2


def test_columns_by_name(images):
    source = jsonl(images / "x.jsonl", {"text": "a cat", "left": "img/red.png", "right": "img/blue.png", "pref": 0, "caption": "decoy"})
    (pair,), counts = read(source, columns={"prompt": "text", "jpg_0": "left", "jpg_1": "right", "label_0": "pref"})
    assert (pair.prompt, pair.chosen.digest, counts.ignored) == ("a cat", digest("blue"), ("caption",))
    (pair,), _ = read(jsonl(images / "swap.jsonl", row()), columns={"chosen": "rejected", "rejected": "chosen"})
    assert pair.chosen.digest == digest("blue")
    with pytest.raises(ValueError, match="no layout fits"):  # a column stands for one thing
        read(images / "swap.jsonl", columns={"chosen": "rejected"})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (None, r"columns found: text, left, right.*Name yours with columns="),
        ({"chosed": "left"}, r"unknown key 'chosed'.*Did you mean 'chosen'"),
        ({"chosen": "lefty"}, r"'chosen' is mapped to 'lefty', which is not there. Columns found: text, left, right"),
        ({"prompt": "text", "sample": "left", "label": "right", "margin": "left"}, "margin mean nothing for rows of prompt, sample, label"),
    ],
)
def test_columns_that_cannot_be_right(images, columns, message):
    with pytest.raises(ValueError, match=message):
        read(jsonl(images / "x.jsonl", {"text": "a cat", "left": "img/red.png", "right": "img/blue.png"}), columns=columns)


def test_bad_rows_are_errors_or_counted(images):
    (images / "img" / "note.png").write_text("not an image")
    whole = encoded("red", size=(64, 64))
    (images / "img" / "half.png").write_bytes(whole[: len(whole) - 30])
    bad = {
        "empty prompt": row(prompt=" "),
        "missing image": row(chosen=None),
        "missing file": row(rejected="img/absent.png"),
        "unreadable image": row(chosen="img/note.png"),
        "bad number": row(weight="heavy"),
        "bad text": row(prompt=["a", "b"]),
        "invalid record": row(probability=2),
        "label out of range": pick(1.5),
    }
    for reason, broken in bad.items():
        with pytest.raises(ValueError, match=r"one\.jsonl:2: .*on_bad='skip'"):
            read(jsonl(images / "one.jsonl", row(), broken))
        _, counts = read(jsonl(images / "one.jsonl", row(), broken), on_bad="skip")
        assert (counts.dropped, counts.kept) == ({reason: 1}, 1), reason
    source = jsonl(images / "all.jsonl", row(), *bad.values(), row(prompt="half", chosen="img/half.png"))
    _, counts = read(source, on_bad="skip")
    assert (counts.read, counts.kept, counts.dropped) == (10, 2, dict.fromkeys(bad, 1))
    _, counts = read(source, on_bad="skip", decode=True)  # only the pixels tell that half.png is truncated
    assert (counts.kept, counts.dropped["unreadable image"]) == (1, 2)


def test_a_label_out_of_range(images):
    with pytest.raises(ValueError, match="label is 'maybe'; allowed are 1 or true"):
        read(jsonl(images / "labels.jsonl", {"prompt": "p", "sample": "img/red.png", "label": "maybe"}))


def test_repeated_ids_are_second_opinions(images):
    source = jsonl(images / "x.jsonl", row(), row(weight=3.0), row(), row(id="k"), row(id="k", prompt="b"))
    pairs, counts = read(source)
    first = pairs[0].id
    assert [pair.id for pair in pairs] == [first, f"{first}~2", f"{first}~3", "k", "k~2"]
    assert (counts.kept, counts.repeated) == (5, 3)
    assert "3 repeated ids made distinct" in str(counts)


def test_hugging_face_structs_and_splits(images):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    struct = {"bytes": encoded("red"), "path": None}
    rows = {
        split: [{"caption": f"{split} {i}", "jpg_0": encoded("blue"), "jpg_1": struct, "label_0": 0.0} for i in range(3)]
        for split in ("train", "validation")
    }
    for split, some in rows.items():
        (images / "data").mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(some), images / "data" / f"{split}-00000-of-00001.parquet")
    pairs, _ = read(images)
    assert [pair.prompt for pair in pairs] == ["train 0", "train 1", "train 2"]
    assert pairs[0].chosen.digest == digest("red") and pairs[0].chosen.path is None
    assert [pair.prompt for pair in read(images, split="validation")[0]] == ["validation 0", "validation 1", "validation 2"]
    with pytest.raises(ValueError, match="no parquet file of split 'test'; found are train, validation"):
        read(images, split="test")


def test_saved_dataset_is_read_without_decoding(images):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"prompt": datasets.Value("string"), "chosen": datasets.Image(), "rejected": datasets.Image()})
    jpeg = encoded((200, 30, 30), format="JPEG")
    table = {"prompt": ["a cat"], "chosen": [{"bytes": jpeg, "path": None}], "rejected": [{"bytes": encoded("blue"), "path": None}]}
    dataset = datasets.Dataset.from_dict(table, features=features)
    dataset.save_to_disk(images / "one")
    datasets.DatasetDict({"train": dataset}).save_to_disk(images / "dict")
    for folder in ("one", "dict"):
        (pair,), _ = read(images / folder)
        assert isinstance(pair, Pair) and pair.chosen.data == jpeg  # the very bytes: nothing was decoded and encoded again
    with pytest.raises(ValueError, match="no split 'test'; found are train"):
        read(images / "dict", split="test")


def test_unusable_sources(images, tmp_path):
    (tmp_path / "list.txt").write_text("x")
    (tmp_path / "broken.jsonl").write_text('{"prompt": "a"\n')
    (tmp_path / "object.json").write_text("{}")
    (tmp_path / "broken.parquet").write_text("x")
    cases = {
        tmp_path / "absent.jsonl": "there is no such file or folder. Allowed: a folder with chosen/",
        tmp_path / "list.txt": "files of type '.txt' are not read",
        tmp_path / "broken.jsonl": r"broken\.jsonl:1: not JSON",
        tmp_path / "object.json": "needed is a list of objects",
        tmp_path / "broken.parquet": "not a readable parquet file",
        tmp_path / "img": None,
        jsonl(tmp_path / "ties.jsonl", pick(0.5)): r"no usable record \(1 read, 0 kept, 1 dropped \(tie 1\)",
    }
    (tmp_path / "img" / "deep").mkdir()
    cases[tmp_path / "img"] = r"no known layout; the folder holds blue.png, deep, green.png, red.png"
    for source, message in cases.items():
        with pytest.raises(ValueError, match=message):
            read(source)
    with pytest.raises(ValueError, match="ties is 'keep'; allowed are drop, half"):
        read(tmp_path / "ties.jsonl", ties="keep")


def test_hub_id_offline_says_what_to_do(tmp_path):
    program = "from diffalign.data import read; read('nobody/no-such-pairs')"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "'nobody/no-such-pairs' is no local file or folder" in done.stderr.splitlines()[-1]
    assert "give a local folder" in done.stderr


def test_import_is_light():
    program = "import sys, diffalign.data; print([m for m in ('datasets', 'pyarrow', 'diffusers', 'transformers') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.stdout.strip() == "[]", done.stderr
