"""Comparisons of methods: what they write, from rows made by hand; how settings are chosen; which methods have a grid."""

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffalign import cli, methods, objectives
from diffalign.llm.config import TextConfig, problems
from diffalign.llm.extras import MEASURES
from diffalign.pipelines import bench_text as text
from diffalign.pipelines import tuning
from diffalign.pipelines.bench_methods import COMBINATIONS, FORMS, GRID, BenchConfig, bench_methods
from diffalign.pipelines.bench_page import IMAGES, TEXT, write
from diffalign.train import TrainConfig
from diffalign.train.errors import TrainingError

TRIED = [
    {"settings": {"learning_rate": 1e-3, "beta": 500.0}, "score_change": 0.01},
    {"settings": {"learning_rate": 2e-3, "inversion": {"steps": "4"}}, "score_change": 0.02},
]


def row(method: str, win_rate: float, **changes) -> dict:
    return {
        "method": method, "win_rate": win_rate, "win_rate_ci": [win_rate - 0.03, win_rate + 0.03], "score_base": 0.7, "score": 0.8,
        "gap_closed": 0.36, "winner_error": -0.001, "loser_error": 0.02, "seconds": 30.0, "settings": TRIED[1]["settings"], "tried": TRIED,
    } | changes  # fmt: skip


def test_the_table_the_page_and_the_pictures(tmp_path):
    rows = [row("mapo", 0.52, loser_error=None), row("dcpo", 0.75)]
    strips = {name: Image.new("RGB", (60, 20), colour) for name, colour in (("base", "red"), ("mapo", "green"), ("dcpo", "blue"))}
    write(tmp_path, {"config": {"seeds": 3, "prompts": 400}, "training": {"model": "builtin:shapes"}}, rows, IMAGES, strips)
    table = (tmp_path / "methods.md").read_text().splitlines()
    assert table[2] == "| dcpo | 0.750 [0.720, 0.780] | 0.700 -> 0.800 | 36 % | -0.0010 | +0.0200 | 30 |"  # the best first
    assert "| mapo | 0.520 [0.490, 0.550] | 0.700 -> 0.800 | 36 % | -0.0010 | none | 30 |" in table
    assert "| dcpo | lr 0.001, beta 500: +0.010; **lr 0.002, inversion steps 4: +0.020** |" in table
    page = (tmp_path / "methods.html").read_text()
    assert "1 of 2 methods beat the base; dcpo most often, 75 % of the time." in page
    assert "dcpo" in "".join(ElementTree.parse(tmp_path / "methods.svg").getroot().itertext())
    picture = Image.open(tmp_path / "pictures.png")
    assert [picture.getpixel((200, y)) for y in (10, 36, 62)] == [(255, 0, 0), (0, 0, 255), (0, 128, 0)]
    assert json.loads((tmp_path / "methods.json").read_text())["rows"] == rows


def test_every_offline_method_has_three_settings():
    """The others need other data than pairs of the shapes world (their own past samples) or are used at inference only."""
    assert set(GRID) - set(methods.names()) == set(COMBINATIONS)
    assert set(methods.names()) - set(GRID) == {"seppo", "spin-diffusion", "diffusion-npo"}
    assert {len(settings) for settings in GRID.values()} == {3} and set(FORMS) <= set(GRID)


@pytest.mark.parametrize("name", COMBINATIONS)
def test_a_combination_is_a_point_that_no_method_is(name):
    points = [TrainConfig(**{**COMBINATIONS[name], **settings}).point() for settings in GRID[name]]
    assert not any(point.refusals() for point in points)
    published = [methods.get(other).point for other in methods.names()]
    said = [(other.noising, other.conditioning, other.objective) for other in published]
    assert all((point.noising, point.conditioning, point.objective) not in said for point in points)


def test_a_method_without_a_grid_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no tuning grid for seppo; methods with one: diffusion-dpo"):
        bench_methods(BenchConfig(output_dir=str(tmp_path), methods=["seppo"]))


def test_a_folder_holds_the_results_of_one_model(tmp_path):
    (tmp_path / "scores.json").write_text('{"model": "builtin:shapes"}')
    with pytest.raises(ValueError, match="holds what builtin:shapes did, not builtin:shapes-flow: choose another output_dir"):
        bench_methods(BenchConfig(output_dir=str(tmp_path), model="builtin:shapes-flow", methods=["diffusion-dpo"]))


