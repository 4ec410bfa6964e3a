"""Shapes of lists by loops, on ragged lists, and what two samples make of them."""

import math

import pytest
import torch

from diffalign import objectives
from diffalign.objectives import Comparison, Evidence, ListObjective, LogRatio, PolicyEvidence, Rankings
from diffalign.objectives.targets import CrossEntropy, Extremes, SoftmaxTarget
from tests.objectives.batches import F64

# a list of three in rows 2, 0, 3 (best first) and one of two in rows 1, 4
GROUP, RELEVANCE = torch.tensor([0, 1, 0, 0, 1]), torch.tensor([0.5, 0.9, 1.0, -0.4, 0.1], dtype=F64)
LISTS = [[2, 0, 3], [1, 4]]
RANKINGS = Rankings(GROUP, RELEVANCE)


def evidence(seed=0, count=5, **extra) -> Evidence:
    g = torch.Generator().manual_seed(seed)
    policy, reference = -4 * torch.rand(2, count, generator=g, dtype=F64)
    size = torch.tensor([3.0, 5.0, 2.0, 4.0, 7.0], dtype=F64)[:count]
    return Evidence(policy, reference, size, {name: torch.tensor(value, dtype=F64) for name, value in extra.items()})


def loss(name, labels=RANKINGS, made=None, **options) -> list[float]:
    return objectives.get(name, **options)(made or evidence(), labels).loss.tolist()


def softmax(values) -> list[float]:
    parts = [math.exp(value) for value in values]
    return [part / sum(parts) for part in parts]


def log_sigmoid(x):
    return -math.log1p(math.exp(-x))


def rewards(beta) -> list[list[float]]:
    r = (beta * evidence().log_ratio).tolist()
    return [[r[i] for i in rows] for rows in LISTS]


def scores() -> list[list[float]]:
    return [[RELEVANCE[i].item() for i in rows] for rows in LISTS]


def test_plackett_luce():
    expected = [sum(math.log(sum(map(math.exp, r[k:]))) - r[k] for k in range(len(r))) for r in rewards(0.7)]
    assert loss("plackett-luce", beta=0.7) == pytest.approx(expected, rel=1e-12)


def test_tied_samples_stay_in_each_others_sums_whatever_their_order():
    tied = Rankings(torch.zeros(3).long(), torch.tensor([1.0, 0.0, 0.0]))
    r = evidence(count=3).log_ratio.tolist()
    rest = math.log(math.exp(r[1]) + math.exp(r[2]))
    expected = math.log(sum(map(math.exp, r))) - r[0] + 2 * rest - r[1] - r[2]
    assert loss("plackett-luce", tied, evidence(count=3), beta=1.0) == pytest.approx([expected], rel=1e-12)


def test_targets_of_scores():
    pairs = [(r, softmax([value / 0.5 for value in s]), softmax(r)) for r, s in zip(rewards(0.7), scores(), strict=True)]
    cross = [-sum(qi * math.log(pi) for qi, pi in zip(q, p, strict=True)) for _, q, p in pairs]
    reverse = [sum(pi * math.log(pi / qi) for qi, pi in zip(q, p, strict=True)) for _, q, p in pairs]
    noise = [-sum(log_sigmoid(-x) for x in r) / len(r) - sum(qi * log_sigmoid(x) for qi, x in zip(q, r, strict=True)) for r, q, _ in pairs]
    options = {"beta": 0.7, "temperature": 0.5}
    assert loss("infonca", **options) == pytest.approx(cross, rel=1e-12)
    assert loss("exo-list", **options) == pytest.approx(reverse, rel=1e-11)
    assert loss("nca-list", **options) == pytest.approx(noise, rel=1e-12)


def test_adpo_standardises_the_scores_of_a_list():
    expected = []
    for r, s in zip(rewards(1 / 0.8), scores(), strict=True):
        mean = sum(s) / len(s)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in s) / len(s))
        q, p = softmax([(value - mean) / deviation / 0.5 for value in s]), softmax(r)
        expected.append(sum(qi * math.log(qi / pi) for qi, pi in zip(q, p, strict=True)))
    assert loss("adpo-anchored") == pytest.approx(expected, rel=1e-10)


def test_brain_weighs_the_posterior():
    made = evidence(prior=[-1.0, -2.0, -0.5, -3.0, -1.5])
    expected = []
    for rows, r in zip(LISTS, rewards(1.0), strict=True):
        w = [math.exp(made.extra["prior"][i] - made.reference[i]) / (1 + math.exp(-RELEVANCE[i])) for i in rows]
        expected.append(-sum(wi / sum(w) * math.log(pi) for wi, pi in zip(w, softmax(r), strict=True)))
    assert loss("brain", made=made) == pytest.approx(expected, rel=1e-12)


def test_pro_as_released():
    made, expected = evidence(), []
    for rows in LISTS:
        s, R = [(made.policy[i] / made.size[i]).item() for i in rows], [RELEVANCE[i].item() for i in rows]
        total = 0.0
        for k in range(len(rows) - 1):
            heat = [R[k] - R[j] for j in range(k + 1, len(rows))]
            own = s[k] * max(heat)
            total += math.log(math.exp(own) + sum(math.exp(s[k + 1 + j] * t) for j, t in enumerate(heat))) - own
        expected.append(total + 2.0 * (len(rows) - 1) ** 2 * -made.policy[rows[0]].item())
    assert loss("pro") == pytest.approx(expected, rel=1e-12)


