"""The table of methods: each a point that exists, with the published numbers."""

import json

import pytest

from diffalign import methods, objectives
from diffalign.cli import main
from diffalign.methods import Point


@pytest.mark.parametrize("name", methods.names())
def test_every_named_method_exists(name):
    method = methods.get(name)
    assert method.name == name and method.point.refusals() == []
    assert method.point.source == objectives.TABLE[method.point.objective].takes
    assert method.formula and method.paper and method.settings


def test_published_settings():
    """spec/diffusion-methods.md sections 1 to 5 and 11, in units of the mean error with the one half."""
    points = {name: methods.get(name).point for name in methods.names()}
    assert points["diffusion-dpo"] == Point("dpo", {"beta": 5000.0})
    assert points["dcpo"].objective_options == {"beta": 500.0} and points["dcpo"].conditioning == "dual captions"
    assert points["smpo"].noising == "renoise-inversion" and points["smpo"].soft_label_scale == 10.0
    assert points["inpo"].build_inversion().eta == 0.1 and points["inpo"].build_inversion().steps == 10
    assert points["mapo"].reference == "none" == points["mapo-paper"].reference == points["sft"].reference
    mapo = points["mapo"].build_objective()
    assert (mapo.beta, mapo.link.weight) == (1000.0, 0.1)
    assert points["diffusion-kto"].source == "labels" and points["diffusion-kto"].objective_options == {"beta": 2000.0}
    assert points["rankdpo"].source == "rankings" and points["linear-dpo"].reference == "start" and points["diffusion-npo"].swap


@pytest.mark.parametrize(
    ("point", "reason"),
    [
        (Point("dpo", {"beta": 1.0}, reference="none"), "compares with one: use start, base or ema"),
        (Point("kto", {"beta": 1.0}, conditioning="dual captions"), "takes labels, which have one caption"),
        (Point("rankdpo", {"beta": 1.0}, soft_label_scale=10.0), "soft_label_scale scales a logistic margin"),
        (Point("dpo", {"beta": 1.0}, soft_label_scale=0.0), "must be positive"),
        (Point("kto", {"beta": 1.0}, swap=True), "swap exchanges the sides of a pair"),
        (Point("dpo", {"beta": 1.0}, inversion={"steps": 3}), "noising is 'shared', which inverts nothing"),
        (Point("mapo", reference="none", noising="ddim-inversion", inverted_by="reference"), "invert by the policy, or choose a reference"),
        (Point("dpo", {"beta": 1.0}, noising="ddim-inversion", inversion={"grid": "mine"}), "unknown inversion grid 'mine'"),
        (Point("dpo", {"beta": 1.0}, noising="ddim"), "noising is 'ddim'; allowed are shared, independent"),
        (Point("dpo", {"beta": 1.0, "alpha": 1.0}), "alpha"),
        (Point("sft", reference="none", soft_label_scale=10.0), "which sft with no options is not"),
        (Point("ipo", {"beta": 1.0}, soft_label_scale=10.0), "which ipo with beta is not"),
        (Point("dpo", {"beta": 1.0, "sft_weight": 1.0}, soft_label_scale=10.0), "which dpo with beta, sft_weight is not"),
        (Point("orpo-trl"), "orpo-trl reads joint, joint_size, and a denoising step measures drift, cross, balance only: choose another"),
        (Point("wpo", {"beta": 1.0}), "wpo reads self_agreement, and a denoising step measures"),
        (Point("a2po", {"beta": 1.0}), "a2po takes scores, and no data is read or converted to these (it gives pairs, labels, rankings)"),
    ],
)
def test_what_does_not_exist_says_why(point, reason):
    (found,) = point.refusals()
    assert reason in found


@pytest.mark.parametrize("name", objectives.names())
def test_every_objective_runs_on_denoising_evidence_or_is_refused(name):
    """The three numbers that the network's outputs give, and the three kinds of labels that records say: nothing else is at hand."""
    row = objectives.TABLE[name]
    options = {option: 1.0 for option, facts in row.options.items() if facts.default is None}
    at_hand = {"reference", "size", "extra:drift", "extra:cross", "extra:balance"}
    reasons = [row.takes not in ("pairs", "labels", "rankings"), not row.needs <= at_hand]
    assert len(Point(name, options).refusals()) == sum(reasons)


def test_a_flow_path_has_one_grid():
    from diffalign.denoising import flow_path

    Point("dpo", {"beta": 1.0}, noising="ddim-inversion").check_path(flow_path())
    Point("dpo", {"beta": 1.0}).check_path(flow_path())
    with pytest.raises(ValueError, match="library"):
        Point("dpo", {"beta": 1.0}, noising="ddim-inversion", inversion={"grid": "library"}).check_path(flow_path())


def test_unknown_methods_name_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'mapo'"):
        methods.get("mapoo")
    with pytest.raises(ValueError, match="did you mean 'diffusion-dpo'"):
        methods.get("dpo")


def test_the_command_lists_them(capsys):
    assert main(["methods"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in methods.names()) and "arXiv:2506.02698" in text
    assert main(["methods", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == methods.names()
    assert rows[0]["point"]["source"] == "pairs" and rows[0]["point"]["objective_options"] == {"beta": 5000.0}
