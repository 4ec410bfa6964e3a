"""RankDPO: the DCG gaps by hand, its reduction to dpo, order, start and direction."""

import math

import pytest
import torch

from diffalign import objectives
from diffalign.objectives import Comparison, Evidence, Rankings
from diffalign.objectives.lists import dcg_gaps

F64 = torch.float64
# one list of three with relevance 1 > 0.5 > 0 in rows 2, 0, 3 and one of two in rows 1, 4
GROUP, RELEVANCE = torch.tensor([0, 1, 0, 0, 1]), torch.tensor([0.5, 0.9, 1.0, 0.0, 0.1], dtype=F64)


def random_evidence(count=5, seed=0, policy=None) -> Evidence:
    g = torch.Generator().manual_seed(seed)
    drawn, reference = torch.randn(2, count, generator=g, dtype=F64)
    return Evidence(drawn if policy is None else policy, reference)


def delta(y_i, y_j, rank_i, rank_j):
    return abs(2**y_i - 2**y_j) * abs(1 / math.log(1 + rank_i) - 1 / math.log(1 + rank_j))


def test_dcg_gaps_by_hand():
    rankings = Rankings(GROUP, RELEVANCE)
    assert rankings.rank().tolist() == [2, 1, 1, 3, 2] and (rankings.groups, rankings.ordered) == (2, 4)
    expected = torch.zeros(5, 5, dtype=F64)
    expected[2, 0], expected[2, 3], expected[0, 3] = delta(1, 0.5, 1, 2), delta(1, 0, 1, 3), delta(0.5, 0, 2, 3)
    expected[1, 4] = delta(0.9, 0.1, 1, 2)
    torch.testing.assert_close(dcg_gaps(rankings), expected, rtol=1e-13, atol=0)


def test_the_loss_in_loops():
    evidence, beta = random_evidence(), 0.7
    terms = objectives.get("rankdpo", beta=beta)(evidence, Rankings(GROUP, RELEVANCE))
    r, gaps, expected = evidence.log_ratio.tolist(), dcg_gaps(Rankings(GROUP, RELEVANCE)).tolist(), [0.0, 0.0]
    for i, j in ((2, 0), (2, 3), (0, 3), (1, 4)):
        expected[GROUP[i]] += gaps[i][j] * math.log1p(math.exp(-beta * (r[i] - r[j])))
    assert terms.loss.tolist() == pytest.approx(expected, rel=1e-12) and terms.unit == "group" and len(terms.weight) == 2


def test_published_units_are_half_of_ours():
    """-beta' (s_i - s_j) with s = l_theta - l_ref, for beta' = beta/2."""
    error = torch.tensor([0.1000, 0.1210, 0.1002, 0.1208], dtype=F64)
    rankings = Rankings(torch.zeros(2).long(), RELEVANCE[[2, 3]])
    terms = objectives.get("rankdpo", beta=5000.0)(Evidence(-0.5 * error[:2], -0.5 * error[2:]), rankings)
    s = (error[:2] - error[2:]).tolist()
    assert terms.loss.item() == pytest.approx(delta(1, 0, 1, 2) * math.log1p(math.exp(2500 * (s[0] - s[1]))), rel=1e-9)


def test_two_samples_a_list_are_dpo_times_a_constant():
    evidence, pairs = random_evidence(8), Comparison.halves(4)
    relevance = torch.tensor([1.0] * 4 + [0.0] * 4, dtype=F64)
    lists = objectives.get("rankdpo", beta=0.7)(evidence, Rankings(torch.arange(4).repeat(2), relevance))
    dpo = objectives.get("dpo", beta=0.7)(evidence, pairs)
    torch.testing.assert_close(lists.loss, delta(1, 0, 1, 2) * dpo.loss, rtol=1e-12, atol=0)
    for name in ("rewards/margins", "rewards/accuracies", "grad_factor", "saturation"):
        assert lists.metrics[name][0].item() == pytest.approx(dpo.metrics[name][0].item(), rel=1e-12) and lists.metrics[name][1] == 4