def test_trpa_spreads_the_pairs_below_a_top_sample():
    made = evidence()
    lr = (made.log_ratio / made.size).tolist()
    levels = Rankings(GROUP, torch.tensor([-1.0, -2.0, 0.0, -1.0, -3.0], dtype=F64))
    first = [2.5 * (lr[2] - lr[0]), 2.5 * (lr[2] - lr[3])]  # rows 0 and 3 tie
    second = [lr[1] - lr[4]]
    expected = [-sum(log_sigmoid(0.1 * h) for h in hs) / len(hs) for hs in (first, second)]
    assert loss("trpa", levels, beta=0.1) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("level, sign", [(0.0, 1), (-2.0, -1)])
def test_trpa_judges_a_list_of_one_level_by_itself(level, sign):
    made = evidence(count=3)
    alone = Rankings(torch.zeros(3).long(), torch.full((3,), level))
    expected = -sum(log_sigmoid(sign * x) for x in (made.log_ratio / made.size).tolist()) / 3
    assert loss("trpa", alone, made, beta=0.1) == pytest.approx([expected], rel=1e-12)


def test_lipo_takes_its_ranks_from_the_policy():
    made = evidence()
    r = made.log_ratio.tolist()
    rank = {i: 1 + sum(r[j] > r[i] for j in rows) for rows in LISTS for i in rows}
    expected = []
    for rows in LISTS:
        total = 0.0
        for i in rows:
            for j in rows:
                if RELEVANCE[i] > RELEVANCE[j]:
                    gain = 2 ** RELEVANCE[i].item() - 2 ** RELEVANCE[j].item()
                    total -= gain * abs(1 / math.log(1 + rank[i]) - 1 / math.log(1 + rank[j])) * log_sigmoid(0.7 * (r[i] - r[j]))
        expected.append(total)
    assert loss("lipo", beta=0.7) == pytest.approx(expected, rel=1e-12)


def test_lipo_starts_as_the_labels_rank():
    made = evidence()
    equal = Evidence(made.reference, made.reference)
    assert loss("lipo", made=equal, beta=0.7) == pytest.approx(loss("rankdpo", made=equal, beta=0.7), rel=1e-12)
    assert min(loss("lipo", made=equal, beta=0.7)) > 0.1


@pytest.mark.parametrize("name, offset", [("sppo", 0.5), ("general-preference", 0.0)])
def test_extremes_regress_the_best_and_the_worst(name, offset):
    r = evidence().log_ratio.tolist()
    expected = [sum((r[i] - (RELEVANCE[i].item() - offset) / 0.5) ** 2 for i in (rows[0], rows[-1])) / 2 for rows in LISTS]
    assert loss(name, beta=0.5) == pytest.approx(expected, rel=1e-12)


def test_a_list_without_an_order_teaches_extremes_nothing_and_the_earlier_of_tied_rows_stands():
    level = Rankings(torch.zeros(3).long(), torch.ones(3, dtype=F64))
    assert loss("sppo", level, evidence(count=3), beta=0.5) == [0.0]
    r = evidence(count=3).log_ratio.tolist()
    tied = Rankings(torch.zeros(3).long(), torch.tensor([0.0, 1.0, 1.0], dtype=F64))
    expected = ((r[1] - 1.0) ** 2 + (r[0] + 1.0) ** 2) / 2
    assert loss("sppo", tied, evidence(count=3), beta=0.5) == pytest.approx([expected], rel=1e-12)


def test_two_samples_of_a_list_are_a_pair():
    made, order = evidence(count=4), Rankings(torch.tensor([0, 1, 0, 1]), torch.tensor([1.0, 0.8, 0.0, 0.2], dtype=F64))
    dpo = objectives.get("dpo", beta=0.7)(made, Comparison.halves(2)).loss.tolist()
    assert loss("plackett-luce", order, made, beta=0.7) == pytest.approx(dpo, rel=1e-12)
    certain = Rankings(order.group, 1000 * order.relevance)
    assert loss("infonca", certain, made, beta=0.7) == pytest.approx(dpo, rel=1e-12)
    nca = objectives.get("nca", beta=0.7)(made, Comparison.halves(2)).loss.tolist()
    assert loss("nca-list", certain, made, beta=0.7) == pytest.approx(nca, rel=1e-12)


def test_far_scores_and_rewards_do_not_overflow():
    far = Evidence(torch.tensor([-1e4, -1.0, -2e4], requires_grad=True), torch.tensor([-1.0, -1e4, -3e4]), torch.ones(3))
    order = Rankings(torch.zeros(3).long(), torch.tensor([1e4, 0.0, -1e4]))
    for name in ("plackett-luce", "infonca", "exo-list", "nca-list", "pro"):
        value = objectives.get(name, **({} if name == "pro" else {"beta": 1.0}))(far, order).loss
        assert torch.isfinite(value).all() and torch.isfinite(torch.autograd.grad(value.sum(), far.policy)[0]).all(), name


def test_no_start_value_without_a_reference():
    with pytest.raises(ValueError, match="PolicyEvidence has no reference"):
        ListObjective(PolicyEvidence(), CrossEntropy(SoftmaxTarget()), 1.0).loss_at_start(RANKINGS)


@pytest.mark.parametrize("make, words", [
    (lambda: SoftmaxTarget(0.0), "temperature of the scores must be positive; got 0.0"),
    (lambda: objectives.get("trpa", beta=1.0, anisotropy=0.0), "anisotropy must be positive"),
    (lambda: objectives.get("pro", nll_weight=-1.0), "nll_weight must be at least 0"),
    (lambda: objectives.get("adpo-anchored", tau=0.0), "tau must be positive"),
    (lambda: ListObjective(LogRatio(), Extremes(1.0), 0.0), "beta must be positive"),
    (lambda: loss("brain"), r"needs extra\['prior'\]"),
])
def test_refusals(make, words):
    with pytest.raises(ValueError, match=words):
        make()
