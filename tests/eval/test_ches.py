"""CHES against numbers derived by hand, and what it is for: which pairs a step displaces."""

import numpy as np
import pytest
import torch

from diffalign.eval.diagnostics.ches import ches, least_similar


def test_by_hand():
    """H_w = (1, 2) + (3, 0) = (4, 2), H_l = (1, 1): 6 - 20 = -14. Normalised: (2, 1) and (1, 1): 3 - 5 = -2."""
    chosen, rejected = [[[1.0, 2.0], [3.0, 0.0]]], [[[1.0, 1.0]]]
    assert ches(chosen, rejected).tolist() == [-14.0] and ches(chosen, rejected, normalised=True).tolist() == [-2.0]
    assert ches(torch.tensor(chosen), torch.tensor(rejected)).tolist() == [-14.0]


def test_identities():
    """Equal responses: 0. Orthogonal ones: -|H_w|^2. Twice the states: four times. One more loser like the winner: <H_w, H_w> more."""
    rng = np.random.default_rng(0)
    w, l = rng.normal(size=(5, 8)), rng.normal(size=(3, 8))
    assert ches([w], [w])[0] == pytest.approx(0, abs=1e-12) and ches([w], [w], normalised=True)[0] == pytest.approx(0, abs=1e-12)
    assert ches([[[3.0, 0.0]]], [[[0.0, 7.0]]])[0] == -9.0
    for normalised in (False, True):
        once = ches([w], [l], normalised=normalised)[0]
        assert ches([2 * w], [2 * l], normalised=normalised)[0] == pytest.approx(4 * once)
        order = ches([w[::-1]], [l[::-1]], normalised=normalised)[0]
        assert order == pytest.approx(once), "sums forget the order of tokens"
    total = w.sum(0)
    assert ches([w], [np.vstack([l, total])])[0] == pytest.approx(ches([w], [l])[0] + total @ total)


def test_responses_of_any_lengths_are_scored_apart():
    rng = np.random.default_rng(1)
    chosen, rejected = ([rng.normal(size=(n, 4)) for n in lengths] for lengths in ((1, 6, 3), (4, 2, 3)))
    together = ches(chosen, rejected)
    assert together.tolist() == [ches([w], [l])[0] for w, l in zip(chosen, rejected, strict=True)]


def test_the_higher_the_more_of_the_chosen_a_step_takes():
    """One position, softmax over four tokens of a matrix of scores E h: a DPO step on E for chosen token a after state h_w and rejected b
    after h_l changes log p(a | h_w) by |h_w|^2 |e_a - p_w|^2 - <h_w, h_l> <e_a - p_w, e_b - p_l>. At uniform p and a != b the last product
    is -1/V < 0, for a = b it is 1 - 1/V = |e_a - p|^2: there the change is -(1 - 1/V) CHES exactly."""
    vocabulary = 4
    h_w, h_l = torch.tensor([1.0, 0.5, -0.2]), torch.tensor([1.5, 0.4, 0.3])
    for hidden in (h_l, -h_l, h_w):
        scores = torch.zeros(vocabulary, 3, requires_grad=True)
        chosen, rejected = (torch.log_softmax(scores @ h, 0)[2] for h in (h_w, hidden))
        (step,) = torch.autograd.grad(chosen - rejected, scores)
        size = 1e-4
        with torch.no_grad():
            after = torch.log_softmax((scores + size * step).double() @ h_w.double(), 0)[2]
        change = (after.item() + np.log(vocabulary)) / size
        assert change == pytest.approx(-(1 - 1 / vocabulary) * ches([h_w[None]], [hidden[None]])[0], abs=2e-3)


def test_the_filter_keeps_the_lowest():
    assert least_similar([3.0, -1.0, 2.0, -5.0, 0.0], 0.4).tolist() == [1, 3]
    assert least_similar([3.0, -1.0], 0.05).tolist() == [1] and least_similar([1.0, 1.0], 1.0).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ches([[[1.0]]], []), "1 chosen and 0 rejected"),
        (lambda: ches([], []), "one at least"),
        (lambda: ches([[[1.0]]], [[[1.0, 2.0]]]), "width 1 and 2"),
        (lambda: ches([[1.0, 2.0]], [[[1.0]]]), "chosen 0 has hidden states of shape"),
        (lambda: ches([np.zeros((0, 3))], [np.zeros((1, 3))]), "at least one token"),
        (lambda: ches([[[1.0]]], [[[np.inf]]]), "not finite"),
        (lambda: least_similar([1.0], 0.0), "share is 0"),
        (lambda: least_similar([np.nan], 0.5), "1 NaN"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