def text_row(method: str, change: float, **changes) -> dict:
    return {
        "method": method, "win_rate": 0.5 + change / 2, "win_rate_ci": [0.48 + change / 2, 0.52 + change / 2], "score_base": 0.33,
        "score": 0.33 + change, "score_ci": [0.3 + change, 0.36 + change], "change": change, "change_ci": [change - 0.04, change + 0.04],
        "greedy": 0.99, "greedy_ci": [0.98, 0.995], "held_out_accuracy": 0.9, "chosen_change": 0.5, "rejected_change": -2.0,
        "seconds": 7.4, "settings": TEXT_TRIED[0]["settings"], "tried": TEXT_TRIED,
    } | changes  # fmt: skip


TEXT_TRIED = [
    {"settings": {"learning_rate": 1e-4}, "score_change": 0.3},
    {"settings": {"learning_rate": 1e-3}, "score_change": None, "failed": "step 9: the loss is not finite"},
]


def test_the_table_of_objectives_counts_no_control_as_a_method(tmp_path):
    rows = [text_row("sft-trl-shuffled", 0.44, control=True), text_row("dpo", 0.25), text_row("redi", -0.3)]
    write(tmp_path, {"config": {"seeds": 2, "problems": 40}, "training": {"model": "builtin:sums"}}, rows, TEXT)
    table = (tmp_path / "methods.md").read_text().splitlines()
    assert table[2].startswith("| sft-trl-shuffled | 0.770 [0.740, 0.800] | +0.440 [+0.400, +0.480] | 0.990 [0.980, 0.995] | 0.900 |")
    assert table[4].startswith("| redi | 0.030 [")
    assert table[-1] == "| redi | **lr 0.0001: +0.300**; lr 0.001: failed |"
    page = (tmp_path / "methods.html").read_text()
    assert "1 of 2 methods beat the base; dpo by most, 0.33 -&gt; 0.58." in page
    assert "2 seeds of 40 unseen problems each; three settings a method, chosen on other problems." in page
    assert not (tmp_path / "pictures.png").exists()


def test_every_objective_that_pairs_serve_has_a_grid_or_a_reason():
    measured = {"reference", "size", *(f"extra:{name}" for name in MEASURES)}
    served = {row.name for row in objectives.TABLE.values() if row.takes in ("pairs", "labels") and row.needs <= measured}
    assert not set(text.LEFT_OUT) & set(text.GRID)
    assert set(text.GRID) - set(text.CONTROLS) == served - set(text.LEFT_OUT) and len(served - set(text.LEFT_OUT)) >= 25
    assert {len(settings) for settings in text.GRID.values()} == {3} and set(text.CONTROLS.values()) <= set(text.GRID)


@pytest.mark.parametrize("name", text.GRID)
def test_settings_are_what_the_objective_takes(name):
    objective = text.CONTROLS.get(name, name)
    needs_beta = objectives.TABLE[objective].options.get("beta")
    for settings in text.GRID[name]:
        assert ("beta" in settings) == (needs_beta is not None)
        config = TextConfig(model="m", data="d", objective=objective, objective_options=text.OPTIONS.get(objective, {}), **settings)
        assert problems(config) == []


@dataclass(frozen=True)
class Choice:
    output_dir: str
    methods: tuple = ("good", "bad")
    seeds: int = 2


class Numbers(tuning.Bench):
    """A method is trained to a number of a file, its rate and its seed, which is what all its prompts score; a rate above 1 fails."""

    def __init__(self, config: Choice):
        super().__init__(config, "numbers", quiet=True)
        self.trained, self.judged = [], []

    def train(self, name, method, settings, seed):
        self.trained.append(name)
        if settings["learning_rate"] > 1:
            raise TrainingError("step 1: the loss is not finite")
        path = self.folder / f"{name.replace('/', '_')}.txt"
        path.write_text(str(settings["learning_rate"] + seed))
        return {"result": str(path), "held_out/accuracies": 0.5 + seed / 2}

    def judge(self, name, prompts, seed, trained):
        self.judged.append(name)
        return [float(Path(trained).read_text()) if trained else 0.5] * len(prompts)

    def prompts(self, split, seed):
        return [f"{split} {i + seed}" for i in range(3)]

    def row(self, method, found):
        both = found.compared()
        return {
            "method": method, "settings": found.settings, "tried": found.tried, "wins": found.by_seed(), "win_rate": both.win_rate,
            "prompts": both.n_prompts, "accuracy": found.mean("held_out/accuracies"), "nothing": found.mean("held_out/none"),
        }  # fmt: skip

    def line(self, row):
        return row["method"]

    def write(self, rows):
        (self.folder / "rows.json").write_text(json.dumps(rows))


