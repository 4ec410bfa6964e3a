"""Combining rewards: identities, numbers by hand, and NaN."""

import math

import numpy as np
import pytest
import torch

from diffalign.rewards import combine

NAN = math.nan


@pytest.fixture
def scores():
    return np.random.default_rng(0).normal(0, 1, (3, 40)) * [[1], [5], [0.1]] + [[20], [0], [0.3]]


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


# Normalisation --------------------------------------------------------------------------------------------------------------------------


def test_scales():
    close(combine.normalise([1, NAN, 3]), [1, NAN, 3])
    close(combine.normalise([0.28, 0.3], "x100"), [28, 30])
    close(combine.normalise(torch.tensor([26.0, 13.0]), 26), [1, 0.5])
    close(combine.normalise([3, 5, 7, NAN], "z", [4, 4, 8, 8, NAN]), [-1.5, -0.5, 0.5, NAN])  # mean 6, deviation 2
    close(combine.normalise([30, 10, 20, NAN, 10], "rank"), [1, 0.5 / 3, 2 / 3, NAN, 0.5 / 3])
    close(combine.normalise([7.0], "rank"), [0.5])


def test_z_of_the_reference_itself_is_standard_and_ignores_units(scores):
    own = combine.normalise(scores[1], "z", scores[1])
    close([own.mean(), own.std()], [0, 1])
    close(combine.normalise(3 * scores[0] + 7, "z", 3 * scores[1] + 7), combine.normalise(scores[0], "z", scores[1]))


def test_ranks_ignore_monotone_changes(scores):
    close(combine.normalise(np.exp(scores[1]), "rank"), combine.normalise(scores[1], "rank"))
    close(combine.ranks([5, 1, 5, NAN, 9]), [2.5, 1, 2.5, NAN, 4])


# Sums -----------------------------------------------------------------------------------------------------------------------------------


def test_weighted_sum_by_hand():
    scores = [[1, 2, NAN], [10, 20, 30]]
    close(combine.weighted_sum(scores, [1, 0.5]), [6, 12, NAN])
    close(combine.weighted_sum(scores, [1, 0.5], missing="skip"), [6, 12, 45])  # 30 stands for the lacking part too: 30 * (1 + 0.5)
    close(combine.weighted_sum(scores, [1, 1], ["raw", 10], missing="skip"), [2, 4, 6])
    close(combine.weighted_sum([[1, 2], [10, 20]], [1, -1], ["z", "rank"], [[1, 3], None]), [-1, -1])
    close(combine.weighted_sum([[NAN], [NAN]], [1, 1], missing="skip"), [NAN])


def test_a_sum_of_one_is_itself_and_sums_are_linear(scores):
    close(combine.weighted_sum(scores[:1], [1]), scores[0])
    close(combine.weighted_sum(scores, [1, 2, 3]), scores[0] + 2 * scores[1] + 3 * scores[2])
    for missing in combine.MISSING:  # without NaN they all agree
        close(combine.weighted_sum(scores, [1, 2, 3], missing=missing), scores[0] + 2 * scores[1] + 3 * scores[2])


def test_rank_sum(scores):
    close(combine.rank_sum([[0.1, 0.2, 0.3], [30, 10, 20]]), [1 + 3, 2 + 1, 3 + 2])
    assert combine.rank_sum(scores).sum() == 3 * 40 * 41 / 2
    close(combine.rank_sum(scores * [[1], [100], [0.01]]), combine.rank_sum(scores))
    close(combine.rank_sum([[1, 2, NAN], [3, 2, 1]]), [1 + 3, 2 + 2, NAN])
    close(combine.rank_sum([[1, 2, NAN], [3, 2, 1]], "skip"), [4, 4, 2])


# The soft AND ---------------------------------------------------------------------------------------------------------------------------


def test_the_transform_saturates(scores):
    """T29 of the objectives' specification: u <= 0, and du/ds = sigmoid(centre - s), in (0, 1)."""
    step, level = 1e-5, 0.7
    u = combine.log_sigmoid(scores, level)
    slope = (combine.log_sigmoid(scores + step, level) - combine.log_sigmoid(scores - step, level)) / (2 * step)
    np.testing.assert_allclose(slope, 1 / (1 + np.exp(scores - level)), atol=1e-8)
    assert (u <= 0).all()
    close(combine.log_sigmoid(level, level), -math.log(2))
    close(combine.log_sigmoid([-1000.0, 1000.0], 0.0), [-1000, 0])  # no overflow


