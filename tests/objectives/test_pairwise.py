"""The pair objective: hand-derived numbers, metrics and directions. What holds for every row is in test_every_row.py."""

import math

import pytest
import torch

from diffalign import objectives
from diffalign.objectives import Comparison, Evidence, Logistic, LogRatio, PairObjective, PolicyEvidence

ROWS = [("dpo", {}), ("cdpo", {"label_smoothing": 0.1}), ("ipo", {}), ("hinge", {})]


def random_batch(count: int, seed: int = 0, dtype=torch.float64) -> tuple[Evidence, Comparison]:
    g = torch.Generator().manual_seed(seed)
    policy, reference = 3 * torch.randn(2, 2 * count, generator=g, dtype=dtype)
    labels = torch.rand(4, count, generator=g, dtype=dtype)
    return Evidence(policy, reference), Comparison.halves(count, probability=labels[0], weight=labels[1], scale=labels[2], margin=labels[3])


# Errors of spec diffusion-methods, section 0.2: Delta = -4e-4. beta 5000 on -1/2 error and 2500 on -error are one setting: z = 1.
POLICY, REFERENCE = torch.tensor([0.1000, 0.1210], dtype=torch.float64), torch.tensor([0.1002, 0.1208], dtype=torch.float64)


@pytest.mark.parametrize("half, beta", [(0.5, 5000.0), (1.0, 2500.0)])
@pytest.mark.parametrize("name, expected", [("dpo", 0.313262), ("hinge", 0.0)])
def test_diffusion_unit_vectors(name, expected, half, beta):
    terms = objectives.get(name, beta=beta)(Evidence(-half * POLICY, -half * REFERENCE), Comparison.halves(1))
    assert terms.metrics["rewards/margins"][0].item() == pytest.approx(1.0, abs=1e-9)
    assert terms.loss.item() == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize("half, beta, expected", [(1.0, 2500.0, 4.0e-8), (0.5, 5000.0, 1.0e-8)])  # h halves, so the square is a quarter
def test_diffusion_unit_vector_of_ipo(half, beta, expected):
    loss = objectives.get("ipo", beta=beta)(Evidence(-half * POLICY, -half * REFERENCE), Comparison.halves(1)).loss
    assert loss.item() == pytest.approx(expected, rel=1e-9)


def test_margin_scale_weight_and_probability_by_hand():
    # r = policy - reference = (2, 1); beta r = (1, 0.5); z = 3 * 0.5 - 0.25 = 1.25
    evidence = Evidence(torch.tensor([3.0, 2.0], dtype=torch.float64), torch.ones(2, dtype=torch.float64))
    comparison = Comparison.halves(1, probability=0.75, weight=2.0, scale=3.0, margin=0.25)
    terms = objectives.get("dpo", beta=0.5)(evidence, comparison)
    expected = 0.75 * math.log1p(math.exp(-1.25)) + 0.25 * math.log1p(math.exp(1.25))
    assert terms.loss.item() == pytest.approx(expected, abs=1e-12)
    assert objectives.reduce(terms, 4).item() == pytest.approx(2 * expected / 4, abs=1e-12)
    metrics = objectives.means(terms.metrics)
    assert metrics["rewards/chosen"] == 1.0 and metrics["rewards/rejected"] == 0.5 and metrics["rewards/margins"] == 0.5
    assert metrics["grad_factor"] == pytest.approx(abs(1 / (1 + math.exp(-1.25)) - 0.75), abs=1e-12)


@pytest.mark.parametrize("name, options, expected", [
    ("dpo", {}, math.log(2)), ("cdpo", {"label_smoothing": 0.2}, math.log(2)), ("ipo", {}, 25.0), ("hinge", {}, 1.0),
])
def test_value_while_policy_equals_reference(name, options, expected):
    evidence, _ = random_batch(3)
    objective = objectives.get(name, beta=0.1, **options)
    loss = objective(Evidence(evidence.policy, evidence.policy), Comparison.halves(3)).loss
    torch.testing.assert_close(loss, torch.full_like(loss, expected), rtol=1e-12, atol=0)
    comparison = Comparison.halves(3, probability=0.8, scale=2.0, margin=0.3)
    loss = objective(Evidence(evidence.policy, evidence.policy), comparison).loss
    torch.testing.assert_close(loss, objective.loss_at_start(comparison.beside(loss)), rtol=1e-12, atol=0)


