"""What single samples are measured against: mismatched responses, and a shift that runs over calls and ranks."""

import math

import pytest
import torch

from diffalign import objectives
from diffalign.objectives import Evidence, Labels, RunningMean
from tests.objectives.batches import F64

BOTH = Labels(torch.tensor([True, False, False]))


def log_ratios(*values, train=True, **extra) -> Evidence:
    policy = torch.tensor(values, dtype=F64, requires_grad=train)
    return Evidence(policy, torch.zeros_like(policy), extra={name: torch.tensor(value, dtype=F64) for name, value in extra.items()})


def log_sigmoid(x):
    return -math.log1p(math.exp(-x))


@pytest.mark.parametrize("mismatched, q0", [([0.5, -0.2, 0.6], 0.3), ([-3.0, 0.0, 0.0], 0.0)])
def test_kto_measures_against_mismatched_responses(mismatched, q0):
    terms = objectives.get("kto-mismatched", beta=2.0, desirable_weight=1.5)(log_ratios(1.0, 0.0, -1.0, mismatched=mismatched), BOTH)
    z = [2 * (r - q0) for r in (1.0, 0.0, -1.0)]
    expected = [1.5 / (1 + math.exp(z[0])), 1 / (1 + math.exp(-z[1])), 1 / (1 + math.exp(-z[2]))]
    assert terms.loss.tolist() == pytest.approx(expected, rel=1e-12)
    assert objectives.means(terms.metrics)["kl"] == pytest.approx(2 * q0)


def test_the_divergence_carries_no_gradient():
    evidence = log_ratios(1.0, 0.0, -1.0, mismatched=[0.5, 0.5, 0.5])
    loss = objectives.get("kto-mismatched", beta=1.0)(evidence, BOTH).loss
    s = 1 / (1 + math.exp(-0.5))
    assert torch.autograd.grad(loss[0], evidence.policy)[0].tolist() == pytest.approx([-s * (1 - s), 0.0, 0.0], rel=1e-12)


@pytest.mark.parametrize("name, deltas", [
    ("bco", [(3.0 + 0.0) / 2, ((3.0 + 1.0) / 2 + (1.0 - 1.0 + 4.0) / 3) / 2]),  # liked 3 then 1; disliked 1, -1 then 4
    ("bco-trl", [3.0 / 3, (3.0 + 1.0 - 1.0 + 1.0 + 4.0) / 5]),
])
def test_the_shift_is_a_mean_over_all_calls_this_one_included(name, deltas):
    objective = objectives.get(name, beta=1.0)
    first = objective(log_ratios(3.0, 1.0, -1.0), BOTH)
    d = deltas[0]
    assert first.loss.tolist() == pytest.approx([-log_sigmoid(3 - d), -log_sigmoid(d - 1), -log_sigmoid(d + 1)], rel=1e-12)
    d, second = deltas[1], objective(log_ratios(1.0, 4.0), Labels(torch.tensor([True, False])))
    assert second.loss.tolist() == pytest.approx([-log_sigmoid(1 - d), -log_sigmoid(d - 4)], rel=1e-12)
    after = objective(log_ratios(0.0, 0.0, train=False), Labels(torch.tensor([True, False])))  # validation: the shift stands
    assert after.loss.tolist() == pytest.approx([-log_sigmoid(-d), -log_sigmoid(d)], rel=1e-12)


def test_the_shift_carries_no_gradient():
    evidence = log_ratios(3.0, 1.0, -1.0)
    loss = objectives.get("bco", beta=1.0)(evidence, BOTH).loss
    s = 1 / (1 + math.exp(3 - 1.5))
    assert torch.autograd.grad(loss[0], evidence.policy)[0].tolist() == pytest.approx([-s, 0.0, 0.0], rel=1e-12)


def test_a_class_not_seen_yet_is_left_out():
    terms = objectives.get("bco", beta=1.0)(log_ratios(2.0, 4.0), Labels(torch.tensor([True, True])))
    assert objectives.means(terms.metrics)["kl"] == 3.0


def test_resume_goes_on_with_the_same_shift():
    calls = [log_ratios(3.0, 1.0, -1.0), log_ratios(0.5, 2.0, 0.1)]
    whole = objectives.get("bco", beta=0.7)
    whole(calls[0], BOTH)
    resumed = objectives.get("bco", beta=0.7)
    resumed.load_state_dict(whole.state_dict())
    assert torch.equal(whole(calls[1], BOTH).loss, resumed(calls[1], BOTH).loss) and whole.state_dict() == resumed.state_dict()
    assert whole.state_dict().keys() == {"liked_reward", "liked_count", "disliked_reward", "disliked_count"}


def test_two_objectives_keep_two_shifts_and_a_state_of_another_is_refused():
    one, two = (objectives.get("bco", beta=1.0) for _ in range(2))
    one(log_ratios(3.0, 1.0, -1.0), BOTH)
    assert two.state_dict() == {} and one.state_dict() != {}
    one.load_state_dict({})
    assert one.state_dict() == {}
    with pytest.raises(ValueError, match="running mean's state is liked_reward.*got margin"):
        RunningMean().load_state_dict({"margin": 1.0})
    with pytest.raises(ValueError, match="keeps no state and was given margin"):
        objectives.get("kto", beta=1.0).load_state_dict({"margin": 1.0})
