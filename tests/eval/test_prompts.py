"""Lists of prompts: the published ones from their own files (where these are), downloads from a server here, our own, and users' files."""

import dataclasses
import hashlib
import json
import threading
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from diffalign.eval.pictures.prompts import load_prompts, names
from diffalign.eval.pictures.prompts_read import read_file
from diffalign.eval.pictures.prompts_sources import GROUPS, SOURCES, obtain
from diffalign.worlds.shapes import scenes

COPIES = Path(__file__).resolve().parents[3] / "shared" / "data" / "prompts"
FILES = {
    "parti": "PartiPrompts.tsv", "hpdv2": "hpdv2.json", "pickapic-v2-test": "pickapic_v2_test.json", "geneval": "geneval.jsonl",
    "unigenbench": "unigenbench_en.csv", **{name: name.replace("-", "_").replace("/", "_") + ".txt" for name in GROUPS["t2i-compbench"]},
}  # fmt: skip
needs_copies = pytest.mark.skipif(not COPIES.is_dir(), reason="the published lists are not here")


def published(name, count=None, **more):
    return load_prompts(name, count, file=COPIES / FILES[name], quiet=True, **more)


@needs_copies
@pytest.mark.parametrize("name", FILES)
def test_a_published_list_is_whole_and_verified(name):
    found = published(name)
    count = {"parti": 1632, "hpdv2": 3200, "pickapic-v2-test": 487, "geneval": 553, "unigenbench": 600}.get(name, 300)
    assert len(found) == count == SOURCES[name].count and len({p.id for p in found.prompts}) == count
    assert found.about["verified"] and found.about["licence"] == SOURCES[name].licence and found.about["total"] == count
    assert all(p.text and p.text == p.text.strip() for p in found.prompts)
    assert sum(p.occurrence > 0 for p in found.prompts) == (28 if name == "hpdv2" else 0)


@needs_copies
def test_what_the_lists_say_of_their_prompts():
    parti = published("parti")
    quoted = [p for p in parti.prompts if p.text.startswith('"')]
    assert [p.text[:13] for p in quoted] == ['"G I G G L E"'] and quoted[0].category == "Illustrations"
    assert len({p.category for p in parti.prompts}) == 12 and parti.prompts[0].facts["Challenge"] == "Basic"
    geneval = published("geneval")
    assert Counter(p.category for p in geneval.prompts) == {
        "position": 100, "color_attr": 100, "two_object": 99, "colors": 94, "single_object": 80, "counting": 80,
    }  # fmt: skip
    assert geneval.prompts[0].id == "00000" and geneval.prompts[0].facts == {"include": [{"class": "bench", "count": 1}]}
    hpdv2 = published("hpdv2")
    assert Counter(p.category for p in hpdv2.prompts) == dict.fromkeys(("anime", "concept-art", "paintings", "photo"), 800)
    assert hpdv2.prompts[801].id == "concept-art-00001" and "presumed" in hpdv2.about["note"] and not hpdv2.prompts[0].facts
    unigen = published("unigenbench")
    assert (unigen.prompts[-1].id, unigen.prompts[1].category) == ("599", "Art") and "Testpoints" in unigen.prompts[1].facts
    assert published("t2i-compbench/shape").prompts[-1].id == "shape-00299"


@needs_copies
def test_the_parts_of_t2i_compbench_together_from_a_cache(tmp_path):
    for name in GROUPS["t2i-compbench"]:
        path = tmp_path / SOURCES[name].repository / SOURCES[name].path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(COPIES / FILES[name])
    whole = load_prompts("t2i-compbench", cache=tmp_path)
    assert len(whole) == 2400 and len({p.id for p in whole.prompts}) == 2400 and len(whole.about["source"]) == 8
    assert Counter(p.category for p in whole.prompts)["3d_spatial"] == 300 and whole.about["verified"]


@pytest.fixture
def server(tmp_path):
    """(address, folder it serves)"""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listening.server_address[1]}", folder
    listening.shutdown()
    listening.server_close()


def serve(source, folder, content: bytes):
    path = folder / source.repository / "raw" / source.commit / source.path
    path.parent.mkdir(parents=True)
    path.write_bytes(content)


