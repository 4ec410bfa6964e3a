"""Results as JSON and back, and the sentence they are summed up in."""

import dataclasses
import json

import pytest

from diffalign.eval.evaluation import Evaluation
from diffalign.eval.pages.content import Curve
from diffalign.eval.results import CategoryResult, ComparisonResult, ModelResult, Prompts, Ranking, Rating, Sample


def row(model="aligned", reward="judge", rate=0.7, interval=(0.6, 0.8), **more) -> ComparisonResult:
    return ComparisonResult(model, reward, rate, interval, 70, 0, 30, 100, 0.8, 0.81, 0.6, 0.61, **more)


def results(comparisons=None, models=("aligned",), trained=(), **more) -> Evaluation:
    named = (ModelResult("base"), *(ModelResult(name, trained_on=trained) for name in models))
    rows = [row()] if comparisons is None else comparisons
    return Evaluation("t", "diffalign eval", "base", named, Prompts("p", 100), tuple(rows), **more)


def found(*flagged) -> list[dict]:
    return [{"name": f"c{i}", "what": "", "value": 1.0, "threshold": None, "flagged": flag, "note": ""} for i, flag in enumerate(flagged)]


def full() -> Evaluation:
    cats = CategoryResult("aligned", "judge", "cats", 0.6, (0.4, 0.8), 6, 0, 4)
    rest = CategoryResult("aligned", "judge", "", 1.0, None, 1, 0, 0)
    unchecked = {"name": "c", "what": "", "value": float("nan"), "threshold": 1, "flagged": False, "note": ""}
    return results(
        [row(p_values={"sign test": 0.001}, test="sign test", p_adjusted=0.002, minimum_detectable=0.6), row(reward="other")],
        rewards={"judge": {"z": 1, "a": (1, 2)}, "other": {}},
        ranking=(Ranking("judge", (Rating("aligned", 1100.0, 1050.0, None), Rating("base", 1000.0)), "Elo"),),
        categories=(cats, rest),
        findings={"aligned": [*found(True), unchecked]},
        distribution={"aligned": {"kid": {"value": 0.1, "n": (100, 100)}}},
        curves=(Curve("c", "", "step", {"b": [(0, 1.0), (1, float("nan"))], "a": [(0, 2)]}, {"end": 1.0}),),
        samples=(Sample("7", "a cat", "cats", 0, 2**47, {"base": "b.png", "aligned": "a.png"}, {"base": {"judge": 0.5}}),),
        warnings=("black",),
        settings={"steps": 20},
    )


def test_json_comes_back_as_it_went(tmp_path):
    evaluation = full()
    again = Evaluation.read(evaluation.write(tmp_path / "made" / "results.json"))
    assert again == evaluation and again.text() == evaluation.text()
    assert again.curves[0].left_out == 1 and again.findings["aligned"][1]["value"] is None
    assert isinstance(again.samples, tuple) and again.comparisons[0].interval == (0.6, 0.8)
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["results.json"]
    data = json.loads((tmp_path / "made" / "results.json").read_text())
    assert data["verdict"]["sentence"] == evaluation.verdict()[0] and list(data) == sorted(data)


def test_equal_content_gives_equal_bytes():
    turned = dataclasses.replace(full(), rewards={"other": {}, "judge": {"a": [1, 2], "z": 1}})
    assert turned.text() == full().text()
    assert dataclasses.replace(full(), settings={"steps": 21}).text() != full().text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data | {"format": 9}, "format 9"),
        (lambda data: data | {"colour": 1}, "colour in Evaluation"),
        (lambda data: {key: value for key, value in data.items() if key != "baseline"}, "baseline"),
        (lambda data: data | {"prompts": {"name": "p"}}, "count"),
    ],
)
def test_json_of_another_kind_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Evaluation.from_json(change(full().to_json()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: results([row(model="stranger")]), "'stranger'.*aligned"),
        (lambda: results([row(model="base")]), "'base'"),
        (lambda: results([row(), row()]), "twice"),
        (lambda: dataclasses.replace(full(), baseline="none"), "'none' must be one of the models"),
        (lambda: results(samples=(Sample("7", "p", "", 0, None, {"base": "b.png"}),)), "no picture of aligned"),
        (lambda: row(rate=float("nan")), "not finite"),
        (lambda: row(interval=(0.8, 0.6)), "low <= high"),
        (lambda: row(rate=1.1), "win rate in"),
    ],
)
def test_refuses_what_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_json_cannot_hold_is_refused():
    with pytest.raises(TypeError, match="not object"):
        results(settings={"model": object()})


