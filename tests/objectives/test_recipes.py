"""From judges' numbers to labels, by hand and by their laws."""

import math

import pytest
import torch

from diffalign import objectives
from diffalign.objectives import Evidence, Rankings, recipes
from tests.objectives.batches import F64


def test_win_rates_count_oneself_one_half():
    table = torch.tensor([[9.0, 0.8, 0.6], [0.2, 9.0, 0.3], [0.4, 0.7, 9.0]])
    assert recipes.win_rates(table).tolist() == pytest.approx([1.9 / 3, 1.0 / 3, 1.6 / 3])
    with pytest.raises(ValueError, match=r"p_ij \+ p_ji = 1"):
        recipes.win_rates(torch.full((2, 2), 0.8))
    with pytest.raises(ValueError, match=r"\(K, K\).*\(2, 3\)"):
        recipes.win_rates(torch.zeros(2, 3))


def test_a_cycle_of_preferences_has_skew_scores():
    """Three points on a circle, each beating the next: no scalar reward says that."""
    angle = torch.tensor([0.0, 2 * math.pi / 3, 4 * math.pi / 3], dtype=F64)
    s = recipes.skew_scores(torch.stack([angle.cos(), angle.sin()], dim=1))
    assert s[1, 0] > 0.5 and s[2, 1] > 0.5 and s[0, 2] > 0.5 and s.mean(1).abs().max() < 1e-15
    with pytest.raises(ValueError, match="even dimension"):
        recipes.skew_scores(torch.zeros(2, 3))


def test_skew_scores_feed_their_row():
    v = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    rankings = Rankings(torch.zeros(3).long(), recipes.skew_scores(v).mean(1))
    zero = torch.zeros(3, dtype=F64)
    loss = objectives.get("general-preference", beta=0.5)(Evidence(zero, zero), rankings).loss.item()
    s = rankings.relevance
    assert loss == pytest.approx(((s.max() / 0.5) ** 2 + (s.min() / 0.5) ** 2).item() / 2, rel=1e-12)


def test_soft_value_is_between_the_mean_and_the_best():
    scores = torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=F64)
    assert recipes.soft_value(scores, 0.5).item() == pytest.approx(0.5 * math.log((2 + 2 * math.exp(2)) / 4), rel=1e-12)
    assert recipes.soft_value(scores, 1e6).item() == pytest.approx(0.5, abs=1e-6)
    assert recipes.soft_value(scores, 1e-4).item() == pytest.approx(1.0, abs=1e-4)


def test_the_advantage_over_the_soft_value_is_a2pos_optimum():
    """At beta log pi/ref = R - V* of all responses pi sums to one and a2po's loss is 0."""
    ref, R, beta = torch.full((4,), 0.25, dtype=F64), torch.tensor([0.0, 1.0, 0.3, 0.7], dtype=F64), 0.5
    advantage = R - recipes.soft_value(R, beta)
    pi = ref * torch.exp(advantage / beta)
    assert pi.sum().item() == pytest.approx(1.0, rel=1e-12)
    terms = objectives.get("a2po", beta=beta)(Evidence(pi.log(), ref.log()), objectives.Scores(advantage))
    assert terms.loss.abs().max() < 1e-25


def test_rejection_sampling_at_its_limits():
    scores, generator = torch.tensor([0.3, 2.0, 1.0, -1.0]), torch.Generator().manual_seed(0)
    assert recipes.rejection_sample(scores, 4, 1e9, generator).tolist() == [0, 1, 2, 3]  # all accepted in the first pass
    assert recipes.rejection_sample(scores, 1, 1e-4, generator).tolist() == [1]
    assert recipes.rejection_sample(scores, 3, 1e-4, generator).tolist() == [1, 2, 0]
    for call, words in ((lambda: recipes.rejection_sample(scores, 5, 1.0), "from 1 to the 4.*got 5"),
                        (lambda: recipes.rejection_sample(scores, 1, 0.0), "beta must be positive")):
        with pytest.raises(ValueError, match=words):
            call()


def test_rejection_sampling_keeps_to_the_tilted_law():
    """Three responses with probabilities under the base policy, a large pool of them: kept in proportion to pi exp(r/beta)."""
    generator, reward, base = torch.Generator().manual_seed(1), torch.tensor([0.0, 0.5, 1.0]), torch.tensor([0.5, 0.3, 0.2])
    pool = torch.multinomial(base, 40000, replacement=True, generator=generator)
    kept = pool[recipes.rejection_sample(reward[pool], 8000, 0.5, generator)]  # fewer than the first pass accepts
    law = base * torch.exp(reward / 0.5)
    assert (kept.bincount(minlength=3) / 8000 - law / law.sum()).abs().max() < 0.02


def test_curriculum_goes_from_wide_to_narrow():
    assert recipes.curriculum(torch.tensor([0.1, 0.9, 0.5, -2.0])).tolist() == [[1, 3], [1, 0], [1, 2]]


def test_transformed_rewards_stop_growing():
    x = recipes.transformed(torch.tensor([-50.0, 0.0, 50.0], dtype=F64), 0.0)
    assert x.tolist() == pytest.approx([-50.0, -math.log(2), 0.0], abs=1e-12)


def test_self_labels_are_detached_probabilities():
    first, second = torch.tensor([1.0, 0.0], requires_grad=True), torch.tensor([0.0, 0.0])
    labels = recipes.self_labels(first, second, 2.0)
    assert labels.tolist() == pytest.approx([1 / (1 + math.exp(-2)), 0.5]) and not labels.requires_grad
