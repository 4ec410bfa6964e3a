"""Links against closed forms, and their slopes; test_identities.py has what the specification numbers."""

import math

import pytest
import torch

from diffalign.objectives import (
    DiscoPOP,
    GapKL,
    GapRegression,
    GapReverseKL,
    Hinge,
    Logistic,
    Regression,
    ReverseKL,
    Robust,
    Shifted,
    Sigmoid,
    Squared,
    Weighted,
)

Z = torch.linspace(-6, 6, 26, dtype=torch.float64)  # without 0 and +-1, the hinge's corners
LINKS = [
    Logistic(), Logistic(0.1), Hinge(), Squared(0.1), Squared(0.1, 0.2), Regression(), ReverseKL(0.01), Sigmoid(),
    Weighted(Logistic(), 0.1), Robust(0.1), DiscoPOP(), DiscoPOP(1.0), ReverseKL(1e-3, exact=True),
]
GAPS = [GapKL(0.7), GapReverseKL(0.7), GapRegression(0.7), Weighted(GapKL(), 2.0)]
ids = str


def p(value: float) -> torch.Tensor:
    return torch.full_like(Z, value)


def gradient(link, z, probability):
    z = z.clone().requires_grad_()
    return torch.autograd.grad(link(z, probability).sum(), z)[0]


def test_smoothing_is_a_soft_label():
    torch.testing.assert_close(Logistic(0.1)(Z, p(1)), Logistic()(Z, p(0.9)), rtol=0, atol=1e-14)


def test_smoothing_and_a_soft_label_compose():
    torch.testing.assert_close(Logistic(0.1)(Z, p(0.7)), Logistic()(Z, p(0.7 * 0.9 + 0.3 * 0.1)), rtol=0, atol=1e-14)


