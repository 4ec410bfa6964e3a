"""Folders of image files: both layouts, every place a prompt may lie, and files that do not match."""

import json

import pytest

from diffalign.data import read
from tests.data.files import write


def sides(folder, *stems):
    for stem in stems:
        write(folder / "chosen" / f"{stem}.png", "red")
        write(folder / "rejected" / f"{stem}.jpg", "blue", format="JPEG")  # another type of file is no other pair
    return folder


def prompts(folder) -> list[str]:
    return [pair.prompt for pair in read(folder)[0]]


def test_chosen_and_rejected_with_text_beside(tmp_path):
    sides(tmp_path, "b", "a")
    for stem in "ab":
        (tmp_path / "chosen" / f"{stem}.txt").write_text(f"prompt {stem}\n")
    pairs, counts = read(tmp_path)
    assert [pair.prompt for pair in pairs] == ["prompt a", "prompt b"]
    assert pairs[0].chosen.load().getpixel((0, 0)) == (255, 0, 0) and pairs[0].rejected.path.name == "a.jpg"
    assert (counts.read, counts.kept) == (2, 2)


def test_w_and_l_in_one_folder(tmp_path):
    for stem in ("one", "two"):
        write(tmp_path / f"{stem}_w.png", "red")
        write(tmp_path / f"{stem}_l.png", "blue")
        (tmp_path / f"{stem}.txt").write_text(stem)
    pairs, _ = read(tmp_path)
    assert [(pair.prompt, pair.chosen.path.name, pair.rejected.path.name) for pair in pairs] == [
        ("one", "one_w.png", "one_l.png"),
        ("two", "two_w.png", "two_l.png"),
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("prompts.txt", "first\nsecond\n"),
        ("prompts.txt", "b\tsecond\na\tfirst\n"),
        ("prompts.csv", "stem,prompt\nb,second\na,first\n"),
        ("prompts.jsonl", '{"stem": "a", "caption": "first"}\n{"stem": "b", "caption": "second"}\n'),
        ("metadata.jsonl", '{"file_name": "chosen/a.png", "text": "first"}\n{"file_name": "chosen/b.png", "text": "second"}\n'),
    ],
)
def test_prompts_in_one_file(tmp_path, name, text):
    (sides(tmp_path, "a", "b") / name).write_text(text)
    assert prompts(tmp_path) == ["first", "second"]


def test_metadata_carries_optional_columns(tmp_path):
    sides(tmp_path, "a")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "prompt": "p", "weight": 2, "margin": 0.5}))
    (pair,), _ = read(tmp_path)
    assert (pair.weight, pair.margin) == (2.0, 0.5)


def test_a_side_or_a_prompt_that_is_missing(tmp_path):
    sides(tmp_path, "a", "b", "c")
    (tmp_path / "rejected" / "a.jpg").unlink()
    (tmp_path / "prompts.txt").write_text("a\tfirst\nb\tsecond\n")
    with pytest.raises(ValueError, match="a: rejected is None"):
        read(tmp_path)
    pairs, counts = read(tmp_path, on_bad="skip")
    assert [pair.prompt for pair in pairs] == ["second"]
    assert counts.dropped == {"missing image": 1, "empty prompt": 1}


def test_what_cannot_be_matched(tmp_path):
    sides(tmp_path, "a", "b")
    (tmp_path / "prompts.txt").write_text("only one\n")
    with pytest.raises(ValueError, match="1 lines for 2 pairs"):
        read(tmp_path)
    (tmp_path / "prompts.txt").write_text("one\ntwo\n")
    write(tmp_path / "chosen" / "a.webp", "red", format="WEBP")
    with pytest.raises(ValueError, match="a.png and a.webp have the same stem"):
        read(tmp_path)
