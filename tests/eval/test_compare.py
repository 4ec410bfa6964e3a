"""Win rates derived by hand, and intervals checked against what they promise."""

import numpy as np
import pytest

from diffalign.eval.compare import compare, mean_ci


def width(interval) -> float:
    return interval[1] - interval[0]


def test_win_rate_by_hand():
    """A wins prompts 1 and 4, ties 2, loses 3: (1 + 1/2 + 0 + 1) / 4 = 0.625; differences 1, 0, -2, 3 have the mean 0.5."""
    result = compare([1.0, 2.0, 3.0, 4.0], [0.0, 2.0, 5.0, 1.0])
    assert (result.wins, result.ties, result.losses, result.n_prompts) == (2, 1, 1, 4)
    assert result.win_rate == 0.625
    assert (result.mean_a, result.mean_b, result.mean_difference) == (2.5, 2.0, 0.5)
    assert result.win_rate_ci[0] < 0.625 < result.win_rate_ci[1]


def test_images_weigh_the_same_whatever_their_prompt():
    """Prompt x has three images (win, win, tie), prompt y one (loss): 2.5 / 4, not the mean of prompts (2.5 / 3 + 0) / 2."""
    result = compare([1, 1, 1, 0], [0, 0, 1, 1], groups=["x", "x", "x", "y"])
    assert result.win_rate == 0.625 and result.n_prompts == 2
    assert result.win_rate_ci == (0.0, pytest.approx(2.5 / 3))  # the bootstrap sees only y, both, or only x


def test_equal_models_and_a_clear_winner():
    same = compare([0.3, 0.7, 0.1], [0.3, 0.7, 0.1])
    assert (same.win_rate, same.win_rate_ci, same.ties) == (0.5, (0.5, 0.5), 3)
    better = compare([2.0, 3.0], [1.0, 2.0])
    assert (better.win_rate, better.win_rate_ci, better.mean_difference_ci) == (1.0, (1.0, 1.0), (1.0, 1.0))


def test_swapping_the_models_mirrors_everything():
    rng = np.random.default_rng(0)
    a, b, groups = rng.integers(0, 4, 120), rng.integers(0, 5, 120), np.repeat(np.arange(40), 3)
    one, other = compare(a, b, groups), compare(b, a, groups)
    assert one.win_rate + other.win_rate == pytest.approx(1.0)
    assert (one.wins, one.ties, one.losses) == (other.losses, other.ties, other.wins) and one.ties > 0
    assert other.win_rate_ci == pytest.approx((1 - one.win_rate_ci[1], 1 - one.win_rate_ci[0]))
    assert other.mean_difference_ci == pytest.approx((-one.mean_difference_ci[1], -one.mean_difference_ci[0]))


def test_the_same_seed_gives_the_same_interval():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=50), rng.normal(size=50)
    assert compare(a, b) == compare(a, b)
    assert compare(a, b, seed=1).mean_difference_ci != compare(a, b, seed=0).mean_difference_ci


def test_images_of_one_prompt_do_not_count_as_independent():
    """Eight images of a prompt that all agree carry what one carries: the interval is about sqrt(8) = 2.8 times wider."""
    rng = np.random.default_rng(2)
    a, groups = np.repeat(rng.normal(0.2, 1, 60), 8), np.repeat(np.arange(60), 8)
    b = np.zeros_like(a)
    naive, clustered = compare(a, b), compare(a, b, groups)
    assert clustered.win_rate == naive.win_rate
    assert 2.3 < width(clustered.win_rate_ci) / width(naive.win_rate_ci) < 3.4
    assert width(clustered.win_rate_ci) == pytest.approx(width(compare(a[::8], b[::8]).win_rate_ci))


def test_the_interval_narrows_with_the_prompts_and_widens_with_the_confidence():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=800), rng.normal(size=800)
    assert width(compare(a, b).win_rate_ci) == pytest.approx(2 * 1.96 * 0.5 / 800**0.5, rel=0.1)  # the binomial at one half
    assert width(compare(a, b, confidence=0.99).win_rate_ci) > 1.2 * width(compare(a, b).win_rate_ci)


@pytest.mark.parametrize(("prompts", "images", "shift", "spread"), [(100, 1, 0.0, 0.0), (100, 1, 0.6, 0.0), (60, 4, 0.3, 1.0)])
def test_the_interval_covers_the_truth(prompts, images, shift, spread):
    """Of 250 experiments at least 90 % hold the truth in their 95 % interval (and not all of them: it is no wider than it must be).

    The difference of an image is shift + spread * (its prompt's taste) + noise, all normal, rounded to 0 below 0.2, so ties happen.
    """
    rng = np.random.default_rng(4)

    def differences(prompts):
        values = shift + spread * rng.normal(size=(prompts, 1)) + rng.normal(size=(prompts, images))
        return np.where(abs(values) < 0.2, 0, values).ravel()

    truth = float((0.5 + 0.5 * np.sign(differences(400_000 // images))).mean())
    groups, covered = np.repeat(np.arange(prompts), images), 0
    for seed in range(250):
        values = differences(prompts)
        low, high = compare(values, np.zeros_like(values), groups, resamples=600, seed=seed).win_rate_ci
        covered += low <= truth <= high
    assert 0.90 <= covered / 250 <= 0.99


def test_mean_ci_agrees_with_the_normal_interval():
    values = np.random.default_rng(5).normal(3.0, 2.0, 400)
    low, high = mean_ci(values)
    error = values.std() / 400**0.5
    assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.15 * error)


def test_results_go_to_json_and_to_a_line():
    result = compare([1.0, 2.0, 3.0, 4.0], [0.0, 2.0, 5.0, 1.0])
    assert result.to_json()["win_rate"] == 0.625 and result.to_json()["n_prompts"] == 4
    assert str(result).startswith("win rate 0.625 [") and str(result).endswith("over 4 prompts (2/1/1)")


@pytest.mark.parametrize(
    ("a", "b", "groups", "message"),
    [
        ([1.0, 2.0], [1.0], None, "equally long"),
        ([], [], None, "non-empty"),
        ([1.0, 2.0], [1.0, 2.0], [0], "as many groups"),
        ([[1.0]], [[1.0]], None, "equally long"),
        ([1.0, float("nan"), 3.0], [float("inf"), 1.0, 2.0], None, "2 of 3 scores are not finite"),
    ],
)
def test_refuses_scores_that_cannot_be_compared(a, b, groups, message):
    with pytest.raises(ValueError, match=message):
        compare(a, b, groups)
