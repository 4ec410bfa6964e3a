"""Numbers from the outputs: by hand, and as the gradients they stand for."""

import pytest
import torch

from diffalign.denoising import denoising_error, denoising_evidence, outputs
from diffalign.objectives import Comparison
from diffalign.objectives.extras import EXTRAS

PAIRS = Comparison.halves(2).pairs


def batch(dtype=torch.float64):
    return torch.randn(3, 4, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def test_by_hand():
    prediction, target, reference = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]]), torch.tensor([[3.0, 1.0]])
    assert outputs.drift(prediction, reference).tolist() == [2.5]  # (4 + 1) / 2
    assert outputs.cross(prediction, target, reference).tolist() == [-2.0]  # (1 * -2 + -2 * 1) / 2
    mask = torch.tensor([[3.0, 1.0]])
    assert outputs.drift(prediction, reference, mask).tolist() == [13 / 4]
    assert outputs.cross(prediction, target, reference, mask).tolist() == [-2.0]


def test_drift_and_cross_make_the_square_of_a_mixture():
    prediction, target, reference = batch()
    prediction.requires_grad_()
    for w in (0.0, 0.3, -2.0):
        square = ((prediction - target - w * (prediction - reference)) ** 2).flatten(1).mean(1)
        parts = (denoising_error(prediction, target) - 2 * w * outputs.cross(prediction, target, reference)
                 + w**2 * outputs.drift(prediction, reference))
        torch.testing.assert_close(parts, square, rtol=1e-12, atol=1e-12)
        (a,), (b,) = (torch.autograd.grad(x.sum(), prediction) for x in (parts, square))
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_only_the_prediction_gets_a_gradient():
    prediction, target, reference = (x.requires_grad_() for x in batch().unbind())
    (outputs.drift(prediction, reference) + outputs.cross(prediction, target, reference)).sum().backward()
    assert prediction.grad.abs().max() > 0 and target.grad is None and reference.grad is None
    assert not outputs.balance(prediction, target, PAIRS).requires_grad


def test_they_vanish_while_policy_and_reference_agree():
    prediction, target, _ = batch()
    assert outputs.drift(prediction, prediction).abs().max() == 0 and outputs.cross(prediction, target, prediction).abs().max() == 0


def test_half_precision_is_cast_up_before_the_difference():
    prediction, target = torch.full((1, 8), 256.0, dtype=torch.bfloat16), torch.full((1, 8), 255.5)
    assert outputs.drift(prediction, target).item() == outputs.cross(prediction, target, target).item() == 0.25


@pytest.mark.parametrize("chosen, rejected, mu, expected", [
    ([2.0, 0.0], [4.0, 1.0], 0.9, 0.1 * 4 / 8),  # aligned: the share
    ([2.0, 0.0], [0.1, 1.0], 0.9, 1.0),  # 0.1 * 4 / 0.2 = 2, clamped
    ([2.0, 0.0], [-4.0, 1.0], 0.9, 1.0),  # opposed: nothing to guard against
    ([2.0, 0.0], [0.0, 1.0], 0.9, 1.0),  # orthogonal
    ([2.0, 0.0], [4.0, 1.0], 1.0, 0.0),
])
def test_balance_by_hand(chosen, rejected, mu, expected):
    target = torch.tensor([[1.0, 1.0], [5.0, -1.0]])
    share = outputs.balance(target + torch.tensor([chosen, rejected]), target, torch.tensor([[0, 1]]), mu)
    assert share.shape == (1,) and share.item() == pytest.approx(expected)


def test_balance_keeps_the_winner_from_rising():
    """A step down gA - balance gB lowers the winner's error by at least mu |gA|^2, to first order, whatever the two gradients are."""
    prediction, target, _ = batch()
    prediction[2:] = prediction[:2] + 0.3 * prediction[2:]  # let some gradients point the same way
    prediction.requires_grad_()
    (gradient,) = torch.autograd.grad(denoising_error(prediction, target).sum(), prediction)
    chosen, rejected = gradient[PAIRS.T].flatten(2)
    for mu in (0.0, 0.5, 0.9):
        share = outputs.balance(prediction, target, PAIRS, mu)
        descent = (chosen * (chosen - share[:, None] * rejected)).sum(1)
        assert (descent >= mu * (chosen**2).sum(1) - 1e-12).all()


