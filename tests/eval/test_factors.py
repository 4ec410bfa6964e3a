"""Factor agreement against scipy's Kendall, counts by hand, and effects that are known."""

import numpy as np
import pytest
from scipy.stats import kendalltau

from diffalign.eval.diagnostics.factors import RIDGE, comparisons, explain_pairs, explain_scores, logistic


def test_of_one_list_it_is_kendalls_tau_b():
    rng = np.random.default_rng(0)
    scores, length = rng.integers(0, 6, 40), rng.integers(0, 5, 40)  # with many ties
    (found,) = explain_scores({"length": length}, scores, np.zeros(40), resamples=10)
    assert found.tau_b == pytest.approx(kendalltau(scores, length).statistic, rel=1e-12)
    assert found.agree + found.disagree + found.tied == 40 * 39 / 2


def test_counts_by_hand():
    """Preferences +, +, -, 0, +; differences 1, -1, -1, 1, 0: two agree, one does not, two are tied; tau_b = 1 / sqrt(4 * 4)."""
    (found,) = explain_pairs({"x": [1, -1, -1, 1, 0]}, [2.0, 0.1, -3.0, 0.0, 1.0])
    assert (found.agree, found.disagree, found.tied, found.prompts) == (2, 1, 2, 5) and found.tau_b == 0.25
    assert found.tau_b_ci[0] <= 0.25 <= found.tau_b_ci[1] and found.measures()["follows x (tau_b)"]["value"] == 0.25


def test_only_samples_of_one_prompt_are_compared():
    assert comparisons(["a", "b", "a", "b", "a"]).tolist() == [[0, 2], [0, 4], [1, 3], [2, 4]]
    # between the prompts brightness and score go together, within them against each other
    (found,) = explain_scores({"brightness": [0, 1, 10, 11]}, [1, 0, 6, 5], ["a", "a", "b", "b"])
    assert found.tau_b == -1.0 and found.disagree == 2


def test_the_sign_of_a_comparison_does_not_matter():
    rng = np.random.default_rng(1)
    preference, x, y = rng.normal(size=60), rng.normal(size=60), rng.normal(size=60)
    turn = rng.choice([-1.0, 1.0], 60)
    one, other = explain_pairs({"x": x, "y": y}, preference), explain_pairs({"x": turn * x, "y": turn * y}, turn * preference)
    for a, b in zip(one, other, strict=True):
        assert a.tau_b == b.tau_b and a.tau_b_ci == b.tau_b_ci
        assert a.effect == pytest.approx(b.effect) and a.effect_ci == pytest.approx(b.effect_ci)


def test_partial_effects_tell_the_cause_from_its_shadow():
    """Only x decides; y goes along with x. Both agree with the preference, the effect is x's alone."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=3000)
    y = 0.8 * x + 0.6 * rng.normal(size=3000)
    preference = np.where(rng.random(3000) < 1 / (1 + np.exp(-1.5 * x)), 1, -1)
    found = {factor.name: factor for factor in explain_pairs({"y": y, "x": x}, preference, resamples=200)}
    assert list(found) == ["x", "y"] and found["y"].tau_b_ci[0] > 0.2
    assert found["x"].effect_ci[0] < 1.5 < found["x"].effect_ci[1] and found["x"].effect_ci[0] > 1.2
    assert found["y"].effect_ci[0] < 0 < found["y"].effect_ci[1]


def test_the_regression_is_at_the_penalised_optimum():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(80, 3)), rng.choice([0.0, 0.5, 1.0], 80)
    weights, covariance = logistic(x, y, np.arange(80))
    gradient = x.T @ (y - 1 / (1 + np.exp(-x @ weights))) - RIDGE * weights
    assert abs(gradient).max() < 1e-8 and (np.linalg.eigvalsh(covariance) > 0).all()


def test_a_factor_that_decides_everything_has_a_finite_effect():
    (found,) = explain_pairs({"x": [1.0, 2.0, -1.0, -3.0]}, [1, 1, -1, -1])
    assert found.tau_b == 1.0 and 0 < found.effect < 10


def test_intervals_hold_the_truth_and_see_prompts_as_one():
    """100 experiments of 60 prompts with four alike comparisons each: at least 88 of them cover effect and tau; copies add no certainty."""
    truth, covered = 0.8, np.zeros(2)
    rng = np.random.default_rng(4)
    x = rng.normal(size=200_000)
    likes = 1 / (1 + np.exp(-truth * x))
    tau = float((np.sign(x) * (2 * likes - 1)).mean())
    for seed in range(100):
        base = rng.normal(size=60)
        preference = np.where(rng.random(60) < 1 / (1 + np.exp(-truth * base)), 1, -1)
        groups, many = np.repeat(np.arange(60), 4), np.repeat(base, 4)
        (found,) = explain_pairs({"x": many}, np.repeat(preference, 4), groups, resamples=300, seed=seed)
        scale = np.sqrt((base**2).mean())  # effects are told for one typical difference
        covered += [found.effect_ci[0] <= truth * scale <= found.effect_ci[1], found.tau_b_ci[0] <= tau <= found.tau_b_ci[1]]
    assert (covered >= 88).all() and (covered < 100).all()


def test_what_never_differs_has_no_numbers():
    moving, still = explain_pairs({"still": [0, 0, 0], "moving": [1, -1, 1]}, [1, -1, -1])
    assert (still.tau_b, still.tau_b_ci, still.effect, still.effect_ci, still.tied) == (None, None, None, None, 3)
    assert moving.tau_b == pytest.approx(1 / 3) and still.measures() == {}
    assert explain_pairs({"x": [1, 2]}, [0, 0])[0].tau_b is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: explain_pairs({}, [1.0]), "0 factors, 1 comparisons"),
        (lambda: explain_pairs({"x": [1.0]}, [1.0, 2.0]), "factors x have other lengths"),
        (lambda: explain_pairs({"x": [np.nan]}, [1.0]), "factor 'x' must be a list of finite numbers"),
        (lambda: explain_pairs({"x": [1.0]}, [1.0], confidence=95), "confidence is 95"),
        (lambda: explain_scores({"x": [1.0]}, [1.0], ["a"]), "two samples of some prompt"),
        (lambda: explain_scores({"x": [1.0]}, [1.0, 2.0], ["a", "a"]), "one value a sample"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