def test_settings_are_chosen_on_dev_and_judged_with_every_seed(tmp_path):
    grid = {"good": tuning.rates(0.2, 0.4, 3.0), "bad": tuning.rates(2.0, 3.0)}
    bench = Numbers(Choice(str(tmp_path)))
    result = bench.run(grid)
    assert result["failed"] == {"bad": "every setting fails; the first: step 1: the loss is not finite"}
    assert bench.trained[:4] == ["good/dev_0", "good/dev_1", "good/dev_2", "good/seed_1"]  # seed 0 was trained for the choice
    (row,) = result["rows"]
    assert row["settings"] == {"learning_rate": 0.4}
    assert [trial["score_change"] for trial in row["tried"]] == [pytest.approx(-0.3), pytest.approx(-0.1), None]
    assert row["wins"] == [0.0, 1.0] and row["win_rate"] == 0.5  # 0.4 and 1.4 against 0.5
    assert row["prompts"] == 4 and row["accuracy"] == 0.75 and row["nothing"] is None  # two of the three prompts are asked with both seeds
    assert json.loads((tmp_path / "rows.json").read_text()) == [row]
    again = Numbers(Choice(str(tmp_path)))
    assert again.run(grid)["rows"] == [row] and again.judged == []
    judged = ["base/dev/0/3", "good_0/dev/0/3", "good_1/dev/0/3", "good/test/0/3", "good/test/1/3", "base/test/0/3", "base/test/1/3"]
    assert list(again.kept) == ["model", *judged]


def test_the_text_bench_end_to_end(tmp_path, capsys, monkeypatch):
    """One step of one setting: nothing can be learned, but all is trained, judged and written, and a second call finds it done."""
    monkeypatch.setitem(text.GRID, "kto", text.GRID["kto"][:1])
    argv = ["bench-methods", "--modality", "text", "--output-dir", str(tmp_path), "--methods", "kto"]
    argv += ["--seeds", "1", "--max-train-steps", "1", "--dev-problems", "2", "--problems", "20"]
    assert cli.main(argv) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{tmp_path}/methods.md  {tmp_path}/methods.html  {tmp_path}/methods.json"
    written = json.loads((tmp_path / "methods.json").read_text())
    (row,) = written["rows"]
    assert row["method"] == "kto" and row["n_problems"] == 20 and row["score_base"] + row["change"] == pytest.approx(row["score"])
    assert row["greedy_ci"][0] < row["greedy"] < row["greedy_ci"][1] and abs(row["chosen_change"]) < 1
    assert written["failed"] == {} and written["left_out"]["dmpo"] == "exo at another label smoothing"
    model = tmp_path / "kto" / "dev_0" / "model" / "model.safetensors"
    before = model.stat().st_mtime_ns
    assert not list(tmp_path.rglob("checkpoint-*"))
    assert cli.main(argv) == 0 and model.stat().st_mtime_ns == before
    assert json.loads((tmp_path / "methods.json").read_text()) == written


def test_an_interval_of_a_share_has_a_width_where_all_are_right():
    low, high = text.share_ci(np.ones(40), np.arange(40))
    assert 0.85 < low < 0.95 and high == 1


def test_what_is_wrong_with_a_comparison_is_said_at_once(tmp_path, capsys):
    argv = ["bench-methods", "--modality", "text", "--output-dir", str(tmp_path / "out"), "--methods", "mdpo", "--seeds", "0"]
    assert cli.main(argv) == 2 and not (tmp_path / "out").exists()
    first, second = capsys.readouterr().err.splitlines()
    assert first == "diffalign: error: seeds is 0; it must be at least 1"
    assert second.strip().startswith("no tuning grid for mdpo; methods with one: dpo, cdpo, ")
