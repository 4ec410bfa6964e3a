"""Win rates derived by hand, and intervals checked against what they promise (how often they hold the truth: test_compare_coverage.py)."""

import numpy as np
import pytest
from scipy.stats import binom, bootstrap

from diffalign.eval.stats.compare import compare, mean_ci


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
    percentile = compare([1, 1, 1, 0], [0, 0, 1, 1], groups=["x", "x", "x", "y"], interval="percentile")
    assert percentile.win_rate_ci == (0.0, pytest.approx(2.5 / 3))  # the bootstrap sees only y, both, or only x


def test_equal_models_and_a_clear_winner():
    """Three ties say little, 400 much: n = (1/2)^2 402^2 / (1/2) * 400 / 402 = 80400, so 1.96 / 2 / sqrt(80404) = 0.0035."""
    same = compare([0.3, 0.7, 0.1], [0.3, 0.7, 0.1])
    assert (same.win_rate, same.ties, same.median_difference_ci) == (0.5, 3, (0.0, 0.0)) and same.win_rate_ci[0] < 0.25
    many = compare(np.ones(400), np.ones(400))
    assert many.win_rate_ci == pytest.approx((0.5 - 0.003456, 0.5 + 0.003456), abs=1e-6)
    better = compare([2.0, 3.0], [1.0, 2.0])
    assert (better.win_rate, better.win_rate_ci[1], better.mean_difference_ci) == (1.0, 1.0, (1.0, 1.0)) and better.win_rate_ci[0] < 0.5


def test_swapping_the_models_mirrors_everything():
    rng = np.random.default_rng(0)
    a, b, groups = rng.integers(0, 4, 120), rng.integers(0, 5, 120), np.repeat(np.arange(40), 3)
    groups[:7] = 0  # prompts of different sizes
    for options in ({}, {"ties": "excluded"}, {"interval": "percentile"}, {"interval": "bca"}, {"weights": "prompts"}):
        one, other = compare(a, b, groups, **options), compare(b, a, groups, **options)
        assert one.win_rate + other.win_rate == pytest.approx(1.0, abs=1e-14)
        assert (one.wins, one.ties, one.losses) == (other.losses, other.ties, other.wins) and one.ties > 0
        assert other.win_rate_ci == pytest.approx((1 - one.win_rate_ci[1], 1 - one.win_rate_ci[0]), abs=1e-12)
        assert other.mean_difference_ci == pytest.approx((-one.mean_difference_ci[1], -one.mean_difference_ci[0]), abs=1e-12)
        assert other.median_difference_ci == (-one.median_difference_ci[1], -one.median_difference_ci[0])
        assert (other.mean_a, other.median_a, other.p10_a, other.std_a) == (one.mean_b, one.median_b, one.p10_b, one.std_b)


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


def test_one_image_a_prompt_and_no_ties_is_the_textbook_interval():
    """27 of 30, Agresti and Coull: n + z^2 = 33.8415, (27 + 1.92073) / 33.8415 = 0.854594 -+ 1.959964 sqrt(0.854594 0.145406 / 33.8415)."""
    result = compare([1.0] * 27 + [0.0] * 3, [0.5] * 30)
    assert result.effective_n == pytest.approx(30) and result.win_rate_ci == pytest.approx((0.735828, 0.973361), abs=1e-6)
    everything = compare([1.0] * 30, [0.5] * 30)
    assert everything.win_rate_ci == (pytest.approx(0.865288, abs=1e-6), 1.0)  # the bootstrap would say [1, 1]
    assert compare([1.0] * 30, [0.5] * 30, interval="percentile").win_rate_ci == (1.0, 1.0)


def test_the_effective_size_by_hand():
    """Two images a prompt: won twice, won once, lost twice. With a prompt won and one lost added, points 2 1 0 2 0 of 2: p = 1/2, and
    squares 1 0 1 1 1 add up to 4: n = (1/2)^2 10^2 / 4 * 3 / 5 = 3.75: between the 3 prompts and the 6 images."""
    result = compare([1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1], groups=["x", "x", "y", "y", "z", "z"])
    assert result.effective_n == pytest.approx(3.75) and result.win_rate == 0.5