def test_the_verdict_names_a_winner_only_where_the_interval_does():
    wins = results([row(p_adjusted=0.0002)])
    assert wins.verdict() == (
        "aligned wins 70.0 % of pairings against base.",
        "95 % interval 60.0 to 80.0 % (by judge, over 100 prompts: 70 wins, 0 ties, 30 losses); p < 0.001 after Holm.",
    )
    sentence, lead = results([row(rate=0.55, interval=(0.48, 0.62), minimum_detectable=0.598)]).verdict()
    assert sentence == "No difference between aligned and base can be told."
    assert "holds one half" in lead and "from 59.8 % on, at 80 % power" in lead
    assert results([row(rate=0.55, interval=(0.5, 0.6))]).verdict()[0].startswith("No difference")  # touching one half is holding it
    assert results([row(rate=0.31, interval=(0.2, 0.4))]).verdict()[0] == "base wins against aligned, which wins only 31.0 % of pairings."
    assert results([]).verdict()[0] == "There is nothing to compare base with." and results([]).leader == ""


def test_the_verdict_is_qualified_by_checks_by_training_and_by_the_other_rewards():
    given = {"hps": (0.6, (0.51, 0.7)), "aes": (0.4, (0.3, 0.45)), "x": (0.6, (0.4, 0.8))}
    others = [row(reward=name, rate=rate, interval=interval) for name, (rate, interval) in given.items()]
    sentence, lead = results([row(), *others], trained=("judge",), findings={"aligned": found(True, False, True)}).verdict()
    assert sentence == "aligned wins 70.0 % of pairings against base, but 2 of 3 checks are flagged."
    assert "trained on judge: only the other rewards" in lead
    assert lead.endswith("Other rewards: better by hps; open by x; worse by aes.")
    assert "may be chance" in results([row(p_adjusted=0.08)]).verdict()[1] and "chance" not in lead


def test_the_verdict_over_several_models():
    rows = [row("a"), row("b", rate=0.75, interval=(0.65, 0.85)), row("c", rate=0.5, interval=(0.4, 0.6))]
    evaluation = results(rows, ("a", "b", "c"), findings={"a": found(True), "b": found(False)})
    sentence, lead = evaluation.verdict()
    assert evaluation.leader == "b" and sentence == "b wins 75.0 % of pairings against base."
    assert lead.endswith("Next of 3 models: a, 70.0 % [60.0, 80.0]. The two intervals overlap: their order is not settled.")
    assert evaluation.flagged() == [("a", found(True)[0])]
    none = results([row("a", rate=0.5, interval=(0.4, 0.6)), row("b", rate=0.52, interval=(0.42, 0.62))], ("a", "b"))
    assert none.verdict()[0] == "No model is sure to beat base."
    worse = [row("a", rate=0.4, interval=(0.3, 0.45)), row("b", rate=0.3, interval=(0.2, 0.4))]
    said = results(worse, ("a", "b")).verdict()[0]
    assert said == "base wins against every other model, a being the best of them: it wins only 40.0 % of pairings."
    open_one = [worse[0], row("b", rate=0.39, interval=(0.2, 0.55))]
    assert results(open_one, ("a", "b")).verdict()[0] == "No model is sure to beat base."
    sure = [row("a", rate=0.7, interval=(0.45, 0.9)), row("b", rate=0.6, interval=(0.55, 0.65))]  # fewer pairings behind the first
    assert results(sure, ("a", "b")).leader == "b"


def test_a_gap_needs_both_scores():
    sample = full().samples[0]
    assert sample.gap("aligned", "base", "judge") is None
    unscored = dataclasses.replace(sample, scores={"base": {"judge": 0.5}, "aligned": {"judge": float("nan")}})
    assert unscored.gap("aligned", "base", "judge") is None and unscored.scores["aligned"] == {"judge": None}
    both = dataclasses.replace(sample, scores={"base": {"judge": 0.5}, "aligned": {"judge": 0.75}})
    assert both.gap("aligned", "base", "judge") == 0.25 and both.gap("aligned", "base", "other") is None
