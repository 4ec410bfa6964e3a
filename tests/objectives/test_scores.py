"""Reward maps that bend the evidence or ask for a side, terms' own refusals, and samples with a number of their own."""

import math

import pytest
import torch

from diffalign import objectives
from diffalign.objectives import (
    Comparison,
    Evidence,
    JensenShannon,
    LengthMean,
    Likelihood,
    Logistic,
    LogRatio,
    Named,
    Odds,
    Penalised,
    Plus,
    Points,
    Power,
    PromptNearness,
    ScaledReference,
    Scores,
)
from tests.objectives.batches import F64


def ratio(*values) -> Evidence:
    policy = torch.tensor(values, dtype=F64, requires_grad=True)
    return Evidence(policy, torch.zeros(len(values), dtype=F64), torch.ones(len(values), dtype=F64))


@pytest.mark.parametrize("power", [-1.0, -0.25, 0.5])
def test_power_goes_on_as_its_tangent_beyond_an_exponent_of_thirty(power):
    at, step = 30 / power, math.copysign(1e-6, power)
    evidence = ratio(at - step, at, at + step, at + 1e4 * step * 1e6)
    value = Power(power=power)(evidence)
    slope = math.exp(30)
    expected = [math.expm1(30 - abs(power) * 1e-6) / power, math.expm1(30) / power, (math.expm1(30) + slope * abs(power) * 1e-6) / power]
    assert value[:3].tolist() == pytest.approx(expected, rel=1e-10)
    gradient, = torch.autograd.grad(value.sum(), evidence.policy)
    assert torch.isfinite(value).all() and gradient[2:].tolist() == pytest.approx([slope, slope], rel=1e-12)


def test_power_of_zero_is_the_ratio_itself():
    evidence = ratio(-2.0, 0.3)
    assert torch.equal(Power(power=0.0)(evidence), evidence.log_ratio)


def test_odds_near_certainty_and_near_impossibility():
    evidence = ratio(-1e-4, -0.5, -0.8, -50.0, -1e4)
    value = Odds()(evidence)
    expected = [-1e-4 - math.log(-math.expm1(-1e-4)), -0.5 - math.log(1 - math.exp(-0.5)), -0.8 - math.log(1 - math.exp(-0.8)), -50.0, -1e4]
    assert value.tolist() == pytest.approx(expected, rel=1e-12)
    gradient, = torch.autograd.grad(value.sum(), evidence.policy)
    assert gradient.tolist() == pytest.approx([1 / (1 - math.exp(m)) for m in (-1e-4, -0.5, -0.8, -50.0, -1e4)], rel=1e-9)


def test_odds_of_what_is_no_log_probability_are_finite():
    evidence = Evidence(torch.tensor([0.0, 3.0], requires_grad=True), size=torch.ones(2))
    value = Odds()(evidence)
    gradient, = torch.autograd.grad(value.sum(), evidence.policy)
    assert value.tolist() == pytest.approx([math.log(1e6)] * 2, rel=1e-3) and gradient.tolist() == [0.0, 0.0]


def test_the_other_maps_by_hand():
    evidence = Evidence(torch.tensor([-1.0, -4.0], dtype=F64), torch.tensor([-2.0, -3.0], dtype=F64), torch.tensor([2.0, 4.0], dtype=F64),
                        {"sequential_kl": torch.tensor([0.5, 0.25], dtype=F64)})
    assert ScaledReference(0.5)(evidence).tolist() == [0.0, -2.5]
    assert LengthMean()(evidence).tolist() == [0.5, -0.25]
    assert Penalised(penalty=3.0)(evidence).tolist() == [1.0, -4.0]
    assert Plus(LogRatio(), "sequential_kl", 2.0)(evidence).tolist() == [2.0, -0.5]
    assert Named("sequential_kl")(evidence).tolist() == [0.5, 0.25]
    assert JensenShannon()(evidence).tolist() == pytest.approx([math.log(2) - math.log1p(math.exp(-x)) for x in (1, -1)])


def test_a_detached_extra_is_tdpo2s_chosen_side():
    kl = torch.tensor([0.5, 0.2], dtype=F64, requires_grad=True)
    policy = torch.tensor([0.8, -0.3], dtype=F64, requires_grad=True)
    evidence = Evidence(policy, torch.zeros(2, dtype=F64), extra={"sequential_kl": kl})
    loss = objectives.get("tdpo2", beta=0.1, alpha=0.5)(evidence, Comparison.halves(1)).loss.sum()
    of_policy, of_kl = torch.autograd.grad(loss, [policy, kl])
    s = 1 / (1 + math.exp(0.1 * (1.1 + 0.15)))
    assert of_policy.tolist() == pytest.approx([-0.1 * s, 0.1 * s], rel=1e-12)
    assert of_kl.tolist() == pytest.approx([0.0, 0.05 * s], rel=1e-12)