def test_ties_are_half_or_excluded_or_losses():
    """Two wins, one tie, one loss: 2.5 / 4, 2 / 3, 2 / 4; what is excluded leaves the interval of the three decided prompts."""
    a, b = [1.0, 2.0, 3.0, 0.0], [0.0, 1.0, 3.0, 4.0]
    rates = {ties: compare(a, b, ties=ties) for ties in ("half", "excluded", "loss")}
    assert {name: result.win_rate for name, result in rates.items()} == {"half": 2.5 / 4, "excluded": 2 / 3, "loss": 2 / 4}
    assert all((result.wins, result.ties, result.losses) == (2, 1, 1) for result in rates.values())
    assert rates["excluded"].win_rate_ci == pytest.approx(compare([1, 2, 0], [0, 1, 4]).win_rate_ci)
    with pytest.raises(ValueError, match="all 2 pairings are ties"):
        compare([1, 2], [1, 2], ties="excluded")


def test_prompts_may_weigh_the_same():
    """Prompt x: a win, a win, a tie; y: a loss. By prompts (2.5 / 3 + 0) / 2, without the tie (1 + 0) / 2."""
    a, b, groups = [1, 1, 1, 0], [0, 0, 1, 1], ["x", "x", "x", "y"]
    result = compare(a, b, groups, weights="prompts")
    assert result.win_rate == pytest.approx(2.5 / 6) and result.mean_difference == pytest.approx((2 / 3 - 1) / 2)
    assert result.mean_a == pytest.approx(0.5) and result.mean_b == pytest.approx((1 / 3 + 1) / 2)
    assert compare(a, b, groups, weights="prompts", ties="excluded").win_rate == 0.5
    even, rng = np.repeat(np.arange(20), 3), np.random.default_rng(6)
    a, b = rng.normal(size=60), rng.normal(size=60)
    assert compare(a, b, even, weights="prompts").win_rate_ci == pytest.approx(compare(a, b, even).win_rate_ci)


def test_spread_by_hand():
    """Scores 0..10: median 5, p10 1, p90 9, std sqrt(11); differences are 1, but for one of 4."""
    a = np.arange(11.0)
    result = compare(a, a - np.where(a == 7, 4, 1))
    assert (result.median_a, result.p10_a, result.p90_a, result.std_a) == (5.0, 1.0, 9.0, pytest.approx(11**0.5))
    assert (result.median_difference, result.median_difference_ci) == (1.0, (1.0, 1.0))
    assert result.mean_difference == pytest.approx(14 / 11)


@pytest.mark.parametrize(("count", "k"), [(8, 2), (12, 3), (20, 6), (30, 10)])
def test_the_median_interval_is_that_of_the_sign_test(count, k):
    """k-th smallest to k-th largest, k the largest with 2 P(X < k) <= 0.07, X of ``count`` draws of one half: 0.070 0.039 0.041 0.043."""
    result = compare(np.arange(count) ** 2.0, np.zeros(count))
    assert result.median_difference_ci == ((k - 1) ** 2, (count - k) ** 2)
    assert 2 * binom.cdf(k - 1, count, 0.5) <= 0.0704 < 2 * binom.cdf(k, count, 0.5)


def test_increasing_transformations_leave_the_win_rate_as_it_is():
    rng = np.random.default_rng(7)
    a, b, groups = rng.integers(0, 6, 90), rng.integers(0, 6, 90), np.repeat(np.arange(30), 3)
    for ties in ("half", "excluded", "loss"):
        plain, grown = compare(a, b, groups, ties=ties), compare(np.exp(a), np.exp(b), groups, ties=ties)
        assert (plain.win_rate, plain.win_rate_ci, plain.ties) == (grown.win_rate, grown.win_rate_ci, grown.ties)


def test_bca_shifts_a_skewed_interval_and_agrees_with_scipy():
    """As scipy.stats.bootstrap's BCa, whose draws are others: within the noise of 10,000 resamples."""
    values = np.random.default_rng(8).lognormal(size=40)
    ours = compare(values, np.zeros(40), interval="bca").mean_difference_ci
    theirs = bootstrap((values,), np.mean, method="BCa", n_resamples=10_000, rng=np.random.default_rng(0)).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), rel=0.02)
    percentile = compare(values, np.zeros(40)).mean_difference_ci
    assert ours[0] > percentile[0] and ours[1] > percentile[1] + 0.02


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ties": "win"}, "ties is 'win'; allowed are half, excluded, loss"),
        ({"interval": "wald"}, "interval is 'wald'; allowed are agresti-coull, percentile, bca"),
        ({"weights": "none"}, "weights is 'none'; allowed are images, prompts"),
        ({"confidence": 1.0}, "confidence is 1.0"),
        ({"resamples": 0}, "resamples is 0"),
    ],
)
def test_refuses_options_it_does_not_know(options, message):
    with pytest.raises(ValueError, match=message):
        compare([1.0, 2.0], [0.0, 3.0], **options)
