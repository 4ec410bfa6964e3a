import pytest

from diffalign import objectives
from diffalign.objectives import TABLE


def test_names():
    assert objectives.names()[0] == "dpo" and set(objectives.names()) >= {
        "dpo", "cdpo", "ipo", "hinge", "mapo", "mapo-paper", "linear-dpo", "capo", "sft", "sdpo", "dspo", "dmpo", "seppo", "kto", "rankdpo",
    }


@pytest.mark.parametrize("name", objectives.names())
def test_every_row_is_complete_and_builds(name):
    row = TABLE[name]
    assert row.name == name and row.title and row.formula and row.paper
    assert all(option.unit and option.published for option in row.options.values())
    given = {option: 0.1 for option, what in row.options.items() if what.default is None}
    objective = objectives.get(name, **given)
    assert objective == row.build(**given, **row.defaults)
    assert objective.needs == row.needs and objective.takes == row.takes
    assert objective.unit == {"pairs": "pair", "labels": "sample", "rankings": "group", "scores": "sample"}[row.takes]
    assert not set(row.refuses) & set(row.options)


KNOBS = ("loser_weight", "sft_weight", "anchor_weight", "label_smoothing", "adaptive_beta")


@pytest.mark.parametrize("knob", KNOBS)
@pytest.mark.parametrize("name", objectives.names())
def test_every_row_takes_a_knob_or_says_why_not(name, knob):
    row = TABLE[name]
    given = {option: 0.1 for option, what in row.options.items() if what.default is None} | {knob: 0.2}
    if knob in row.options:
        assert objectives.get(name, **given) != objectives.get(name, **(given | {knob: 0.3}))
    else:
        with pytest.raises(ValueError, match=f"unknown option of {name} '{knob}' \\(.*{row.refuses[knob][:20]}"):
            objectives.get(name, **given)


def test_options_reach_the_components():
    objective = objectives.get("cdpo", beta=7.0, label_smoothing=0.25)
    assert objective.beta == 7.0 and objective.link.label_smoothing == 0.25
    assert objectives.get("cdpo", beta=7.0).link.label_smoothing == TABLE["cdpo"].defaults["label_smoothing"] == 0.1
    assert objectives.get("ipo", beta=7.0).link.tau == 7.0


@pytest.mark.parametrize("call, words", [
    (lambda: objectives.get("ddpo", beta=1.0), "unknown objective 'ddpo'; did you mean 'dpo'.*Allowed: dpo, cdpo"),
    (lambda: objectives.get("qqq", beta=1.0), "unknown objective 'qqq'. Allowed"),
    (lambda: objectives.get("dpo", bata=1.0), "unknown option of dpo 'bata'; did you mean 'beta'"),
    (lambda: objectives.get("dpo", beta=1.0, label_smoothing=0.1), "label_smoothing belongs to cdpo.*Allowed: beta"),
    (lambda: objectives.get("dpo"), "dpo needs beta.*5000.*0.1"),
    (lambda: objectives.get("cdpo", beta=1.0, label_smoothing=0.5), "label_smoothing.*0.5"),
])
def test_refusals_say_what_to_do(call, words):
    with pytest.raises(ValueError, match=words):
        call()