def test_the_sum_is_a_logical_and(scores):
    levels = combine.centre(scores)
    both = combine.all_of(scores, levels)
    close(np.exp(both), np.prod(1 / (1 + np.exp(levels[:, None] - scores)), axis=0))
    close(both, combine.all_of(scores, np.repeat(levels[:, None], 40, axis=1)))
    # A sum is indifferent to where a point goes; the AND gives it to the reward that is not satisfied.
    fair, lopsided = [[1.0], [1.0]], [[4.0], [-2.0]]
    assert combine.weighted_sum(fair, [1, 1]) == combine.weighted_sum(lopsided, [1, 1])
    assert combine.all_of(fair, [0, 0]) > combine.all_of(lopsided, [0, 0])


def test_the_centre_is_a_quantile_of_each_prompt():
    close(combine.centre([[0, 1, 2, 3, 4], [NAN, 10, 20, 30, NAN]], 0.5), [2, 20])
    close(combine.centre(np.arange(101)), 85)


# Worst cases and agreement --------------------------------------------------------------------------------------------------------------


def test_worst_of_and_max_min(scores):
    close(combine.worst_of(scores), scores.min(0))
    close(combine.max_min(scores, ["a", "b", "c"]), combine.worst_of(scores))
    close(combine.max_min(scores, ["a", "a", "a"]), scores.mean(0))
    close(combine.max_min([[1, 5], [3, 5], [4, 0]], ["old", "old", "young"]), [2, 0])
    assert (combine.worst_of(scores) <= combine.max_min(scores, [0, 0, 1])).all()
    close(combine.worst_of([[1, NAN], [2, 2]]), [1, NAN])
    close(combine.worst_of([[1, NAN], [2, 2]], "skip"), [1, 2])
    close(combine.max_min([[1, NAN], [3, 3], [9, NAN]], [0, 0, 1], "skip"), [2, 3])


def test_strength_by_hand():
    found = combine.strength([[2, 1, NAN], [3, 1, NAN], [4, 0, NAN]], [[1, 1, 0], [1, 0, 0], [1, 4, 0]])
    close(found.mean, [2, -1, NAN])
    close(found.std, [np.std([1, 2, 3]), np.std([0, 1, -4]), NAN])
    close(found.votes, [1, 0.5, 0.5])  # of the second pair one votes for, one against, one ties


def test_strength_turns_with_the_sides(scores):
    there, back = combine.strength(scores, scores[:, ::-1]), combine.strength(scores[:, ::-1], scores)
    close(there.mean, -back.mean)
    close(there.std, back.std)
    close(there.votes + back.votes, np.ones(40))
    unanimous = combine.strength(np.full((4, 2), 2.0), np.full((4, 2), 1.0))
    close([*unanimous.std, *unanimous.votes], [0, 0, 1, 1])


def test_mistakes_are_named(scores):
    lacking = scores.copy()
    lacking[1, 7] = NAN
    wrong = [
        (lambda: combine.normalise([1], "softmax"), "allowed are raw, x100, z, rank and a number"),
        (lambda: combine.normalise([1], -26), "must be above 0"),
        (lambda: combine.normalise([1], "z"), "needs a reference"),
        (lambda: combine.normalise([1], "rank", [1, 2]), "takes no reference"),
        (lambda: combine.normalise([1], "z", [2, 2]), "no spread"),
        (lambda: combine.weighted_sum(scores, [1, 2]), "3 rewards and 2 weights"),
        (lambda: combine.weighted_sum(scores, [1, 2, 3], ["raw"]), "3 rewards and 1 how"),
        (lambda: combine.weighted_sum(scores, [1, -1, 1], missing="skip"), "weights above 0"),
        (lambda: combine.weighted_sum(scores[0], [1]), r"\(rewards, samples\), got \(40,\)"),
        (lambda: combine.rank_sum(lacking, "error"), r"1 of 40 samples lack a score \(the first is sample 7\)"),
        (lambda: combine.rank_sum(scores, "zero"), "allowed are propagate, skip, error"),
        (lambda: combine.all_of(scores, [1, 2]), r"\(3,\) or \(3, 40\), got \(2,\)"),
        (lambda: combine.centre(scores, 1.0), "between 0 and 1"),
        (lambda: combine.max_min(scores, [1]), "3 rewards and 1 groups"),
        (lambda: combine.strength(scores, scores[:2]), "must agree"),
        (lambda: combine.ranks(scores), r"\(N,\), got \(3, 40\)"),
    ]
    for call, said in wrong:
        with pytest.raises(ValueError, match=said):
            call()
