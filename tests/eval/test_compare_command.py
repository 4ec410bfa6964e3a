"""``diffalign compare`` on tables that ``diffalign score`` writes: what it prints, what it refuses, and how."""

import json
from pathlib import Path

import numpy as np
import pytest

from diffalign import cli
from diffalign.eval.stats.compare import compare
from diffalign.eval.stats.significance import holm, sign_test
from diffalign.eval.stats.tables import align, read_scores
from diffalign.rewards import score_output

A = {"pick": [0.9, 0.8, 0.4, 0.7], "hps": [1.0, 2.0, 3.0, 4.0]}
B = {"pick": [0.1, 0.8, 0.5, 0.2], "hps": [0.0, 1.0, 2.0, 3.0]}
KEYS = [("p0", "0"), ("p0", "1"), ("p1", "0"), ("p1", "1")]


def table(path: Path, scores, keys=KEYS, wide=False, model=None) -> Path:
    """As score_output writes it; the prompts' texts are all the same, as in lists with repeated prompts."""
    rows = []
    for i, (prompt_id, seed) in enumerate(keys):
        about = {"image": f"{i}.png", "prompt": "a cat", "prompt_id": prompt_id, "seed": seed} | ({"model": model} if model else {})
        if wide:
            rows.append(about | {name: values[i] for name, values in scores.items()} | {"error": None})
        else:
            rows += [about | {"reward": name, "score": values[i], "error": None} for name, values in scores.items()]
    score_output.write(path, list(rows[0]), iter(rows))
    return path


def call(capsys, *argv) -> tuple[int, str, str]:
    code = cli.main(["compare", *map(str, argv)])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_long_and_wide_tables_in_any_order_give_what_compare_gives(capsys, tmp_path, suffix):
    order = [2, 0, 3, 1]
    turned = {name: [values[i] for i in order] for name, values in B.items()}
    a, b = table(tmp_path / f"a{suffix}", A), table(tmp_path / f"b{suffix}", turned, [KEYS[i] for i in order], wide=True)
    code, out, err = call(capsys, a, b, "--json", tmp_path / "found.json")
    assert code == 0 and err == ""
    found = json.loads((tmp_path / "found.json").read_text())
    groups = ["p0", "p0", "p1", "p1"]
    for name in ("pick", "hps"):
        expected = compare(A[name], B[name], groups)
        assert found["metrics"][name]["win_rate"] == expected.win_rate and found["metrics"][name]["n_prompts"] == 2
        assert found["metrics"][name]["win_rate_ci"] == pytest.approx(expected.win_rate_ci)
    p = holm({name: sign_test(A[name], B[name], groups).p_value for name in ("pick", "hps")})
    assert {name: row["p_holm"] for name, row in found["metrics"].items()} == p
    lines = out.splitlines()
    assert lines[2] == "4 pairings of 2 prompts; ties: half; intervals of 95 %: agresti-coull, over prompts"
    assert lines[4].split("  ")[0] == "metric" and lines[5].startswith("pick    0.625 [") and "2/1/1" in lines[5] and "+0.25 [" in lines[5]
    assert lines[6].startswith("hps     1.000 [") and lines[6].rstrip().endswith("+1 [+1, +1]")


def test_options_reach_the_comparison(capsys, tmp_path):
    a, b, told = table(tmp_path / "a.csv", A), table(tmp_path / "b.csv", B), tmp_path / "found.json"
    options = ("--metrics", "pick", "--ties", "excluded", "--interval", "percentile", "--test", "wilcoxon", "--confidence", "0.9")
    assert call(capsys, a, b, *options, "--json", told)[0] == 0
    found = json.loads(told.read_text())
    assert list(found["metrics"]) == ["pick"] and found["metrics"]["pick"]["win_rate"] == pytest.approx(2 / 3)
    row = found["metrics"]["pick"]
    assert (row["ties_as"], row["interval"], row["confidence"], found["test"]) == ("excluded", "percentile", 0.9, "wilcoxon")
    assert row["p_holm"] == row["wilcoxon"]["p_value"]