def test_ties_teach_nothing_and_their_order_does_not_matter():
    group, relevance = torch.zeros(3).long(), torch.tensor([1.0, 0.5, 0.5], dtype=F64)
    rankings, evidence = Rankings(group, relevance), random_evidence(3)
    assert rankings.rank().tolist() == [1, 2, 2] and rankings.ordered == 2
    swapped = Evidence(evidence.policy[[0, 2, 1]], evidence.reference[[0, 2, 1]])
    objective = objectives.get("rankdpo", beta=1.0)
    torch.testing.assert_close(objective(evidence, rankings).loss, objective(swapped, rankings).loss, rtol=1e-14, atol=0)
    alike = Rankings(torch.zeros(2).long(), torch.ones(2))
    terms = objective(random_evidence(2), alike)
    assert terms.loss.item() == 0.0 and objectives.means(terms.metrics) == {}


def test_the_order_of_samples_does_not_matter():
    shuffle, evidence = torch.tensor([3, 0, 4, 1, 2]), random_evidence()
    objective = objectives.get("rankdpo", beta=1.0)
    before = objective(evidence, Rankings(GROUP, RELEVANCE)).loss
    after = objective(Evidence(evidence.policy[shuffle], evidence.reference[shuffle]), Rankings(GROUP[shuffle], RELEVANCE[shuffle])).loss
    torch.testing.assert_close(before, after, rtol=1e-14, atol=0)


def test_start_direction_and_gradcheck():
    rankings, objective = Rankings(GROUP, RELEVANCE, weight=torch.tensor([1.0, 2.0])), objectives.get("rankdpo", beta=0.7)
    reference = random_evidence().reference
    policy = reference.clone().requires_grad_()
    terms = objective(Evidence(policy, reference), rankings)
    gaps = dcg_gaps(rankings)
    assert terms.loss.tolist() == pytest.approx([math.log(2) * gaps[[0, 2]].sum().item(), math.log(2) * gaps[1].sum().item()], rel=1e-12)
    torch.testing.assert_close(objective.loss_at_start(rankings), terms.loss.detach(), rtol=1e-12, atol=0)
    objectives.reduce(terms, 2).backward()
    assert policy.grad[2] < 0 < policy.grad[3] and policy.grad[1] < 0 < policy.grad[4]  # descent raises the best, lowers the worst
    assert policy.grad[[0, 2, 3]].sum().abs() < 1e-15
    start = torch.randn(5, dtype=F64, generator=torch.Generator().manual_seed(3), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: objectives.reduce(objective(Evidence(x, reference), rankings), 2), start)


def test_half_precision_far_out_is_finite():
    policy = torch.tensor([3e4, -3e4, -3e4, 3e4, 0.0], dtype=torch.float16, requires_grad=True)
    loss = objectives.get("rankdpo", beta=1.0)(Evidence(policy, -policy.detach()), Rankings(GROUP, RELEVANCE.float())).loss
    loss.sum().backward()
    assert loss.dtype == torch.float32 and torch.isfinite(loss).all() and torch.isfinite(policy.grad).all()


@pytest.mark.parametrize("make, words", [
    (lambda: Rankings(torch.zeros(2), torch.zeros(2)), "group must be int64.*torch.float32"),
    (lambda: Rankings(torch.tensor([0, -1]), torch.zeros(2)), "smallest given is -1"),
    (lambda: Rankings(torch.tensor([0, 0, 1]), torch.zeros(3)), "list 1 has 1 samples"),
    (lambda: Rankings(torch.tensor([0, 0, 2, 2]), torch.zeros(4)), "list 1 has 0 samples"),
    (lambda: dcg_gaps(Rankings(torch.tensor([0, 0]), torch.tensor([21.0, 800.0]))), "at most 30 here; got 800.*calibrate"),
    (lambda: Rankings(torch.tensor([0, 0]), torch.zeros(3)), r"relevance must be one number or one a sample, shape \(2,\)"),
    (lambda: Rankings(torch.tensor([0, 0]), torch.zeros(2), weight=-1.0), "weight must be at least 0"),
    (lambda: objectives.get("rankdpo", beta=1.0)(random_evidence(6), Rankings(GROUP, RELEVANCE)), "reaches row 4.*has 6 rows"),
    (lambda: objectives.get("rankdpo", beta=1.0)(random_evidence(2), Comparison.halves(1)), "takes rankings, a Rankings; got Comparison"),
    (lambda: objectives.get("rankdpo", beta=0.0), "beta must be positive"),
])
def test_refusals_name_the_value(make, words):
    with pytest.raises(ValueError, match=words):
        make()