def test_smoothing_moves_the_squared_target_to_half_minus_eps():
    torch.testing.assert_close(Squared(0.1, 0.2)(Z, p(1)), ((Z - 0.3) / 0.1) ** 2, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(Squared(0.1, 0.2)(Z, p(0.7)), Squared(0.1)(Z, p(0.7 * 0.8 + 0.3 * 0.2)), rtol=1e-12, atol=1e-12)


def test_reverse_kl_by_hand():
    # KL(1/2 || 0.99) = 1/2 log(1/2 / 0.99) + 1/2 log(1/2 / 0.01);  zero where sigma(z) is the label
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    link = ReverseKL(0.01)
    assert link(zero, one).item() == pytest.approx(0.5 * math.log(0.5 / 0.99) + 0.5 * math.log(0.5 / 0.01), abs=1e-14)
    assert link(torch.tensor([math.log(99)], dtype=torch.float64), one).item() == pytest.approx(0, abs=1e-14)


def test_reverse_kl_is_the_divergence_the_logistic_link_takes_the_other_way():
    q, s = 0.99, torch.sigmoid(Z)
    torch.testing.assert_close(ReverseKL(0.01)(Z, p(1)), s * (s / q).log() + (1 - s) * ((1 - s) / (1 - q)).log(), rtol=1e-11, atol=1e-12)
    forward = q * (q / s).log() + (1 - q) * ((1 - q) / (1 - s)).log()
    entropy = -q * math.log(q) - (1 - q) * math.log(1 - q)
    torch.testing.assert_close(Logistic(0.01)(Z, p(1)), forward + entropy, rtol=1e-11, atol=1e-12)


def test_sigmoid_by_hand():
    z = torch.tensor([0.0, 2.0], dtype=torch.float64)
    assert Sigmoid()(z, torch.ones(2)).tolist() == pytest.approx([0.5, 1 / (1 + math.exp(2))], abs=1e-15)
    assert Sigmoid()(z, torch.zeros(2)).tolist() == pytest.approx([0.5, 1 / (1 + math.exp(-2))], abs=1e-15)


def test_hinge_by_hand():
    z = torch.tensor([-2.0, 0.0, 0.5, 1.0, 3.0])
    assert Hinge()(z, torch.ones(5)).tolist() == [3.0, 1.0, 0.5, 0.0, 0.0]
    assert Hinge().slope(z, torch.ones(5)).tolist() == [-1.0, -1.0, -1.0, 0.0, 0.0]


@pytest.mark.parametrize("probability", [1.0, 0.7, 0.0])
@pytest.mark.parametrize("link", LINKS, ids=ids)
def test_swapping_samples_and_label_changes_nothing(link, probability):
    torch.testing.assert_close(link(Z, p(probability)), link(-Z, p(1 - probability)), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("probability", [1.0, 0.7])
@pytest.mark.parametrize("link", LINKS, ids=ids)
def test_slope_is_the_gradient(link, probability):
    torch.testing.assert_close(link.slope(Z, p(probability)), gradient(link, Z, p(probability)), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("link", LINKS, ids=ids)
def test_gradcheck(link):
    assert torch.autograd.gradcheck(lambda z: link(z, p(0.8)), Z.clone().requires_grad_())


@pytest.mark.parametrize("link", LINKS, ids=ids)
@pytest.mark.parametrize("z", [-1e4, 1e4])
def test_far_out_stays_finite(link, z):
    z = torch.tensor([z], requires_grad=True)
    for probability in (torch.ones(1), torch.zeros(1), torch.full((1,), 0.3)):
        loss = link(z, probability)
        assert torch.isfinite(loss).all() and torch.isfinite(torch.autograd.grad(loss.sum(), z)[0]).all()


@pytest.mark.parametrize("gap", [-1e4, -0.7, 0.0, 2.0, 1e4])
@pytest.mark.parametrize("link", GAPS, ids=ids)
def test_gaps_are_symmetric_finite_and_know_their_slope(link, gap):
    z = torch.cat([Z, torch.tensor([-1e4, 1e4], dtype=Z.dtype)])
    gaps = torch.full_like(z, gap)
    torch.testing.assert_close(link(z, gaps), link(-z, -gaps), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(link.slope(z, gaps), gradient(link, z, gaps), rtol=1e-9, atol=1e-11)
    single = z.float().requires_grad_()
    loss = link(single, gaps.float())
    assert torch.isfinite(loss).all() and torch.isfinite(torch.autograd.grad(loss.sum(), single)[0]).all()
    assert not link.soft and link.reads_gap


@pytest.mark.parametrize("link", GAPS, ids=ids)
def test_a_gap_that_is_met_costs_nothing(link):
    eta = (link.link if isinstance(link, Weighted) else link).eta
    torch.testing.assert_close(link(eta * Z, Z), torch.zeros_like(Z), rtol=0, atol=1e-13)


def test_a_target_margin_shifts_what_the_link_sees():
    link = Shifted(Logistic(0.1), 1.5)
    torch.testing.assert_close(link(Z, p(1)), Logistic(0.1)(Z - 1.5, p(1)), rtol=0, atol=0)
    torch.testing.assert_close(link.slope(Z, p(1)), gradient(link, Z, p(1)), rtol=1e-12, atol=1e-13)


def test_exact_keeps_the_digits_of_a_small_alpha_in_float32():
    z = torch.zeros(1)
    exact = 0.5 * math.log(0.5 / 0.999) + 0.5 * math.log(0.5 / 1e-3)
    assert ReverseKL(1e-3, exact=True)(z, torch.ones(1)).item() == pytest.approx(exact, abs=3e-7)
    assert abs(ReverseKL(1e-3)(z, torch.ones(1)).item() - exact) > 5e-6


@pytest.mark.parametrize("make, words", [
    (lambda: Logistic(0.5), "label_smoothing.*0.5"), (lambda: Logistic(-0.1), "label_smoothing.*-0.1"), (lambda: Squared(0.0), "tau.*0.0"),
    (lambda: Squared(1.0, 0.5), "label_smoothing.*0.5"), (lambda: ReverseKL(0.0), "alpha.*0.0"), (lambda: ReverseKL(0.5), "alpha.*0.5"),
    (lambda: Weighted(Logistic(), 0.0), "positive and finite; got 0.0"), (lambda: Robust(0.5), "label_smoothing.*0.5"),
    (lambda: DiscoPOP(1.5), r"tau.*\(0, 1\]; got 1.5"), (lambda: GapKL(0.0), "eta.*got 0.0"),
    (lambda: Shifted(Logistic(), math.inf), "gamma must be finite"),
])
def test_refusals(make, words):
    with pytest.raises(ValueError, match=words):
        make()
