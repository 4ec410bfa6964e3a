"""Strengths that are known come back; what has no rating is said, not made up."""

import math

import numpy as np
import pytest

from diffalign.eval.stats.ranking import bradley_terry, rank, rate


def one_prompt(**games) -> tuple[list[str], np.ndarray]:
    """``a_b=3`` is three wins of a over b; everything in one prompt."""
    names = sorted({name for pair in games for name in pair.split("_")})
    wins = np.zeros((1, len(names), len(names)))
    for pair, count in games.items():
        first, second = pair.split("_")
        wins[0, names.index(first), names.index(second)] = count
    return names, wins


def elo(found) -> dict:
    return {row.model: row.elo for row in found.rows}


def test_two_models_by_hand():
    """3 of 4 won: odds of 3, 400 log10(3) = 190.8 points. A tie is half a win: 2 won and 2 tied is the same."""
    names, wins = one_prompt(a_b=3, b_a=1)
    assert elo(rate(names, wins, anchor="b", resamples=0)) == pytest.approx({"a": 1000 + 400 * math.log10(3), "b": 1000.0})
    assert elo(rate(names, wins, anchor="a", resamples=0))["b"] == pytest.approx(1000 - 400 * math.log10(3))
    tied = rank({"a": [1, 1, 0, 0], "b": [0, 0, 0, 0]}, anchor="b", resamples=0)
    assert elo(tied)["a"] == pytest.approx(1000 + 400 * math.log10(3))
    assert tied.rows[0].points == 3.0 and tied.rows[0].games == 4.0


def test_strengths_are_recovered_from_their_expected_wins():
    """Games in the expected shares make the true strengths the maximum of the likelihood, exactly; a chain suffices, and any start."""
    theta = np.array([0.0, 2.5, -1.0, 4.0, 0.7])
    chance = 1 / (1 + np.exp(theta[None] - theta[:, None]))
    chain = np.abs(np.subtract.outer(np.arange(5), np.arange(5))) == 1
    for played in (np.ones((5, 5)), chain):
        assert bradley_terry(50 * played * chance * ~np.eye(5, dtype=bool)) == pytest.approx(theta, abs=1e-8)


def test_strengths_are_recovered_from_outcomes_and_the_intervals_hold_them():
    rng, truth = np.random.default_rng(0), np.array([0.0, 0.8, -0.6])
    scores = {name: theta + rng.gumbel(size=3000) for name, theta in zip("abc", truth, strict=True)}  # differences are logistic
    found = rank(scores, anchor="a", resamples=200)
    assert [row.model for row in found.rows] == ["b", "a", "c"] and found.unidentified == ()
    for row in found.rows:
        exact = 1000 + 400 / math.log(10) * truth["abc".index(row.model)]
        assert row.elo == pytest.approx(exact, abs=25) and row.low - 5 <= exact <= row.high + 5
    anchor = found.rows[1]
    assert (anchor.low, anchor.elo, anchor.high) == (1000.0, 1000.0, 1000.0)


def test_only_the_order_of_scores_matters_and_prompts_are_the_units():
    rng = np.random.default_rng(1)
    scores = {name: rng.normal(size=60) for name in "ab"}
    groups = np.repeat(np.arange(15), 4)
    found = rank(scores, groups, anchor="a", resamples=50)
    assert found == rank({name: np.exp(values) for name, values in scores.items()}, groups, anchor="a", resamples=50)
    assert found.n_prompts == 15
    same = {name: np.repeat(values[:15], 4) for name, values in scores.items()}
    single = {name: values[:15] for name, values in scores.items()}
    assert rank(same, groups, anchor="a", resamples=50).rows[0].low == pytest.approx(rank(single, anchor="a", resamples=50).rows[0].low)


def test_a_model_that_won_everything_is_named_and_the_rest_is_rated_without_it():
    names, wins = one_prompt(a_b=3, b_a=1, top_a=4, top_b=4)
    found = rate(names, wins, anchor="b", resamples=20)
    assert elo(found) == {"top": None, "a": pytest.approx(1000 + 400 * math.log10(3)), "b": 1000.0}
    assert [row.model for row in found.rows] == ["top", "a", "b"]
    assert len(found.unidentified) == 1 and found.unidentified[0].startswith("top has no finite rating: it won all 8 of its games;")
    lost = rate(names, wins.transpose(0, 2, 1), anchor="b", resamples=0)
    assert [row.model for row in lost.rows][-1] == "top" and "it lost all 8 of its games" in lost.unidentified[0]


def test_models_that_never_met_are_not_placed():
    names, wins = one_prompt(a_b=3, b_a=1, c_d=2, d_c=2)
    found = rate(names, wins, anchor="a", resamples=10)
    assert elo(found)["c"] is None and elo(found)["b"] is not None
    assert found.unidentified[0] == "c cannot be placed: no chain of comparisons leads from it to a"
    assert [row.model for row in found.rows][:2] == ["a", "b"] and all(row.low is None for row in found.rows[2:])


def test_a_rating_that_some_resamples_lose_has_no_bound_there():
    """b won one of 20 prompts: a sample of prompts leaves it out with the chance (19/20)^20 = 0.36, and then a has won everything."""
    found = rank({"a": [1.0] * 20, "b": [2.0] + [0.0] * 19}, anchor="b", resamples=400)
    best = found.rows[0]
    assert best.model == "a" and best.elo == pytest.approx(1000 + 400 * math.log10(19))
    assert best.high is None and 1000 < best.low < best.elo
    assert found.loose_resamples == pytest.approx(0.36, abs=0.08)


def test_bad_input_is_refused():
    names, wins = one_prompt(a_b=3, b_a=1)
    with pytest.raises(ValueError, match="anchor is 'c'; it must be one of the models: a, b"):
        rate(names, wins, anchor="c")
    with pytest.raises(ValueError, match="negative or not finite"):
        rate(names, -wins, anchor="a")
    with pytest.raises(ValueError, match="at least two models"):
        rank({"a": [1.0]}, anchor="a")
    with pytest.raises(ValueError, match="M different models"):
        rate(["a", "a"], wins, anchor="a")