def test_mismatched_tables_are_refused_with_the_difference(capsys, tmp_path):
    keys = [("p0", "0"), ("p0", "1"), ("p1", "7"), ("p9", "0")]
    a, b = table(tmp_path / "a.csv", A), table(tmp_path / "b.csv", B, keys)
    code, out, err = call(capsys, a, b)
    assert code == 2 and out == "" and err.startswith("diffalign: error: the two do not hold the same prompt_id and seed: 2 in both")
    assert f"2 missing in {b} (prompt_id p1, seed 0; prompt_id p1, seed 1)" in err
    assert f"2 missing in {a} (prompt_id p1, seed 7; prompt_id p9, seed 0)" in err and err.count("\n") == 1
    code, out, err = call(capsys, a, b, "--missing", "drop")
    assert code == 0 and "2 pairings of 1 prompts" in out and "left out, not in the other table: 2 of A, 2 of B" in out


def test_missing_scores_are_refused_or_left_out(capsys, tmp_path):
    hole = {**B, "pick": [0.1, float("nan"), 0.5, 0.2]}
    a, b = table(tmp_path / "a.jsonl", A), table(tmp_path / "b.jsonl", hole)
    code, _, err = call(capsys, a, b)
    assert code == 2 and "1 of 4 pairings lack a score of pick, first prompt_id p0, seed 1; score it, or --missing drop" in err
    code, out, _ = call(capsys, a, b, "--missing", "drop")
    assert code == 0 and "left out, no score: 1 of pick" in out and "2/0/1" in out and "4/0/0" in out


def test_one_table_of_two_models(capsys, tmp_path):
    """FILE@MODEL; without it an image is there twice."""
    both = tmp_path / "both.csv"
    first, second = table(tmp_path / "1.csv", A, model="x"), table(tmp_path / "2.csv", B, model="y")
    both.write_text(first.read_text() + "".join(second.read_text().splitlines(True)[1:]))
    assert call(capsys, f"{both}@x", f"{both}@y")[0] == 0
    code, _, err = call(capsys, both, f"{both}@y")
    assert code == 2 and "a second score of pick for prompt_id p0, seed 0; a table of several models is named FILE@MODEL" in err
    code, _, err = call(capsys, f"{both}@x", f"{both}@z")
    assert code == 2 and "no scores of the model 'z'" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--metrics", "clip"], "metrics asks for 'clip', which is not in both tables; in both are pick, hps"),
        (["--by", "prompt"], "align by prompt_id"),
        (["--by", "prompt_id", "number"], "no column number; found are image, prompt, prompt_id, seed, reward, score, error"),
        (["--by", "prompt_id"], "a second score of pick for prompt_id p0"),
        (["--confidence", "2"], "confidence is 2.0"),
    ],
)
def test_mistakes_are_one_line(capsys, tmp_path, options, message):
    code, out, err = call(capsys, table(tmp_path / "a.csv", A), table(tmp_path / "b.csv", B), *options)
    assert code == 2 and out == "" and message in err and err.count("\n") == 1 and "Traceback" not in err


def test_files_that_are_no_tables(capsys, tmp_path):
    a, text = table(tmp_path / "a.csv", A), tmp_path / "b.txt"
    assert "there is no table" in call(capsys, a, tmp_path / "none.csv")[2]
    text.write_text("x")
    assert "b.txt is none of .jsonl, .json, .csv, .parquet" in call(capsys, a, text)[2]
    other = table(tmp_path / "c.csv", {"clip": [1.0] * 4})
    assert "no reward is in both tables" in call(capsys, a, other)[2]
    bad = tmp_path / "bad.csv"
    bad.write_text("prompt_id,seed,reward,score\np0,0,pick,high\n")
    code, _, err = call(capsys, a, bad)
    assert code == 2 and "row 1: pick is 'high'; a score is a number" in err


def test_align_by_hand():
    rows_a, rows_b = align([("x", 0), ("y", 0)], [("y", 0), ("x", 0)])
    assert (rows_a.tolist(), rows_b.tolist()) == ([0, 1], [1, 0])
    with pytest.raises(ValueError, match="A holds prompt_id x, seed 0 twice"):
        align([("x", 0), ("x", 0)], [("x", 0)])
    with pytest.raises(ValueError, match="0 in both, 1 missing in B .prompt_id x, seed 0.*are the ids of the same list"):
        align([("x", 0)], [("y", 0)], drop=True)


def test_read_scores_keeps_holes_as_nan(tmp_path):
    found = read_scores(table(tmp_path / "a.csv", {"pick": [1.0, float("nan"), 2.0, 3.0]}))
    assert found.keys == tuple(KEYS) and np.isnan(found.scores["pick"]).tolist() == [False, True, False, False]
