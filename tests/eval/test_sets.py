"""Folders of pictures read back, matched with each other, and searched for black ones."""

import json

import numpy as np
import pytest
from PIL import Image

from diffalign.eval.pictures.sets import Drawn, ImageSet, black_report, paired


def folder_of(folder, rows, model="m"):
    """A folder as ``diffalign generate`` leaves it; rows of (prompt id, prompt, index, seed, shade of grey)."""
    lines = []
    for key, prompt, index, seed, shade in rows:
        path = folder / key / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (shade,) * 3).save(path)
        about = {"prompt": prompt, "prompt_id": key, "category": "c", "index": index, "seed": seed, "all_black": shade == 0}
        lines.append(json.dumps({"file_name": f"{key}/{index:04d}.png", **about}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "generation.json").write_text(json.dumps({"model": model, "settings": {"seed": 0}}))
    return ImageSet.read(folder)


ROWS = [("a", "a cat", 0, 11, 9), ("a", "a cat", 1, 12, 9), ("b", "a dog", 0, 13, 9), ("b", "a dog", 1, 14, 9)]


def test_a_folder_is_read(tmp_path):
    found = folder_of(tmp_path, ROWS, "base")
    assert found.model == "base" and found.settings["settings"] == {"seed": 0} and found.groups == ["a", "a", "b", "b"]
    assert found.items[3] == Drawn("b", "a dog", "c", 1, 14, tmp_path / "b" / "0001.png", False)
    assert found.prompts[0] == "a cat" and found.paths[0].is_file()
    found.paths[1].unlink()
    with pytest.raises(ValueError, match=r"1 of 4 pictures are missing: .*a/0001.png"):
        ImageSet.read(tmp_path)
    (tmp_path / "metadata.jsonl").unlink()
    with pytest.raises(ValueError, match="metadata.jsonl is missing"):
        ImageSet.read(tmp_path)
    with pytest.raises(ValueError, match="there is no such folder"):
        ImageSet.read(tmp_path / "nowhere")


def test_a_folder_of_another_tool_is_read(tmp_path):
    for i in range(2):
        samples = tmp_path / f"{i:05d}" / "samples"
        samples.mkdir(parents=True)
        (tmp_path / f"{i:05d}" / "metadata.jsonl").write_text(json.dumps({"prompt": f"prompt {i}"}))
        for k in range(2):
            Image.new("RGB", (4, 4), (0, 0, i)).save(samples / f"{k:04d}.png")
    found = ImageSet.read(tmp_path)
    told = [(d.prompt_id, d.prompt, d.index, d.seed) for d in found.items]
    assert told[1:3] == [("00000", "prompt 0", 1, None), ("00001", "prompt 1", 0, None)]
    assert found.model == tmp_path.name and [d.prompt_id for d in found.black()] == ["00000", "00000"]
    (tmp_path / "loose.png").write_bytes(b"")
    (tmp_path / "plain").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "plain" / "x.png")
    with pytest.raises(ValueError, match="x.png has no prompt"):
        ImageSet.read(tmp_path / "plain")


def test_sets_are_matched_by_id_and_index_whatever_their_order(tmp_path):
    a = folder_of(tmp_path / "a", ROWS)
    b = folder_of(tmp_path / "b", [ROWS[2], ROWS[1], ROWS[3], ROWS[0]])
    found = paired(a, b)
    assert found.a.tolist() == [0, 1, 2, 3] and found.b.tolist() == [3, 1, 0, 2]
    assert found.groups == ("a", "a", "b", "b") and found.categories == ("c",) * 4
    scores_a, scores_b = np.array([1.0, 2, 3, 4]), np.array([30.0, 20, 40, 10])
    assert (scores_a[found.a] * 10 == scores_b[found.b]).all()


@pytest.mark.parametrize(("rows", "said"), [
    (ROWS[:2], r"1 of 2 prompts of .*/a are not in .*/b: b$"),
    ([*ROWS, ("z", "new", 0, 1, 9)], r"1 of 3 prompts of .*/b are not in .*/a: z$"),
    (ROWS[:3], r"1 prompts have another number of pictures in each: b \(2 and 1\)$"),
    ([*ROWS[:3], ("b", "a dog", 2, 14, 9)], r"1 pictures have another index in each: b/1$"),
    ([*ROWS[:2], ("b", "a hog", 0, 13, 9), ("b", "a hog", 1, 14, 9)], r"2 prompts of one id differ: b: 'a dog' and 'a hog', b: "),
    ([*ROWS[:3], ("b", "a dog", 1, 99, 9)], r"1 of 4 pictures started from other noise \(seeds\): b/1: 14 and 99$"),
])  # fmt: skip
def test_sets_that_do_not_match_are_refused_with_the_difference(rows, said, tmp_path):
    a, b = folder_of(tmp_path / "a", ROWS), folder_of(tmp_path / "b", rows)
    with pytest.raises(ValueError, match="do not belong together: " + said):
        paired(a, b)


def test_other_seeds_can_be_allowed_and_repetitions_cannot(tmp_path):
    a, b = folder_of(tmp_path / "a", ROWS), folder_of(tmp_path / "b", [(*row[:3], row[3] + 1, 9) for row in ROWS])
    assert len(paired(a, b, same_seeds=False).a) == 4
    with pytest.raises(ValueError, match="several pictures have one prompt id and index: a/0"):
        paired(folder_of(tmp_path / "c", [*ROWS, ROWS[0]]), a)


def test_black_pictures_are_reported(tmp_path):
    a = folder_of(tmp_path / "a", ROWS, "base")
    b = folder_of(tmp_path / "b", [*ROWS[:3], ("b", "a dog", 1, 14, 0)], "aligned")
    assert black_report([a, b]) == ["aligned: 1 of 4 pictures are all black (a safety checker, or an overflow): b/1"]
    assert [d.index for d in b.black()] == [1] and a.black() == ()
