"""``diffalign eval`` from end to end on the embedded models: the same bytes twice, folders of pictures, what is refused."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from diffalign import cli
from diffalign.eval import outcomes, presets
from diffalign.eval.eval_config import EvalConfig
from diffalign.eval.evaluate import evaluate
from diffalign.eval.evaluation import Evaluation

MODELS = ["base=builtin:shapes", "flow=builtin:shapes-flow"]
FAST = {"count": 12, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval")
    call = ["eval", "--models", *MODELS, "--count", "12", "--num-inference-steps", "2", "--rewards", "shapes-judge", "jpeg-size"]
    assert cli.main([*call, "--train-rewards", "jpeg-size", "--features", "pixels", "--output-dir", str(folder)]) == 0
    return folder


def test_a_second_run_gives_the_same_bytes(folder, tmp_path):
    config = EvalConfig(
        MODELS, rewards=["shapes-judge", "jpeg-size"], train_rewards=["jpeg-size"], features=["pixels"], output_dir=str(tmp_path), **FAST
    )
    first = Evaluation.read(folder / "evaluation.json")
    assert dataclasses.replace(evaluate(config, quiet=True), command=first.command).text() == (folder / "evaluation.json").read_text()
    again = evaluate(config, quiet=True)  # pictures and scores are kept
    assert dataclasses.replace(again, command=first.command).text() == first.text()


def test_what_a_run_finds(folder):
    found = Evaluation.read(folder / "evaluation.json")
    assert [model.name for model in found.models] == ["base", "flow"] and found.baseline == "base"
    assert [(row.reward, row.prompts) for row in found.comparisons] == [("shapes-judge", 12), ("jpeg-size", 12)]
    row, *_ = found.comparisons
    gaps = [sample.gap("flow", "base", "shapes-judge") for sample in found.samples]
    assert (row.wins, row.ties, row.losses) == (sum(g > 0 for g in gaps), sum(g == 0 for g in gaps), sum(g < 0 for g in gaps))
    assert row.p_values["sign"] <= row.p_adjusted and row.mean - row.baseline_mean == pytest.approx(np.mean(gaps))
    assert {item["name"] for item in found.findings["flow"]} >= {"held-out rewards", "prompt-shuffle gap", "pixel drift", "diversity"}
    assert set(found.distribution["flow"]) == {"Vendi, pixels", "Frechet, pixels", "KID, pixels", "CMMD, pixels"}
    assert all((folder / path).is_file() for sample in found.samples for path in sample.images.values())
    assert found.models[1].trained_on == ("jpeg-size",) and "trained on jpeg-size" not in found.verdict()[1]
    assert (folder / "report.html").stat().st_size > 20_000


def test_pictures_that_are_there_are_compared_without_a_model(folder, tmp_path):
    made = sorted((folder / "images").iterdir())
    config = EvalConfig([f"{path.name}={path}" for path in made], rewards=["shapes-judge"], output_dir=str(tmp_path))
    found = evaluate(config, quiet=True)
    known = Evaluation.read(folder / "evaluation.json").comparisons[0]
    assert (found.comparisons[0].wins, found.comparisons[0].losses) == (known.wins, known.losses)
    assert found.prompts.name == "as drawn" and found.prompts.count == 12 and not (tmp_path / "images").exists()


def test_pictures_that_do_not_belong_together_are_refused(folder, tmp_path, capsys):
    call = ["eval", "--models", f"a={folder / 'images' / 'base'}", "builtin:shapes-flow", "--prompts", "builtin:shapes"]
    call += ["--rewards", "shapes-judge", "--num-inference-steps", "2"]
    assert cli.main([*call, "--count", "11", "--output-dir", str(tmp_path)]) == 2
    assert "1 of 12 prompts of" in capsys.readouterr().err
    assert cli.main([*call, "--count", "12", "--seed", "1", "--output-dir", str(tmp_path / "b")]) == 2
    assert "do not belong together" in capsys.readouterr().err


def test_black_pictures_are_told(folder, tmp_path):
    black = tmp_path / "black"
    shutil.copytree(folder / "images" / "flow", black)
    rows = [json.loads(line) for line in (black / "metadata.jsonl").read_text().splitlines()]
    rows[0]["all_black"] = True
    (black / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Image.new("RGB", (32, 32)).save(black / rows[0]["file_name"])
    config = EvalConfig(["builtin:shapes", f"dark={black}"], output_dir=str(tmp_path / "out"), **FAST)
    assert "dark: 1 of 12 pictures are all black" in evaluate(config, quiet=True).warnings[0]


@pytest.mark.parametrize("models, baseline, names", [
    (["a", "b"], None, ["a", "b"]),
    (["a", "b", "c"], "b", ["b", "a", "c"]),
    (["b"], "a", ["a", "b"]),
    (["base=a", "b"], "a", ["a", "b"]),
    (["base=a", "b"], "base=a", ["base", "b"]),
])  # fmt: skip
def test_the_baseline_comes_first_and_once(models, baseline, names):
    assert list(EvalConfig(models, baseline).places()) == names


@pytest.mark.parametrize("models, baseline, words", [
    ([], None, "models is empty"), (["a"], None, "name a model beside the baseline"), (["a"], "a", "beside the baseline"),
    (["a", "x=b", "x=c"], None, "twice: a, x, x"),
])  # fmt: skip
def test_models_that_cannot_be_compared_are_refused(models, baseline, words):
    with pytest.raises(ValueError, match=words):
        EvalConfig(models, baseline).places()


def test_scores_that_are_missing_leave_their_prompts_out():
    scores = {"base": {"r": np.array([0.0, 1.0, np.nan, 0.0])}, "new": {"r": np.array([1.0, np.nan, 1.0, 2.0])}}
    (row,) = outcomes.comparisons(scores, np.array(["a", "b", "c", "d"]), "base")
    assert (row.wins, row.prompts, row.mean, row.baseline_mean) == (2, 2, 1.5, 0.0)
    with pytest.raises(ValueError, match="no pair of scores"):
        outcomes.comparisons({name: {"r": np.full(2, np.nan)} for name in scores}, np.array(["a", "b"]), "base")


def test_categories_and_a_ranking_of_three():
    rng = np.random.default_rng(0)
    base = rng.normal(size=60)
    scores = {"base": {"r": base}, "good": {"r": base + 1}, "bad": {"r": base - 1}}
    groups, category = np.arange(60).astype(str), np.array(["one"] * 55 + ["two"] * 5)
    found = {(row.model, row.category): row for row in outcomes.categories(scores, groups, category, "base")}
    assert found["good", "one"].win_rate == 1 and found["bad", "two"].wins == 0
    assert found["good", "one"].interval is not None and found["good", "two"].interval is None
    mixed = {"base": {"r": base}, "x": {"r": base + rng.normal(size=60)}, "y": {"r": base + rng.normal(size=60) + 1}}
    (ranking,) = outcomes.rankings(mixed, groups, "base")
    assert ranking.rows[0].model == "y" and next(row.rating for row in ranking.rows if row.model == "base") == pytest.approx(1000)
    assert outcomes.rankings({name: mixed[name] for name in ("base", "x")}, groups, "base") == ()


@pytest.mark.parametrize("name", presets.PROTOCOLS)
def test_a_preset_is_a_configuration(name):
    config = EvalConfig(models=["mine"], **presets.get(name).values)
    assert list(config.places())[1:] == ["mine"] and config.rewards


def test_presets_are_listed_and_unknown_ones_named(capsys):
    assert cli.main(["eval", "--list-presets"]) == 0
    assert "quirk: its 'cfg 7.5' is" in capsys.readouterr().out
    assert cli.main(["eval", "--preset", "paper/diffusion-dpo", "--models", "x"]) == 2
    assert "paper/diffusion-dpo-sd" in capsys.readouterr().err
