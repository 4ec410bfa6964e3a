"""The pair objective: golden and hand-derived numbers, start values, metrics, and what must not change them."""

import json
import math
from pathlib import Path

import pytest
import torch

from diffalign import objectives
from diffalign.objectives import Comparison, Evidence, LengthMean, Logistic, LogRatio, PairObjective, PolicyEvidence, Squared

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/objectives.json").read_text())
ROWS = [("dpo", {}), ("cdpo", {"label_smoothing": 0.1}), ("ipo", {}), ("hinge", {})]


def golden_evidence() -> Evidence:
    g = GOLDEN["inputs"]
    def pair(chosen, rejected):
        return torch.tensor([g[chosen], g[rejected]], dtype=torch.float64)
    return Evidence(pair("logp_w", "logp_l"), pair("ref_w", "ref_l"), pair("len_w", "len_l"))


def random_batch(count: int, seed: int = 0, dtype=torch.float64) -> tuple[Evidence, Comparison]:
    g = torch.Generator().manual_seed(seed)
    policy, reference = 3 * torch.randn(2, 2 * count, generator=g, dtype=dtype)
    labels = torch.rand(4, count, generator=g, dtype=dtype)
    return Evidence(policy, reference), Comparison.halves(count, probability=labels[0], weight=labels[1], scale=labels[2], margin=labels[3])


@pytest.mark.parametrize("golden, objective", [
    ("dpo", objectives.get("dpo", beta=0.1)),
    ("cdpo_eps.1", objectives.get("cdpo", beta=0.1)),
    ("ipo_sum", objectives.get("ipo", beta=0.1)),
    ("hinge", objectives.get("hinge", beta=0.1)),
    ("ipo_token_mean", PairObjective(LengthMean(), Squared(0.1), 0.1)),
    ("sigmoid_norm_beta5", PairObjective(LengthMean(), Logistic(), 5.0)),
    ("cpo_sigmoid", PairObjective(PolicyEvidence(), Logistic(), 0.1)),
])
def test_golden(golden, objective):
    terms = objective(golden_evidence(), Comparison.halves(1))
    assert terms.loss.item() == pytest.approx(GOLDEN[golden], abs=1e-9) and terms.unit == "pair"


def test_simpo_takes_its_published_gamma_as_the_margin():
    objective = PairObjective(LengthMean(PolicyEvidence()), Logistic(), beta=2.5)
    loss = objective(golden_evidence(), Comparison.halves(1, margin=1.375)).loss
    assert loss.item() == pytest.approx(GOLDEN["simpo_b2.5_g1.375"], abs=1e-9)


def test_sem_dpo_is_a_weight_outside_the_link():
    weight = torch.tensor([math.exp(-0.3)], dtype=torch.float64)
    terms = objectives.get("dpo", beta=0.1)(golden_evidence(), Comparison.halves(1, weight=weight))
    assert objectives.reduce(terms, 1).item() == pytest.approx(GOLDEN["sem_dpo_a1_d.3"], abs=1e-9)


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
def test_gradcheck_through_the_whole_objective(name, options):
    evidence, comparison = random_batch(4)
    objective = objectives.get(name, beta=0.37, **options)
    policy = evidence.policy.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: objectives.reduce(objective(Evidence(x, evidence.reference), comparison), 4), policy)


@pytest.mark.parametrize("name, options", ROWS)
def test_swapping_pair_and_label_changes_no_loss(name, options):
    evidence, comparison = random_batch(6)
    swapped = Comparison(comparison.pairs.flip(1), 1 - comparison.probability, comparison.weight, comparison.scale, -comparison.margin)
    objective = objectives.get(name, beta=0.5, **options)
    torch.testing.assert_close(objective(evidence, comparison).loss, objective(evidence, swapped).loss, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name, options", ROWS)
def test_half_precision_far_out_is_finite(name, options, dtype):
    policy = torch.tensor([1e4, -1e4, -1e4, 1e4], dtype=dtype, requires_grad=True)  # z = 1e4 and -1e4 at beta 1/2
    evidence, comparison = Evidence(policy, torch.zeros(4, dtype=dtype)), Comparison(torch.tensor([[0, 1], [2, 3]]))
    terms = objectives.get(name, beta=0.5, **options)(evidence, comparison)
    objectives.reduce(terms, 2).backward()
    assert terms.loss.dtype == torch.float32 and torch.isfinite(terms.loss).all() and torch.isfinite(policy.grad).all()
    assert terms.loss[0] < terms.loss[1]


def test_no_gradient_on_the_reference_nor_in_the_metrics():
    policy, reference = torch.randn(4, requires_grad=True), torch.randn(4, requires_grad=True)
    terms = objectives.get("dpo", beta=1.0)(Evidence(policy, reference), Comparison.halves(2))
    objectives.reduce(terms, 2).backward()
    assert policy.grad.abs().min() > 0 and reference.grad is None
    assert not any(value.requires_grad for value, _ in terms.metrics.values())


@pytest.mark.parametrize("name, options", ROWS)
def test_the_order_of_samples_and_pairs_does_not_matter(name, options):
    evidence, comparison = random_batch(8)
    g = torch.Generator().manual_seed(1)
    samples, pairs = torch.randperm(16, generator=g), torch.randperm(8, generator=g)
    new_row = torch.empty_like(samples)
    new_row[samples] = torch.arange(16)
    shuffled = Comparison(new_row[comparison.pairs][pairs], comparison.probability[pairs], comparison.weight[pairs],
                          comparison.scale[pairs], comparison.margin[pairs])
    objective = objectives.get(name, beta=0.5, **options)
    before = objective(evidence, comparison)
    after = objective(Evidence(evidence.policy[samples], evidence.reference[samples]), shuffled)
    assert torch.equal(before.loss[pairs], after.loss)
    for key, (value, count) in before.metrics.items():
        assert after.metrics[key][0].item() == pytest.approx(value.item(), abs=1e-12) and after.metrics[key][1] == count


@pytest.mark.parametrize("name, options", ROWS)
def test_t38_uneven_micro_batches_add_up_to_the_whole(name, options):
    evidence, comparison = random_batch(12)
    objective = objectives.get(name, beta=0.5, **options)
    policy = evidence.policy.clone().requires_grad_()
    whole = objective(Evidence(policy, evidence.reference), comparison)
    loss = objectives.reduce(whole, 12)
    gradient = torch.autograd.grad(loss, policy)[0]

    policy = evidence.policy.clone().requires_grad_()
    total, metrics = 0.0, []
    for part in torch.arange(12).split([3, 4, 5]):
        micro = Comparison(comparison.pairs[part], comparison.probability[part], comparison.weight[part],
                           comparison.scale[part], comparison.margin[part])
        terms = objective(Evidence(policy, evidence.reference), micro)
        contribution = objectives.reduce(terms, 12)
        contribution.backward()
        total += contribution.item()
        metrics.append(terms.metrics)
    assert total == pytest.approx(loss.item(), rel=1e-13)
    torch.testing.assert_close(policy.grad, gradient, rtol=1e-13, atol=1e-15)
    merged, at_once = objectives.means(objectives.merge(metrics)), objectives.means(whole.metrics)
    assert merged == pytest.approx(at_once, rel=1e-12) and merged.keys() == at_once.keys()


def test_an_empty_micro_batch_contributes_nothing():
    terms = objectives.get("dpo", beta=1.0)(Evidence(torch.zeros(0), torch.zeros(0)), Comparison.halves(0))
    assert objectives.reduce(terms, 8).item() == 0.0 and objectives.means(terms.metrics) == {}


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
