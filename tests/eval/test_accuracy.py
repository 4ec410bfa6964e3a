"""Three published accuracies of a reward, by hand: they differ where somebody ties."""

import math

import pytest

from diffalign.eval.stats import accuracy


def test_pickscore_by_hand():
    """|p_1 - p_0| = tanh(|gap| / 2): gaps 2, 0.1, -2, 0.1, 0 give 0.76, 0.05, 0.76, 0.05, 0. With the threshold 0.1 the reward says
    0, tie, 1, tie, tie; people say 0, 0, 0, tie, 1: 1 + 1/2 + 0 + 1 + 1/2 = 3 of 5."""
    found = accuracy.pickscore([2, 0.1, -2, 0.1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 0.5, 0], threshold=0.1)
    assert found.accuracy == 3 / 5 and (found.count, found.ties_people, found.ties_reward) == (5, 1, 3)
    assert found.interval[0] < 3 / 5 < found.interval[1] and found.variant == "pickscore" and found.threshold == 0.1
    never = accuracy.pickscore([2, 0.1, -2, 0.1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 0.5, 0], threshold=0)
    assert never.accuracy == pytest.approx((1 + 1 + 0 + 0.5 + 0.5) / 5)


def test_the_pickscore_threshold_is_the_softmax_of_the_scores():
    gap = 2 * math.atanh(0.3)
    for threshold, said in ((0.29, 0), (0.31, 1)):
        assert accuracy.pickscore([gap], [0.0], [1], threshold=threshold).ties_reward == said


def test_pickscore_chooses_the_smallest_of_the_best_thresholds():
    """Small gaps are people's ties, large ones their winners: everything from 0.1 to 0.7 is right, 0 and 0.8 on are not."""
    scores, labels = [0.05, -0.05, 2.0, -2.0], [0.5, 0.5, 1, 0]
    assert accuracy.pickscore_threshold(scores, [0.0] * 4, labels) == 0.1
    assert accuracy.pickscore(scores, [0.0] * 4, labels, threshold=0.1).accuracy == 1.0


def test_hpsv2_and_imagereward_by_hand():
    """Ranks 1 2 3 with scores 3 1 2: of three pairs one is discordant. Ranks 1 1 2 with scores 2 1 1: people tie the first pair, the reward
    the third. HPSv2: (2/3 + 1) / 2. ImageReward: 2 of 3, and 1 of the 2 decided: 3 of 5."""
    scores, ranks = [[3, 1, 2], [2, 1, 1]], [[1, 2, 3], [1, 1, 2]]
    hps = accuracy.hpsv2(scores, ranks)
    assert hps.accuracy == pytest.approx((2 / 3 + 1) / 2) and (hps.count, hps.unit) == (2, "rankings")
    assert (hps.ties_people, hps.ties_reward) == (1, 1)
    image = accuracy.imagereward(scores, ranks)
    assert image.accuracy == pytest.approx(3 / 5) and (image.count, image.unit) == (5, "pairs")


def test_a_reward_that_says_nothing():
    """HPSv2's score is full, ImageReward's nothing, PickScore's one half: why the variant must be named."""
    scores, ranks = [[1, 1, 1]] * 30, [[1, 2, 3]] * 30
    assert accuracy.hpsv2(scores, ranks).accuracy == 1.0
    assert accuracy.imagereward(scores, ranks).accuracy == 0.0
    assert accuracy.pickscore([1.0] * 30, [1.0] * 30, [1] * 30, threshold=0).accuracy == 0.5


def test_increasing_transformations_and_turned_rewards():
    """Neither reading of rankings sees more than the order; of a reward without ties, turned round, ImageReward's accuracy is 1 minus."""
    scores, ranks = [[0.3, 0.1, 0.2], [0.5, 0.9, 0.4]], [[1, 2, 3], [2, 1, 3]]
    turned, grown = ([[change(s) for s in row] for row in scores] for change in (lambda s: -s, math.exp))
    for variant in (accuracy.hpsv2, accuracy.imagereward):
        assert variant(grown, ranks) == variant(scores, ranks)
        assert variant(turned, ranks).accuracy == pytest.approx(1 - variant(scores, ranks).accuracy)


def test_prompts_are_the_units_of_the_interval():
    one = accuracy.pickscore([1, -1] * 20, [0] * 40, [1] * 40, threshold=0)
    many = accuracy.pickscore([1] * 4 * 20 + [-1] * 4 * 20, [0] * 160, [1] * 160, threshold=0, groups=[i // 4 for i in range(160)])
    assert many.n_prompts == one.n_prompts == 40 and many.interval == pytest.approx(one.interval)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: accuracy.pickscore([1], [0], [0.7], threshold=0), "label_0 holds 0.7"),
        (lambda: accuracy.pickscore([1], [0], [1], threshold=2), "threshold is 2"),
        (lambda: accuracy.pickscore([float("nan")], [0], [1], threshold=0), "not finite"),
        (lambda: accuracy.pickscore([1], [0, 1], [1], threshold=0), "equally long"),
        (lambda: accuracy.hpsv2([[1]], [[1]]), "ranking 0 needs at least two images"),
        (lambda: accuracy.hpsv2([], []), "got 0 and 0"),
        (lambda: accuracy.imagereward([[1, 2]], [[1, 1]]), "people tie every pair"),
        (lambda: accuracy.imagereward([[1, 2]], [[1, 2]], groups=["x", "y"]), "groups names 2 prompts for 1"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