def test_a_masked_balance_is_of_the_masked_errors_gradients():
    """By autograd, with masks of other sums for the two sides; and what is outside the masks is not read."""
    prediction, target, _ = batch()
    mask = torch.zeros(4, 2, 3, dtype=torch.float64)
    mask[:, 0], mask[:2, 1, 0] = 1.0, 0.5
    prediction.requires_grad_()
    (gradient,) = torch.autograd.grad(denoising_error(prediction, target, mask).sum(), prediction)
    chosen, rejected = gradient[PAIRS.T].flatten(2)
    along = (chosen * rejected).sum(1)
    expected = torch.where(along > 0, (0.1 * (chosen**2).sum(1) / along).clamp(0, 1), 1.0)
    torch.testing.assert_close(outputs.balance(prediction, target, PAIRS, mask=mask), expected)
    moved = prediction.detach() + 7 * (mask == 0)
    assert torch.equal(outputs.balance(moved, target, PAIRS, mask=mask), outputs.balance(prediction, target, PAIRS, mask=mask))
    assert not torch.equal(outputs.balance(moved, target, PAIRS), outputs.balance(prediction, target, PAIRS))
    torch.testing.assert_close(outputs.balance(prediction, target, PAIRS, mask=torch.ones(1)), outputs.balance(prediction, target, PAIRS))


def test_what_an_objective_needs_is_measured_and_nothing_else():
    prediction, target, reference = batch()
    mask = torch.linspace(0, 1, 24, dtype=torch.float64).view(4, 2, 3)
    needs = {"reference", "extra:cross", "extra:drift", "extra:joint"}
    found = outputs.measured(needs, prediction, target, reference, PAIRS, mask)
    assert found.keys() == {"drift", "cross"}
    assert torch.equal(found["drift"], outputs.drift(prediction, reference, mask))
    assert torch.equal(found["cross"], outputs.cross(prediction, target, reference, mask))
    (share,) = outputs.measured({"extra:balance"}, prediction, target, None, PAIRS).values()
    assert torch.equal(share, outputs.balance(prediction, target, PAIRS))
    assert outputs.measured({"size"}, prediction, target, None, PAIRS) == {} and set(outputs.MEASURES) <= set(EXTRAS)


def test_they_travel_with_the_evidence():
    prediction, target, reference = batch()
    extra = {"drift": outputs.drift(prediction, reference), "balance": outputs.balance(prediction, target, PAIRS)}
    error, t = denoising_error(prediction, target), torch.tensor([1, 2, 1, 2])
    evidence = denoising_evidence(error, t=t, pairs=PAIRS, extra=extra)
    assert evidence.extra.keys() == extra.keys() and all(torch.equal(evidence.extra[key], extra[key]) for key in extra)
    assert denoising_evidence(error, t=t, pairs=PAIRS).extra == {}


@pytest.mark.parametrize("call, words", [
    (lambda: outputs.drift(torch.zeros(2, 3), torch.zeros(2, 1)), r"\(2, 3\), target \(2, 1\)"),
    (lambda: outputs.cross(torch.zeros(2, 3), torch.zeros(2, 1), torch.zeros(2, 3)), r"\(2, 1\), \(2, 3\)"),
    (lambda: outputs.cross(*torch.zeros(3, 2)), "at least one dimension"),
    (lambda: outputs.balance(torch.zeros(2, 3), torch.zeros(2, 1), torch.tensor([[0, 1]])), r"\(2, 3\), target \(2, 1\)"),
    (lambda: outputs.balance(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([[0, 1]]), mu=1.1), r"\[0, 1\]; got 1.1"),
    (lambda: denoising_evidence(torch.zeros(4), t=torch.zeros(4), pairs=PAIRS, extra={"dip": torch.zeros(3)}), r"'dip' has shape \(3,\)"),
])
def test_refusals_name_the_value(call, words):
    with pytest.raises(ValueError, match=words):
        call()