def test_a_download_is_checked_kept_and_not_repeated(server, tmp_path, capsys):
    host, folder = server
    source = dataclasses.replace(SOURCES["drawbench"], host=host, sha256=hashlib.sha256(b"a\nb").hexdigest())
    serve(source, folder, b"a\nb")
    path = obtain("drawbench", source, tmp_path / "cache")
    assert path == tmp_path / "cache" / "openai/dalle3-eval-samples/prompts/drawbench.txt" and path.read_bytes() == b"a\nb"
    assert "licence: no licence file was seen" in capsys.readouterr().err
    (folder / source.repository / "raw" / source.commit / source.path).unlink()
    assert obtain("drawbench", source, tmp_path / "cache") == path and capsys.readouterr().err == ""
    path.write_bytes(b"changed")
    got = hashlib.sha256(b"changed").hexdigest()
    with pytest.raises(ValueError, match=f"drawbench.txt hashes to {got}, .* to {source.sha256}: delete"):
        obtain("drawbench", source, tmp_path / "cache")


def test_a_download_that_is_another_file_names_both_hashes_and_leaves_nothing(server, tmp_path):
    host, folder = server
    source = dataclasses.replace(SOURCES["parti"], host=host)
    serve(source, folder, b"Prompt\tCategory\n")
    got = hashlib.sha256(b"Prompt\tCategory\n").hexdigest()
    with pytest.raises(ValueError, match=f"hashes to {got}, expected is {source.sha256}.*--prompts-file"):
        obtain("parti", source, tmp_path / "cache", quiet=True)
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_a_list_without_a_known_hash_says_so(server, tmp_path, capsys):
    host, folder = server
    source = dataclasses.replace(SOURCES["dpg-bench"], host=host)
    serve(source, folder, b"item_id,text\n1,x\n")
    obtain("dpg-bench", source, tmp_path / "cache")
    assert "not verified" in capsys.readouterr().err


def test_without_the_network_the_file_and_a_way_out_are_named(tmp_path):
    source = dataclasses.replace(SOURCES["geneval"], host="http://127.0.0.1:9")
    with pytest.raises(OSError) as stopped:
        obtain("geneval", source, tmp_path, quiet=True)
    said = str(stopped.value)
    assert "prompts 'geneval' are djghosh13/geneval @ af4902f24d, prompts/evaluation_metadata.jsonl (licence: MIT)" in said
    assert "--prompts-file FILE" in said and str(tmp_path / "djghosh13/geneval/prompts/evaluation_metadata.jsonl") in said


def test_dpg_bench_from_its_questions_and_from_its_folder(tmp_path):
    (tmp_path / "q.csv").write_text('item_id,text,proposition_id\n1,"a pickup, parked",1\n1,"a pickup, parked",2\nvrd7,two cups,1\n')
    found = load_prompts("dpg-bench", file=tmp_path / "q.csv")
    assert [(p.id, p.text) for p in found.prompts] == [("1", "a pickup, parked"), ("vrd7", "two cups")]
    assert "q.csv holds 2 prompts, the published list 1065" in found.about["note"] and not found.about["verified"]
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "vrd7.txt").write_text("two cups")
    assert [(p.id, p.text) for p in load_prompts("dpg-bench", file=tmp_path / "prompts").prompts] == [("vrd7", "two cups")]


def test_hpdv2_from_its_own_folder(tmp_path):
    for style in ("photo", "anime"):
        (tmp_path / f"{style}.json").write_text(json.dumps([f"{style} one", f"{style} two"]))
    found = load_prompts("hpdv2", file=tmp_path)
    assert [(p.id, p.text) for p in found.prompts][1:3] == [("anime-00001", "anime two"), ("photo-00000", "photo one")]


def test_our_own_list():
    found = load_prompts("diffalign")
    assert 55 <= len(found) <= 70 and len({p.id for p in found.prompts}) == len(set(found.texts)) == len(found)
    assert {"objects", "colours", "counting", "spatial", "people", "style", "text"} <= {p.category for p in found.prompts}
    for p in found.prompts:
        assert p.category and ("words" not in p.facts or f'"{p.facts["words"]}"' in p.text)
    assert next(p for p in found.prompts if p.id == "counting-05").facts == {"object": "teacup", "count": 6}