def test_a_reference_free_objective_has_no_start_value():
    with pytest.raises(ValueError, match="PolicyEvidence has no reference"):
        PairObjective(PolicyEvidence(), Logistic(), 1.0).loss_at_start(Comparison.halves(1))


def test_ties_count_one_half():
    evidence = Evidence(torch.tensor([1.0, 0.0, 2.0, 0.0, 0.0, 5.0]), torch.zeros(6))
    value, count = objectives.get("dpo", beta=1.0)(evidence, Comparison.halves(3)).metrics["rewards/accuracies"]
    assert (value.item(), count) == (1.5, 3)  # won, tied, lost


@pytest.mark.parametrize("name, saturated", [("dpo", [False, False, True]), ("hinge", [False, True, True]), ("ipo", [False, False, False])])
def test_saturation_is_a_slope_below_five_percent_of_the_start(name, saturated):
    # logistic: sigma(-z) < 0.025 from z = 3.664 on;  hinge: flat from z = 1 on;  squared: within 0.025 of z = 1/2
    evidence = Evidence(torch.tensor([0.0, 3.6, 3.7, 0.0, 0.0, 0.0]), torch.zeros(6))
    value, count = objectives.get(name, beta=1.0)(evidence, Comparison.halves(3)).metrics["saturation"]
    assert (value.item(), count) == (sum(saturated), 3)
    near = Evidence(torch.tensor([0.51, 0.0]), torch.zeros(2))
    assert objectives.get("ipo", beta=1.0)(near, Comparison.halves(1)).metrics["saturation"][0].item() == 1.0


@pytest.mark.parametrize("name, options", ROWS)
def test_gradient_is_slope_times_beta_and_pushes_the_pair_apart(name, options):
    policy = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)
    terms = objectives.get(name, beta=0.7, **options)(Evidence(policy, torch.zeros(2, dtype=torch.float64)), Comparison.halves(1))
    objectives.reduce(terms, 1).backward()
    chosen, rejected = policy.grad.tolist()
    assert chosen < 0 < rejected and chosen == -rejected  # descent raises the chosen evidence, lowers the rejected
    assert rejected == pytest.approx(0.7 * terms.metrics["grad_factor"][0].item(), rel=1e-12)


@pytest.mark.parametrize("name, options", ROWS)
def test_swapping_pair_and_label_changes_no_loss(name, options):
    evidence, comparison = random_batch(6)
    swapped = Comparison(comparison.pairs.flip(1), 1 - comparison.probability, comparison.weight, comparison.scale, -comparison.margin)
    objective = objectives.get(name, beta=0.5, **options)
    torch.testing.assert_close(objective(evidence, comparison).loss, objective(evidence, swapped).loss, rtol=1e-13, atol=1e-13)


def test_calling_changes_nothing_it_was_given():
    evidence, comparison = random_batch(3)
    policy, pairs = evidence.policy.clone(), comparison.pairs.clone()
    objective = objectives.get("dpo", beta=1.0)
    first, second = objective(evidence, comparison).loss, objective(evidence, comparison).loss
    assert torch.equal(first, second) and torch.equal(policy, evidence.policy) and torch.equal(pairs, comparison.pairs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_labels_on_the_cpu_serve_evidence_on_the_gpu():
    evidence, comparison = random_batch(5)
    objective = objectives.get("dpo", beta=0.5)
    on_gpu = objective(Evidence(evidence.policy.cuda(), evidence.reference.cuda()), comparison)
    torch.testing.assert_close(on_gpu.loss.cpu(), objective(evidence, comparison).loss, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make, words", [
    (lambda: PairObjective(LogRatio(), Logistic(), 0.0), "beta must be positive and finite; got 0.0"),
    (lambda: PairObjective(LogRatio(), Logistic(), math.nan), "beta must be positive and finite; got nan"),
    (lambda: objectives.get("dpo", beta=1.0)(Evidence(torch.zeros(2), torch.zeros(2)), Comparison.halves(2)), "reaches row 3.*has 2 rows"),
    (lambda: objectives.get("dpo", beta=1.0)(Evidence(torch.zeros(2)), Comparison.halves(1)), "reference=None"),
    (lambda: objectives.reduce(objectives.get("dpo", beta=1.0)(random_batch(2)[0], random_batch(2)[1]), 0), "at least 1; got 0"),
])
def test_refusals_name_the_value(make, words):
    with pytest.raises(ValueError, match=words):
        make()
