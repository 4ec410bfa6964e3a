"""Ranking, its ceiling, displacement, generalisation and the signs in a log, against numbers derived by hand."""

import math

import numpy as np
import pytest
import torch

from diffalign import objectives
from diffalign.eval.diagnostics.generalisation import drop, explicit_rewards, generalisation
from diffalign.eval.diagnostics.likelihoods import PATTERNS, displacement, idealised_gap, loss_to_rank, ranking, winner_rise
from diffalign.eval.diagnostics.overoptimisation import over_optimisation, top_k
from diffalign.eval.stats.compare import compare
from diffalign.objectives import Comparison, Evidence
from diffalign.rewards import load_reward

POLICY = [[-4.0, -6.0], [-9.0, -8.0], [-3.0, -3.0], [-10.0, -2.0]]
REFERENCE = [[-5.0, -5.5], [-8.0, -4.0], [-3.0, -2.0], [-9.0, -3.0]]


def test_accuracies_by_hand():
    """Policy gaps 2, -1, 0, -8: (1 + 1/2) / 4. Reference 0.5, -4, -1, -6: 1/4. Log-ratio gaps 1.5, 3, 1, -2: 3/4.
    By mean, sizes (2, 4), (9, 4), (3, 3), (5, 1): -2 : -1.5, -1 : -2, tie, -2 : -2, so (0 + 1 + 1/2 + 1/2) / 4."""
    found = ranking(POLICY, REFERENCE, size=[[2, 4], [9, 4], [3, 3], [5, 1]])
    rates = {name: value.win_rate for name, value in vars(found).items() if value is not None}
    assert rates == {"policy": 0.375, "per_token": 0.5, "reference": 0.25, "implicit": 0.75}
    assert found.policy.ties == 1 and found.policy == compare(*np.array(POLICY).T)
    told = found.measures()
    assert told["ranking accuracy"]["value"] == 0.375 and told["ranking accuracy"]["n"] == 4 and len(told) == 4


def test_the_ceiling_is_the_reference_where_labels_are_open_and_one_where_they_are_sure():
    def ceiling(probability, beta=1.0, reference=REFERENCE):
        return ranking(POLICY, reference, probability=[probability] * 4, beta=beta).idealised.win_rate

    assert ceiling(0.5) == 0.25 and ceiling(1.0) == 1.0 and ceiling(0.0) == 0.0
    assert ceiling(0.5, reference=[[1.0, 0.0]] * 4) == 1.0, "the reference agrees with every label"
    # logit(0.9) = 2.197: with beta 1 it turns the gap of -1 but not -4 and -6; with beta 0.5 (4.394) also -4; with 0.25 all
    assert [ceiling(0.9, beta) for beta in (1.0, 0.5, 0.25)] == [0.5, 0.75, 1.0]


def test_the_idealised_policy_is_the_tilted_reference():
    """Three responses, pi* = ref exp(r / beta) / Z written out; the gap of two of them needs no Z."""
    reference, rewards, beta = np.array([0.2, 0.5, 0.3]), np.array([1.0, -0.4, 0.3]), 0.7
    tilted = reference * np.exp(rewards / beta)
    tilted /= tilted.sum()
    p = 1 / (1 + np.exp(-(rewards[0] - rewards[1])))
    gap = idealised_gap([np.log(reference[:2])], [p], beta)
    assert gap[0] == pytest.approx(np.log(tilted[0] / tilted[1]), rel=1e-12)


def test_a_pair_is_ranked_right_exactly_below_its_loss():
    """Against the DPO loss of the objective table, on policies around the border."""
    rng = np.random.default_rng(0)
    policy, reference, beta = rng.normal(size=(200, 2)), rng.normal(size=(200, 2)), 0.4
    dpo = objectives.get("dpo", beta=beta)
    evidence = Evidence(*(torch.tensor(values.T.ravel()) for values in (policy, reference)))
    loss = dpo(evidence, Comparison.halves(200)).loss.double().numpy()
    right = policy[:, 0] > policy[:, 1]
    assert ((loss < loss_to_rank(reference, beta)) == right).all() and 0.3 < right.mean() < 0.7
    assert loss_to_rank([[0.0, 0.0]], 3.0)[0] == pytest.approx(math.log(2))