def test_the_embedded_world_gives_the_prompts_of_the_demo():
    found = load_prompts("builtin:shapes", 30, seed=3)
    assert found.texts == scenes.prompts("test", 30, seed=3) and len({p.id for p in found.prompts}) == 30
    first = found.prompts[0]
    assert first.category == scenes.parse(first.text).relation and first.facts["background"] in first.id
    assert len(load_prompts("builtin:shapes")) == 400
    with pytest.raises(ValueError, match="at most 800"):
        load_prompts("builtin:shapes", 801)


def test_a_smaller_count_is_part_of_a_larger_one_and_in_order():
    whole, ten, thirty = (load_prompts("diffalign", count).prompts for count in (None, 10, 30))
    assert set(p.id for p in ten) < set(p.id for p in thirty) and [p for p in whole if p in thirty] == list(thirty)
    other = load_prompts("diffalign", 10, seed=1)
    assert {p.id for p in other.prompts} != {p.id for p in ten} and other.digest != load_prompts("diffalign", 10).digest
    for count, said in ((0, "at least 1"), (65, "has 64 prompts")):
        with pytest.raises(ValueError, match=said):
            load_prompts("diffalign", count)


@pytest.mark.parametrize(("name", "content"), [
    ("p.tsv", 'Prompt\tCategory\tid\n"a" b\tx\t7\nc\t\t8\n'),
    ("p.csv", 'id,prompt,category\n7,"""a"" b",x\n8,c,\n'),
    ("p.jsonl", '{"id": 7, "prompt": "\\"a\\" b", "tag": "x"}\n{"id": 8, "caption": "c"}\n'),
    ("p.json", '[{"prompt_id": "7", "text": "\\"a\\" b", "category": "x"}, {"prompt_id": "8", "text": " c "}]'),
])  # fmt: skip
def test_tables_of_every_kind_hold_the_same(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    found = load_prompts(tmp_path / name)
    assert [(p.id, p.text, p.category) for p in found.prompts] == [("7", '"a" b', "x"), ("8", "c", "")]


def test_lines_keep_their_numbers_and_equal_ones_are_told_apart(tmp_path):
    (tmp_path / "p.txt").write_bytes("a cat\r\n\r\nein Hündchen\r\na cat\r\na cat".encode())
    found = load_prompts(str(tmp_path / "p.txt"))
    assert [(p.id, p.text, p.occurrence) for p in found.prompts] == [
        ("00000", "a cat", 0), ("00002", "ein Hündchen", 0), ("00003", "a cat", 1), ("00004", "a cat", 2),
    ]  # fmt: skip
    assert [p.occurrence for p in load_prompts(str(tmp_path / "p.txt"), 4).prompts] == [0, 0, 1, 2]
    last = next(found for seed in range(20) if (found := load_prompts(tmp_path / "p.txt", 1, seed).prompts[0]).id == "00004")
    assert last.occurrence == 2, "of the whole list, whichever prompts are taken"
    (tmp_path / "l.json").write_text('["x", "y"]')
    assert [(p.id, p.text) for p in read_file(tmp_path / "l.json")] == [("00000", "x"), ("00001", "y")]


def test_mistakes_are_named(tmp_path):
    for content, said in (
        ('{"id": 1, "prompt": "a"}\n{"id": 1, "prompt": "b"}', r"p.jsonl:2: a second prompt with the id '1'"),
        ('{"id": 1, "said": "a"}', r"columns found are id, said; needed is one of prompt"),
        ('{"id": 1, "prompt": " "}', r"p.jsonl:1: the prompt is empty"),
    ):
        (tmp_path / "p.jsonl").write_text(content)
        with pytest.raises(ValueError, match=said):
            load_prompts(tmp_path / "p.jsonl")
    (tmp_path / "p.tsv").write_text("prompt\tid\na\n")
    with pytest.raises(ValueError, match="row 1 has more or fewer fields"):
        load_prompts(tmp_path / "p.tsv")
    with pytest.raises(ValueError, match="unknown|did you mean geneval"):
        load_prompts("genevall")
    with pytest.raises(ValueError, match="there is no such file, and no list has this name"):
        load_prompts("nowhere.csv")
    with pytest.raises(ValueError, match="each of its parts is"):
        load_prompts("t2i-compbench", file="x.txt")
    with pytest.raises(ValueError, match="does not exist; wanted is google-research/parti"):
        load_prompts("parti", file=tmp_path / "no.tsv")
    assert {"parti", "t2i-compbench", "diffalign", "builtin:shapes"} <= set(names())
