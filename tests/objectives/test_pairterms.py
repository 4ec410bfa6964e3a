"""The diffusion family's pair rows: unit vectors of spec diffusion-methods, 0.2, stored golden losses, and what each reduces to."""

import math

import pytest
import torch

from diffalign import objectives
from diffalign.objectives import Comparison, Evidence
from diffalign.objectives.rows import PAIRS

F64 = torch.float64
LOGISTIC = ["dpo", "cdpo", "sdpo", "seppo"]
# option values under which every pair row of the diffusion family can be built, in the units of `batch`
BETAS = {row.name: {"beta": 0.4} for row in PAIRS} | {"sft": {}}
BETAS |= {"mapo": {"multiplier": 3.0}, "mapo-paper": {"beta": 2.0}}
ROWS = list(BETAS.items())

# Errors (winner, loser) of the unit vectors: Delta = -4e-4
POLICY, REFERENCE = torch.tensor([0.1000, 0.1210], dtype=F64), torch.tensor([0.1002, 0.1208], dtype=F64)
UNIT, ONE = Evidence(-0.5 * POLICY, -0.5 * REFERENCE), Comparison.halves(1)


def batch(count: int = 4, seed: int = 0, shape=(3, 5)):
    """Predictions, reference predictions and targets (2 count, ...), as a small network would make them."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(3, 2 * count, *shape, generator=g, dtype=F64)


def measured(prediction, reference, target, balance=1.0) -> Evidence:
    """The evidence and every further scalar, by their definitions."""
    def mean(x):
        return x.flatten(1).mean(1)
    drift, cross = mean((prediction - reference) ** 2), mean((prediction - target) * (prediction - reference))
    extra = {"drift": drift, "cross": cross, "balance": torch.full((len(prediction) // 2,), balance, dtype=prediction.dtype)}
    return Evidence(-0.5 * mean((prediction - target) ** 2), -0.5 * mean((reference - target) ** 2), extra=extra)


def total(objective, evidence, comparison=None):
    count = len(evidence.policy) // 2
    return objectives.reduce(objective(evidence, comparison or Comparison.halves(count)), count)


def error_gradient(objective, evidence=UNIT, comparison=ONE):
    """dloss/dl of winner and loser."""
    error = evidence.error.clone().requires_grad_()
    terms = objective(Evidence(-0.5 * error, evidence.reference, extra=evidence.extra), comparison)
    return torch.autograd.grad(terms.loss.sum(), error)[0].tolist()


def test_mapo_unit_vectors():
    released = objectives.get("mapo")(UNIT, ONE)
    assert released.metrics["rewards/margins"][0].item() == pytest.approx(5.15332, abs=5e-6)
    assert released.loss.item() == pytest.approx(0.100576, abs=5e-7)
    paper = objectives.get("mapo-paper")(UNIT, ONE)
    assert paper.metrics["rewards/margins"][0].item() == pytest.approx(0.0547765, abs=5e-8)
    assert paper.loss.item() == pytest.approx(0.183267, abs=5e-7)


def test_smpo_unit_vector_is_dpo_with_a_scale():
    a, b = 0.11543526500463486, 0.28201571106910706
    soft = math.tanh((0.22 - 0.20) / (b - a) / 2)
    assert soft == pytest.approx(0.0599590, abs=5e-8)
    loss = objectives.get("dpo", beta=2000.0)(UNIT, Comparison.halves(1, scale=torch.tensor(10 * soft, dtype=F64))).loss
    assert loss.item() == pytest.approx(0.580402, abs=5e-7)


@pytest.mark.parametrize("beta, weight", [(5000.0, 0.10), (1000.0, 0.42), (1e5, 0.0)])
def test_linear_dpo_unit_vectors(beta, weight):
    objective = objectives.get("linear-dpo", beta=beta)
    assert objective(UNIT, ONE).loss.item() == pytest.approx(weight * (0.1000 - 0.1210), abs=1e-12)
    assert error_gradient(objective) == pytest.approx([weight, -weight], abs=1e-9)  # the weight itself carries no gradient
    assert error_gradient(objectives.get("linear-dpo", beta=1e5, eta=0.25)) == pytest.approx([0.25, -0.25], abs=1e-12)


# tests/golden/denoising: per-sample errors of the float64 networks and the losses of results.json
WINNER = [1.3263330332454224, 1.051990366367959, 1.0691413073406368, 0.9681237670210264]
LOSER = [1.3623496342739396, 1.0848961678488065, 1.0538863806756902, 0.9716554667803947]


@pytest.mark.parametrize("name, beta, loss", [
    ("mapo", 0.1, 1.193375640946562), ("mapo", 0.25, 1.3275934246257628),
    ("mapo-paper", 8.0, 1.1905175949152533), ("mapo-paper", 64.0, 1.1147275431900103),
])
def test_mapo_golden(name, beta, loss):
    evidence = Evidence(-0.5 * torch.tensor(WINNER + LOSER, dtype=F64))
    assert total(objectives.get(name, beta=beta), evidence).item() == pytest.approx(loss, rel=1e-11)


def test_mapo_by_the_naive_formula():
    l = torch.rand(6, generator=torch.Generator().manual_seed(0), dtype=F64) + 0.05
    winner, loser = l.chunk(2)
    def phi(l):
        return 0.5 * l / (torch.exp(0.5 * l) - 1)
    expected = winner - 0.1 * torch.nn.functional.logsigmoid(1000 * (phi(winner) - phi(loser)))
    torch.testing.assert_close(objectives.get("mapo")(Evidence(-0.5 * l), Comparison.halves(3)).loss, expected, rtol=1e-10, atol=1e-12)


def test_mapo_of_small_errors_is_denoising_and_a_reference_free_dpo_of_beta_500():
    policy = -0.5 * torch.tensor([1.0e-4, 1.4e-4], dtype=F64)
    expected = 1.0e-4 + 0.1 * objectives.get("dpo", beta=500.0)(Evidence(policy, torch.zeros_like(policy)), ONE).loss
    assert objectives.get("mapo")(Evidence(policy), ONE).loss.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("name", ["mapo", "mapo-paper"])
def test_mapo_at_zero_error(name):
    policy = torch.zeros(2, dtype=F64, requires_grad=True)
    terms = objectives.get(name)(Evidence(policy), ONE)
    terms.loss.sum().backward()
    weight = {"mapo": 0.1, "mapo-paper": 1 / 8}[name]
    assert terms.loss.item() == pytest.approx(weight * math.log(2), abs=1e-15) and torch.isfinite(policy.grad).all()


def test_sft_is_the_winners_error():
    terms = objectives.get("sft")(UNIT, ONE)
    assert terms.loss.item() == pytest.approx(0.1000, abs=1e-15) and "grad_factor" not in terms.metrics
    assert error_gradient(objectives.get("sft")) == [1.0, 0.0]


def test_flow_rwr_is_sft_with_soft_labels():
    rewards = torch.tensor([0.3, -0.8], dtype=F64)  # of the two samples
    labels = Comparison.halves(1, probability=torch.sigmoid(rewards[0] - rewards[1]), weight=rewards.exp().sum())
    assert total(objectives.get("sft"), UNIT, labels).item() == pytest.approx((rewards.exp() * POLICY).sum().item(), rel=1e-14)


def test_capo_regresses_the_margin_on_the_gap():
    # beta r = 5000 * (1e-4, -1e-4) = (0.5, -0.5): the margin is 1; the calibrated rewards differ by 0.7
    terms = objectives.get("capo", beta=5000.0)(UNIT, Comparison.halves(1, margin=torch.tensor(0.7, dtype=F64)))
    assert terms.loss.item() == pytest.approx((1.0 - 0.7) ** 2, abs=1e-9)
    assert terms.metrics["grad_factor"][0].item() == pytest.approx(0.6, abs=1e-9)
    with pytest.raises(ValueError, match="cannot read a probability.*margin"):
        objectives.get("capo", beta=1.0)(UNIT, Comparison.halves(1, probability=0.9))


def test_dmpo_is_the_kl_of_the_dpo_margin():
    s = 1 / (1 + math.exp(-1))  # z = 1
    expected = s * math.log(s / 0.99) + (1 - s) * math.log((1 - s) / 0.01)
    assert objectives.get("dmpo", beta=5000.0)(UNIT, ONE).loss.item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("balance", [0.0, 0.3, 1.0])
def test_sdpo_is_dpo_with_the_losers_gradient_scaled(balance):
    evidence = Evidence(UNIT.policy, UNIT.reference, extra={"balance": torch.tensor([balance], dtype=F64)})
    dpo, sdpo = objectives.get("dpo", beta=5000.0), objectives.get("sdpo", beta=5000.0)
    assert torch.equal(sdpo(evidence, ONE).loss, dpo(UNIT, ONE).loss)
    winner, loser = error_gradient(dpo)
    assert error_gradient(sdpo, evidence) == pytest.approx([winner, balance * loser], rel=1e-12)


def test_seppo_takes_the_rejected_for_a_second_chosen_where_the_policy_lost_ground():
    # r = (0.2, 0.3): as dpo, z = -0.1;  r = (-0.2, 0.3): z = -0.2 + 0.3
    objective, zero = objectives.get("seppo", beta=1.0), torch.zeros(2, dtype=F64)
    for policy, z in (([0.2, 0.3], -0.1), ([-0.2, 0.3], 0.1), ([0.0, 0.3], -0.3)):
        loss = objective(Evidence(torch.tensor(policy, dtype=F64), zero), ONE).loss
        assert loss.item() == pytest.approx(math.log1p(math.exp(-z)), abs=1e-12)


@pytest.mark.parametrize("beta", [0.01, 1.3])
def test_dspo_from_scalars_is_the_released_loss_with_its_gradient(beta):
    prediction, reference, target = batch()
    prediction.requires_grad_()
    def released():
        error = ((prediction - target) ** 2).flatten(1).mean(1) - ((reference - target) ** 2).flatten(1).mean(1)
        winner, loser = error.chunk(2)
        k = beta * (1 - torch.sigmoid(-0.5 * beta * (winner - loser)))
        pulled = (prediction - target)[:4] - k[:, None, None] * (prediction - reference)[:4]
        return (pulled**2).flatten(1).mean(1).mean()
    ours = total(objectives.get("dspo", beta=beta), measured(prediction, reference, target))
    assert ours.item() == pytest.approx(released().item(), rel=1e-13)
    expected, = torch.autograd.grad(released(), prediction)
    torch.testing.assert_close(torch.autograd.grad(ours, prediction)[0], expected, rtol=1e-10, atol=1e-15)


def test_dspo_starts_as_denoising_slowed_by_half_of_beta():
    prediction, _, target = batch()
    prediction.requires_grad_()
    loss = total(objectives.get("dspo", beta=0.4), measured(prediction, prediction.detach(), target))
    gradient, = torch.autograd.grad(loss, prediction)
    denoising, = torch.autograd.grad(total(objectives.get("sft"), measured(prediction, prediction.detach(), target)), prediction)
    torch.testing.assert_close(gradient, (1 - 0.4 / 2) * denoising, rtol=1e-12, atol=1e-16)


# ---- knobs


def test_loser_weight_by_hand():
    # r = (2, 1), z = 0.5 * (2 - 0.25 * 1)
    evidence = Evidence(torch.tensor([3.0, 2.0], dtype=F64), torch.ones(2, dtype=F64))
    loss = objectives.get("dpo", beta=0.5, loser_weight=0.25)(evidence, ONE).loss
    assert loss.item() == pytest.approx(math.log1p(math.exp(-0.875)), abs=1e-12)


def test_sft_weight_and_anchor_weight_add_up():
    evidence = measured(*batch())
    plain, both = (objectives.get("dpo", beta=0.4, **knobs) for knobs in ({}, {"sft_weight": 0.3, "anchor_weight": 0.7}))
    winner, drift = evidence.error[:4], evidence.extra["drift"]
    expected = plain(evidence, Comparison.halves(4)).loss + 0.3 * winner + 0.35 * (drift[:4] + drift[4:])
    torch.testing.assert_close(both(evidence, Comparison.halves(4)).loss, expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("name, options", ROWS)
def test_neutral_knobs_change_nothing(name, options):
    evidence, row = measured(*batch()), objectives.TABLE[name]
    neutral = {"loser_weight": 1.0, "sft_weight": 0.0, "anchor_weight": 0.0, "adaptive_beta": 0.0}
    given = {knob: value for knob, value in neutral.items() if row.options.get(knob) and row.defaults[knob] == value}
    plain, knobs = objectives.get(name, **options), objectives.get(name, **options, **given)
    assert torch.equal(plain(evidence, Comparison.halves(4)).loss, knobs(evidence, Comparison.halves(4)).loss) and plain == knobs


def test_an_anchor_needs_the_drift_and_a_reference():
    assert objectives.get("mapo", anchor_weight=0.1).needs == {"reference", "extra:drift"}
    with pytest.raises(ValueError, match="needs extra\\['drift'\\].*extra holds nothing"):
        objectives.get("dpo", beta=1.0, anchor_weight=0.1)(UNIT, ONE)


# ---- what holds for every row


@pytest.mark.parametrize("name, options", [row for row in ROWS if row[0] != "linear-dpo"])  # its weight is detached, see its unit vectors
def test_gradcheck(name, options):
    _, reference, target = batch(2, shape=(2,))
    comparison = Comparison.halves(2, weight=0.7, scale=1.3)
    objective, start = objectives.get(name, **options), batch(2, seed=1, shape=(2,))[0].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: total(objective, measured(x, reference, target), comparison), start)  # sdpo at balance 1


@pytest.mark.parametrize("name, options", ROWS)
def test_descent_lowers_the_winners_error_and_never_the_losers(name, options):
    evidence = Evidence(REFERENCE * -0.5, REFERENCE * -0.5, extra=dict.fromkeys(("drift", "cross"), torch.zeros(2, dtype=F64)) | {
        "balance": torch.full((1,), 0.5, dtype=F64)})
    labels = Comparison.halves(1, margin=0.3)  # capo's gap: without one it has nothing to learn at the start
    winner, loser = error_gradient(objectives.get(name, **options), evidence, labels)
    assert winner > 0 >= loser and (loser < 0 or name in ("sft", "dspo"))


@pytest.mark.parametrize("name, options", ROWS)
def test_step_zero_value_or_the_reason_why_there_is_none(name, options):
    prediction, _, target = batch()
    evidence, comparison = measured(prediction, prediction, target), Comparison.halves(4, scale=2.0, margin=0.3)
    objective = objectives.get(name, **options)
    if name in ("sft", "mapo", "mapo-paper", "dspo", "linear-dpo"):
        with pytest.raises(ValueError, match="depends on the model"):
            objective.loss_at_start(comparison)
    else:
        loss = objective(evidence, comparison).loss
        torch.testing.assert_close(loss, objective.loss_at_start(comparison.beside(loss)), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", LOGISTIC)
def test_logistic_rows_start_at_ln_2(name):
    assert objectives.get(name, beta=7.0).loss_at_start(Comparison.halves(2)).tolist() == pytest.approx([math.log(2)] * 2, abs=1e-7)


def test_an_anchor_leaves_the_start_and_a_winners_error_hides_it():
    assert objectives.get("dpo", beta=1.0, anchor_weight=0.5).loss_at_start(ONE).item() == pytest.approx(math.log(2), abs=1e-7)
    with pytest.raises(ValueError, match="WinnerError reads the policy's own error"):
        objectives.get("dpo", beta=1.0, sft_weight=0.5).loss_at_start(ONE)


@pytest.mark.parametrize("name, options", [row for row in ROWS if row[0] not in ("sdpo", "seppo", "capo")])
def test_swapping_pair_and_label_changes_no_loss(name, options):
    evidence, p = measured(*batch()), torch.tensor([0.9, 0.5, 0.2, 1.0], dtype=F64)
    comparison = Comparison.halves(4, probability=p, margin=0.2)
    swapped = Comparison(comparison.pairs.flip(1), 1 - p, margin=-comparison.margin)
    objective = objectives.get(name, **options)
    torch.testing.assert_close(objective(evidence, comparison).loss, objective(evidence, swapped).loss, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name, options", ROWS)
def test_half_precision_is_cast_up_and_finite_far_out(name, options, dtype):
    policy = torch.tensor([0.0, -3e4, -3e4, 0.0], dtype=dtype, requires_grad=True)  # errors 0 and 6e4, both ways round
    far = torch.tensor([0.0, 3e4, 3e4, 0.0], dtype=dtype)
    extra = {"drift": far, "cross": far, "balance": torch.full((2,), 0.5, dtype=dtype)}
    terms = objectives.get(name, **options)(Evidence(policy, -far, extra=extra), Comparison(torch.tensor([[0, 1], [2, 3]])))
    objectives.reduce(terms, 2).backward()
    assert terms.loss.dtype == torch.float32 and torch.isfinite(terms.loss).all() and torch.isfinite(policy.grad).all()


@pytest.mark.parametrize("make, words", [
    (lambda: objectives.get("sdpo", beta=1.0)(UNIT, ONE), "needs extra\\['balance'\\]"),
    (lambda: objectives.get("sdpo", beta=1.0)(Evidence(POLICY, REFERENCE, extra={"balance": torch.ones(4)}), ONE),
     r"extra\['balance'\] has shape \(4,\).*\(1,\)"),
    (lambda: objectives.get("linear-dpo", beta=1.0, eta=0.5), r"eta.*\[0, 0.5\); got 0.5"),
    (lambda: objectives.get("dpo", beta=1.0, sft_weight=-1.0), "winner's error must be positive.*-1.0"),
    (lambda: objectives.get("dpo", beta=1.0, anchor_weight=-1.0), "anchor_weight must be positive.*-1.0"),
    (lambda: objectives.get("dpo", beta=1.0, loser_weight=-1.0), "loser_weight must be at least 0.*-1.0"),
    (lambda: objectives.PairObjective(objectives.LogRatio(), None, 1.0), "without a link.*no terms"),
    (lambda: objectives.get("dpo", beta=1.0)(UNIT, objectives.Labels(torch.ones(2).bool())), "takes pairs, a Comparison; got Labels"),
])
def test_refusals_name_the_value(make, words):
    with pytest.raises(ValueError, match=words):
        make()