def test_displacement_by_hand():
    """Changes of chosen 1, -1, 0, -1 and rejected -0.5, -4, -1, 1. The third pair's chosen did not change: half up, half down."""
    found = displacement(POLICY, REFERENCE)
    assert found.chosen.mean_difference == pytest.approx(-0.25) and found.rejected.mean_difference == pytest.approx(-1.125)
    assert found.chosen.win_rate == 0.375
    assert found.patterns == dict(zip(PATTERNS, (0.375, 0.0, 0.375, 0.25), strict=True)) and sum(found.patterns.values()) == 1
    assert found.measures()["pairs: both down"] == {"value": 0.375} and found.to_json()["chosen"]["n_prompts"] == 4


def test_the_winners_error_as_a_share():
    """Errors 0.2 -> 0.25 and 0.4 -> 0.38: mean rise 0.015 of a mean of 0.3 is 5 %."""
    value, interval = winner_rise([0.25, 0.38], [0.2, 0.4])
    assert value == pytest.approx(0.05) and interval == (pytest.approx(-0.02 / 0.3), pytest.approx(0.05 / 0.3))


def test_generalisation_is_paired():
    """Implicit right, right, wrong, tie; explicit right, wrong, wrong, right: 0.625 and 0.5; they agree on 1, 0, 1, 1/2."""
    implicit, explicit = [[1, 0], [2, 1], [0, 1], [1, 1]], [[3, 2], [0, 1], [0, 5], [9, 1]]
    found = generalisation("held out", implicit, explicit, ["a", "a", "b", "c"])
    assert (found.implicit.win_rate, found.explicit.win_rate, found.difference, found.agreement) == (0.625, 0.5, 0.125, 0.625)
    assert found.difference_ci[0] <= 0.125 <= found.difference_ci[1] and found.implicit.n_prompts == 3
    swapped = generalisation("held out", explicit, implicit, ["a", "a", "b", "c"])
    assert swapped.difference == -found.difference and swapped.difference_ci == pytest.approx([-x for x in found.difference_ci[::-1]])


def test_a_drop_adds_the_squares_of_the_two_arms():
    """Equal accuracies on equally many pairs: no drop, an interval around 0 that is sqrt 2 times the single one."""
    rng = np.random.default_rng(1)
    right = (rng.random(400) < 0.8).astype(float)
    inside = compare(right, np.full(400, 0.5))
    value, (low, high) = drop(inside, inside)
    below, above = inside.win_rate - inside.win_rate_ci[0], inside.win_rate_ci[1] - inside.win_rate
    assert value == 0.0 and -low == high == pytest.approx(math.hypot(below, above)) and below > 0


def test_explicit_rewards_are_scored_a_side():
    from diffalign import data
    from diffalign.worlds.shapes import PAIRS, judge

    pairs = data.read(str(PAIRS))[0][:3]
    found = explicit_rewards(load_reward("diffalign.worlds.shapes.judge:score"), pairs)
    assert judge.score.__module__.endswith("judge") and found.shape == (3, 2)
    assert found == pytest.approx(np.array([pair.scores for pair in pairs]), abs=1e-5), "the judge labelled these pairs"


def log(accuracies, losses, chosen, margins, **end):
    rows = [{"step": 10 * i, "saturation": 0.1} | end for i in range(1, 6)]
    names = ("held_out/accuracies", "held_out/loss", "held_out/chosen", "held_out/margins")
    validations = zip(accuracies, losses, chosen, margins, strict=True)
    return rows + [{"step": 20 * i, **dict(zip(names, values, strict=True))} for i, values in enumerate(validations, 1)]


def flags(found):
    return {item.name: item.flagged for item in found}


def test_a_run_past_its_peak_is_flagged_and_one_before_it_is_not():
    healthy = log([0.6, 0.7, 0.75], [0.69, 0.6, 0.55], [-0.1, -0.2, -0.3], [0.2, 0.5, 0.8])
    assert not any(flags(over_optimisation(healthy)).values())
    worn = log([0.6, 0.75, 0.65], [0.69, 0.5, 0.6], [-0.1, -0.5, -2.0], [0.2, 0.5, 1.5])
    found = over_optimisation(worn)
    assert flags(found) == {"held-out loss": True, "held-out accuracy": True, "chosen reward": True, "saturation": False}
    values = {item.name: item.value for item in found}
    assert values["held-out accuracy"] == pytest.approx(0.10) and values["held-out loss"] == pytest.approx(0.1)
    assert values["chosen reward"] == pytest.approx(-1.5) and "step 40" in found[1].note


