"""Tests of a difference against numbers worked out by hand and against scipy; what a number of prompts can show."""

import numpy as np
import pytest
from scipy import stats

from diffalign.eval.stats.intervals import wilson
from diffalign.eval.stats.significance import holm, minimum_detectable, sign_test, wilcoxon


def test_wilson_is_the_published_formula():
    """8 of 10: (0.8 + 1.9207 / 10 -+ 1.96 sqrt(0.016 + 0.0096)) / 1.38415 = 0.4902, 0.9433 (Newcombe 1998 prints such tables)."""
    assert [float(end) for end in wilson(0.8, 10)] == pytest.approx([0.4902, 0.9433], abs=5e-5)
    for wins, count, confidence in ((0, 20, 0.95), (20, 20, 0.95), (250, 500, 0.95), (7, 31, 0.9)):
        expected = stats.binomtest(wins, count).proportion_ci(confidence, method="wilson")
        assert [float(end) for end in wilson(wins / count, count, confidence)] == pytest.approx([expected.low, expected.high], abs=1e-12)
    assert [float(end) for end in wilson(0.5, 500)] == pytest.approx([0.456, 0.544], abs=1e-3)  # the specification's 4.4 points


def test_sign_test_by_hand():
    """Of 10 prompts 8 won, 1 lost, 1 tied: 2 (C(9,0) + C(9,1)) / 2^9 = 20 / 512."""
    found = sign_test([1.0] * 8 + [0.0, 0.5], [0.0] * 8 + [1.0, 0.5])
    assert (found.wins, found.losses, found.ties) == (8, 1, 1) and found.p_value == pytest.approx(20 / 512)
    assert sign_test([1.0, 2.0], [1.0, 2.0]).p_value == 1.0
    assert sign_test([3.0] * 6, [1.0] * 6).p_value == pytest.approx(2 / 64)


def test_sign_test_counts_prompts_not_images():
    """Prompt x: two wins, one loss: won. y: one each: tied. z: lost once: lost."""
    found = sign_test([1, 1, 0, 1, 0, 0], [0, 0, 1, 0, 1, 1], groups=["x", "x", "x", "y", "y", "z"])
    assert (found.wins, found.losses, found.ties, found.p_value) == (1, 1, 1, 1.0)


def test_wilcoxon_by_hand_and_against_scipy():
    """Differences 1, 2, 3, -4: ranks 6 against 4; of the 16 sign patterns 14 have a smaller sum of at most 4, so p = 14 / 16."""
    found = wilcoxon([1.0, 2.0, 3.0, 0.0, 5.0], [0.0, 0.0, 0.0, 4.0, 5.0])
    assert (found.statistic, found.zeros) == (4.0, 1) and found.p_value == pytest.approx(14 / 16)
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.3, 1, 120), rng.normal(size=120)
    assert wilcoxon(a, b).p_value == pytest.approx(stats.wilcoxon(a, b).pvalue)
    assert wilcoxon([1.0, 1.0], [1.0, 1.0]) == type(found)(0.0, 2, 1.0)
    grouped = wilcoxon(np.repeat(a, 3), np.repeat(b, 3), groups=np.repeat(np.arange(120), 3))
    assert grouped.p_value == pytest.approx(wilcoxon(a, b).p_value)  # three equal images say what one says


def test_holm_by_hand():
    """0.01, 0.02, 0.03, 0.04: times 4, 3, 2, 1 is 0.04, 0.06, 0.06, 0.04, and what comes later is never smaller: the last is 0.06."""
    assert holm({"d": 0.04, "a": 0.01, "b": 0.02, "c": 0.03}) == pytest.approx({"d": 0.06, "a": 0.04, "b": 0.06, "c": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0} and holm({}) == {}
    with pytest.raises(ValueError, match="the p value of a is 1.2"):
        holm({"a": 1.2})


def test_holm_keeps_the_order_in_which_it_was_asked():
    assert list(holm({"b": 0.5, "a": 0.1})) == ["b", "a"]


def test_minimum_detectable():
    """500 prompts: 4.4 points at power one half, which is the interval's half width; more with power, less with ties and prompts."""
    assert minimum_detectable(500, power=0.5) == pytest.approx(1.959964 * 0.5 / 500**0.5)
    assert minimum_detectable(500, power=0.5) == pytest.approx(0.044, abs=5e-4)
    assert minimum_detectable(500) > minimum_detectable(2000) > minimum_detectable(2000, ties=0.5)
    assert minimum_detectable(100, images=4) == minimum_detectable(100)
    assert minimum_detectable(100, images=4, correlation=0.0) == minimum_detectable(400)
    assert minimum_detectable(2) is None
    with pytest.raises(ValueError, match="power is 1"):
        minimum_detectable(100, power=1)


@pytest.mark.parametrize("prompts", [100, 400])
def test_the_minimum_detectable_effect_is_found_as_often_as_it_says(prompts):
    """The share of experiments in which wins differ from one half by 1.96 standard errors, exactly, from the binomial."""
    gap = minimum_detectable(prompts, power=0.8)
    wins = np.arange(prompts + 1)
    rejected = abs(wins / prompts - 0.5) >= 1.959964 * 0.5 / prompts**0.5
    assert stats.binom.pmf(wins, prompts, 0.5 + gap)[rejected].sum() == pytest.approx(0.8, abs=0.03)


def test_an_increasing_transformation_changes_no_sign_test():
    rng = np.random.default_rng(1)
    a, b, groups = rng.normal(0.2, 1, 90), rng.normal(size=90), np.repeat(np.arange(30), 3)
    assert sign_test(np.exp(a), np.exp(b), groups) == sign_test(a, b, groups)
    other = sign_test(b, a, groups)
    assert (other.wins, other.losses, other.p_value) == (
        sign_test(a, b, groups).losses, sign_test(a, b, groups).wins, sign_test(a, b, groups).p_value,
    )  # fmt: skip