def test_maps_say_whether_they_start_at_zero():
    kl = Plus(LogRatio(), "sequential_kl")
    assert all(m.starts_at_zero for m in (LogRatio(), LengthMean(), Power(power=-1.0), JensenShannon(), kl, ScaledReference(1.0)))
    assert not any(m.starts_at_zero for m in (Odds(), Odds(LogRatio()), ScaledReference(0.5), Plus(LogRatio(), "prior")))


def test_scores_by_hand():
    evidence, labels = ratio(0.8, -0.3), Scores(torch.tensor([0.5, -1.0], dtype=F64), weight=2.0)
    assert objectives.get("a2po", beta=0.1)(evidence, labels).loss.tolist() == pytest.approx([0.42**2, 0.97**2], rel=1e-12)
    direct = objectives.get("direct-advantage", beta=0.1)
    assert direct(evidence, labels).loss.tolist() == pytest.approx([(0.8 - 5) ** 2, (-0.3 + 10) ** 2], rel=1e-12)
    assert direct.loss_at_start(labels).tolist() == pytest.approx([25.0, 100.0])
    assert objectives.reduce(direct(evidence, labels), 2).item() == pytest.approx((0.8 - 5) ** 2 + (-0.3 + 10) ** 2)


def test_two_actions_of_one_state_less_their_difference_are_rebel():
    """(r_1 - A_1/beta) - (r_2 - A_2/beta) is what rebel squares, with eta = 1/beta."""
    r, A, beta = (0.8, -0.3), (0.5, -1.0), 0.1
    gap = Comparison.halves(1, margin=torch.tensor(A[0] - A[1], dtype=F64))
    rebel = objectives.get("rebel", eta=1 / beta)(ratio(*r), gap).loss.item()
    assert rebel == pytest.approx(((r[0] - A[0] / beta) - (r[1] - A[1] / beta)) ** 2, rel=1e-12)


def test_nash_mds_gradient_is_reinforces():
    policy = torch.tensor([-3.0], dtype=F64, requires_grad=True)
    evidence = Evidence(policy, torch.tensor([-2.0], dtype=F64), extra={"token_kl": (policy * 0.4)})
    loss = objectives.get("nash-md", beta=0.1)(evidence, Scores(torch.tensor([0.9]))).loss.sum()
    assert torch.autograd.grad(loss, policy)[0].item() == pytest.approx(0.1 * 0.4 - 0.4, rel=1e-6)


def test_a_mean_over_the_tokens_of_a_batch():
    evidence = Evidence(torch.tensor([-6.0, -3.0, 0.0, 0.0], dtype=F64), size=torch.tensor([4.0, 1.0, 1.0, 1.0], dtype=F64))
    loss = objectives.get("sft-trl")(evidence, Comparison.halves(2)).loss
    assert loss.mean().item() == pytest.approx(9 / 5, rel=1e-12)


@pytest.mark.parametrize("make, words", [
    (lambda: Likelihood(per="word"), "per is 'word'; allowed are sequence, token, batch"),
    (lambda: Likelihood(-1.0), "must be positive.*-1.0"),
    (lambda: Points(Logistic(), like=-1.0), "must be at least 0"),
    (lambda: Penalised(penalty=-1.0), "penalty must be at least 0.*-1.0"),
    (lambda: Power(power=math.inf), "power must be finite"),
    (lambda: ScaledReference(math.nan), "must be finite; got nan"),
    (lambda: PromptNearness(-1.0), "alpha.*at least 0; got -1.0"),
    (lambda: objectives.get("slic", delta=0.0), "delta must be positive"),
    (lambda: objectives.get("egpo", beta=0.0), "beta must be positive"),
    (lambda: objectives.get("direct-advantage", beta=0.0), "beta.*must be positive"),
    (lambda: objectives.get("re-align", beta=1.0, contrast_weight=0.0), "weight of the contrast must be positive"),
    (lambda: objectives.get("rebel", beta=1.0), "rebel compares log-ratios with eta"),
    (lambda: objectives.get("tars", beta=1.0), "tars needs frequency_weight"),
    (lambda: Scores(torch.zeros(2, 2)), r"value must be \(N,\)"),
    (lambda: Scores(torch.tensor([math.inf])), "value must be finite"),
    (lambda: Scores(torch.zeros(2), weight=-1.0), "weight must be at least 0"),
    (lambda: objectives.get("a2po", beta=1.0)(ratio(1.0), Comparison.halves(1)), "takes scores, a Scores; got Comparison"),
])
def test_refusals(make, words):
    with pytest.raises(ValueError, match=words):
        make()