def test_few_held_out_pairs_make_a_fall_of_accuracy_chance():
    """1.96 sqrt(2 * 0.75 * 0.25 / n) is 0.12 for 100 pairs and 0.0379 for 1000: a fall of 0.1 counts for the latter."""
    worn = log([0.6, 0.75, 0.65], [0.69, 0.5, 0.6], [-0.1, -0.5, -2.0], [0.2, 0.5, 1.5])
    few, many = (next(i for i in over_optimisation(worn, held_out_pairs=n) if i.name == "held-out accuracy") for n in (100, 1000))
    assert few.threshold == pytest.approx(0.12002, abs=1e-5) and not few.flagged and many.flagged
    assert not flags(over_optimisation(worn, held_out_pairs=100))["chosen reward"]


def test_the_end_of_the_training_log():
    """The last of five lines: the winner's error 3 % above the reference's, saturated pairs, entropy and mass down by more than a tenth."""
    rows = [
        {"step": i, "error/chosen_change": 0.003 * i / 5, "error/reference_chosen": 0.1, "saturation": 0.6, "kl": float(i),
         "top_k/entropy": 2 - 0.1 * i, "top_k/mass": 0.9 - 0.03 * i}
        for i in range(1, 6)
    ]  # fmt: skip
    found = {item.name: item for item in over_optimisation(rows)}
    assert found["winner's error"].value == pytest.approx(0.03) and all(item.flagged for item in found.values()) and len(found) == 4
    assert found["top-k entropy"].value == pytest.approx(1 - 1.5 / 1.9)
    rows[-1]["top_k/mass"] = 0.9
    assert not any(item.flagged for item in over_optimisation(rows) if item.name.startswith("top-k"))


def test_drift_is_counted_from_the_best_accuracy():
    worn = log([0.6, 0.75, 0.65], [0.69, 0.5, 0.6], [-0.1, -0.5, -2.0], [0.2, 0.5, 1.5])
    for row in worn:
        row["kl"] = float(row["step"])
    (found,) = (item for item in over_optimisation(worn, drift="kl") if item.name == "drift")
    assert found.value == pytest.approx(60 / 40 - 1) and found.flagged


def test_top_k_by_hand():
    """Probabilities 1/2, 1/4, 1/8, 1/8: the two largest hold 3/4 and are 2/3, 1/3 of it."""
    entropy, mass = top_k(torch.tensor([[0.125, 0.5, 0.125, 0.25], [0.25] * 4]).log() + 3.0, k=2)
    assert mass.tolist() == pytest.approx([0.75, 0.5])
    assert entropy.tolist() == pytest.approx([math.log(3) - 2 / 3 * math.log(2), math.log(2)])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ranking([1.0, 2.0]), "must be \\(P, 2\\)"),
        (lambda: ranking([[1.0, math.nan]]), "1 numbers that are not finite"),
        (lambda: ranking(POLICY, REFERENCE, beta=1.0), "needs all of reference"),
        (lambda: ranking(POLICY, REFERENCE, beta=0.0, probability=[1.0] * 4), "beta is 0.0"),
        (lambda: ranking(POLICY, size=np.zeros((4, 2))), "at least 1"),
        (lambda: idealised_gap(REFERENCE, [0.5, 2.0, 0.5, 0.5], 1.0), "in \\[0, 1\\]"),
        (lambda: displacement(POLICY, REFERENCE[:2]), "as the policy's"),
        (lambda: generalisation("x", POLICY, [[1.0, 2.0]]), "both must be"),
        (lambda: explicit_rewards(load_reward("jpeg-size"), []), "no pair"),
        (lambda: over_optimisation([]), "0 lines"),
        (lambda: over_optimisation([{"step": 1, "loss": 0.1}], drift="kl"), "'kl'; logged are loss, step"),
        (lambda: top_k(torch.zeros(3), k=4), "from 1 to the 3"),
    ],
)
def test_what_cannot_be_measured_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
