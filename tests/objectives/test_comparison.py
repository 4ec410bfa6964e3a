import pytest
import torch

from diffalign.objectives import Comparison

ONE = torch.tensor([[0, 1]])


def test_halves_is_the_layout_of_a_pair_batch():
    comparison = Comparison.halves(3, probability=0.75)
    assert comparison.pairs.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert comparison.probability.tolist() == [0.75] * 3
    assert comparison.weight.tolist() == comparison.scale.tolist() == [1.0] * 3
    assert comparison.margin.tolist() == [0.0] * 3
    assert comparison.rows == 6


def test_an_empty_comparison_is_allowed():
    assert Comparison.halves(0).rows == 0 and Comparison.halves(0).weight.shape == (0,)


def test_beside_moves_every_tensor_and_casts_the_labels():
    moved = Comparison.halves(2, margin=0.5).beside(torch.zeros(1, dtype=torch.float64, device="meta"))
    assert {moved.pairs.device.type, moved.probability.device.type, moved.margin.device.type} == {"meta"} and moved.rows == 4
    assert moved.pairs.dtype == torch.int64 and moved.weight.dtype == torch.float64


def test_labels_carry_no_gradient_and_keep_float64():
    comparison = Comparison(ONE, weight=torch.ones(1, requires_grad=True), probability=torch.ones(1, dtype=torch.float64))
    assert not comparison.weight.requires_grad and comparison.probability.dtype == torch.float64


@pytest.mark.parametrize("make, words", [
    (lambda: Comparison(torch.tensor([0, 1])), r"\(P, 2\).*\(2,\)"),
    (lambda: Comparison(ONE.int()), "int64.*torch.int32"),
    (lambda: Comparison(torch.tensor([[0, -1]])), "smallest given is -1"),
    (lambda: Comparison(torch.tensor([[0, 1], [2, 2]])), "row 2 is compared with itself"),
    (lambda: Comparison(ONE, probability=1.5), r"probability must lie in \[0, 1\].*1.5"),
    (lambda: Comparison(ONE, probability=-0.5), r"probability must lie in \[0, 1\].*-0.5"),
    (lambda: Comparison(ONE, weight=-1.0), "weight must be at least 0.*swap"),
    (lambda: Comparison(ONE, margin=float("nan")), "margin must be finite"),
    (lambda: Comparison(ONE, scale=torch.ones(2)), r"scale.*\(1,\).*\(2,\)"),
])
def test_refusals_name_the_value(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_given_names_the_labels_that_say_something():
    assert Comparison.halves(2).given == frozenset() and not Comparison.halves(2).soft
    said = Comparison.halves(2, probability=torch.tensor([1.0, 0.7]), margin=0.1)
    assert said.given == {"probability", "margin"} and said.soft
    assert Comparison.halves(2, weight=0.5, scale=torch.tensor([1.0, 2.0])).given == {"weight", "scale"}
    assert said.beside(torch.zeros(4, dtype=torch.float64)).given == said.given
