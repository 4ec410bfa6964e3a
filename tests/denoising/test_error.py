import pytest
import torch

from diffalign import objectives
from diffalign.denoising import denoising_error, denoising_evidence
from diffalign.llm import sequence_evidence
from diffalign.objectives import Comparison, LengthMean, Logistic, PairObjective


def test_mean_over_everything_but_the_batch():
    prediction = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 2.0]]])
    assert denoising_error(prediction, torch.zeros(2, 2, 2)).tolist() == [7.5, 1.0]


def test_mask_is_a_weighted_mean():
    prediction = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    target = torch.zeros(1, 2, 2)
    assert denoising_error(prediction, target, torch.tensor([[[True, False], [False, True]]])).item() == 8.5
    assert denoising_error(prediction, target, torch.tensor([[[1.0], [0.0]]])).item() == 2.5  # broadcasts over the last dimension
    assert denoising_error(prediction, target, torch.tensor([3.0, 1.0])).item() == (3 * 1 + 4 + 3 * 9 + 16) / 8
    torch.testing.assert_close(denoising_error(prediction, target, torch.ones(1, 1, 1)), denoising_error(prediction, target))


def test_what_is_outside_a_mask_does_not_count():
    prediction, target = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(3, 1, 8, 8)
    mask[:, :, 2:5, 1:7] = 1
    inside = denoising_error(prediction, target, mask)
    assert torch.equal(denoising_error(prediction + 9 * (1 - mask), target - 3 * (1 - mask), mask), inside)
    torch.testing.assert_close(inside, denoising_error(prediction[:, :, 2:5, 1:7], target[:, :, 2:5, 1:7]), rtol=1e-6, atol=0)


def test_half_precision_is_cast_up_before_the_difference():
    prediction, target = torch.full((1, 8), 256.0, dtype=torch.bfloat16), torch.full((1, 8), 255.5)
    error = denoising_error(prediction, target)
    assert error.dtype == torch.float32 and error.item() == 0.25  # 255.5 rounds to 256 in bfloat16
    assert denoising_error(prediction.double(), target.double()).dtype == torch.float64


def test_a_sample_does_not_feel_its_neighbours():
    prediction, target = torch.randn(2, 5, 4, 3, generator=torch.Generator().manual_seed(0))
    together = denoising_error(prediction, target)
    assert torch.equal(together, torch.cat([denoising_error(prediction[i : i + 1], target[i : i + 1]) for i in range(5)]))


def test_evidence_is_minus_half_the_error_of_size_one():
    pairs = torch.tensor([[0, 1]])
    policy, reference = torch.tensor([0.5, 1.0], requires_grad=True), torch.tensor([1.0, 2.0], requires_grad=True)
    evidence = denoising_evidence(policy, reference, t=torch.tensor([3, 3]), pairs=pairs)
    assert evidence.policy.tolist() == [-0.25, -0.5] and evidence.reference.tolist() == [-0.5, -1.0]
    assert evidence.size.tolist() == [1.0, 1.0]
    evidence.log_ratio.sum().backward()
    assert policy.grad.tolist() == [-0.5, -0.5] and reference.grad is None
    assert denoising_evidence(policy, t=torch.tensor([3, 3]), pairs=pairs).reference is None


OBJECTIVES = [*(objectives.get(name, beta=0.1) for name in ("dpo", "cdpo", "ipo", "hinge")), PairObjective(LengthMean(), Logistic(), 5.0)]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_text_and_denoising_share_the_objective_byte_for_byte(objective):
    """The same object, fed with log-probabilities and with errors of -2 log p, gives the same losses, metrics and gradients."""
    policy, reference = -10 * torch.rand(2, 6, generator=torch.Generator().manual_seed(0))
    comparison = Comparison.halves(3, probability=torch.tensor([1.0, 0.8, 0.5]), margin=0.1)

    logps = policy.view(6, 1).clone().requires_grad_()
    text = objective(sequence_evidence(logps, torch.ones(6, 1, dtype=torch.bool), reference.view(6, 1)), comparison)
    objectives.reduce(text, 3).backward()

    errors = (-2 * policy).requires_grad_()
    image = objective(denoising_evidence(errors, -2 * reference, t=torch.tensor([1, 2, 3] * 2), pairs=comparison.pairs), comparison)
    objectives.reduce(image, 3).backward()

    assert text.loss.detach().numpy().tobytes() == image.loss.detach().numpy().tobytes()
    assert {k: (v.item(), n) for k, (v, n) in text.metrics.items()} == {k: (v.item(), n) for k, (v, n) in image.metrics.items()}
    assert torch.equal(logps.grad.flatten(), -2 * errors.grad) and logps.grad.abs().max() > 0


TWO = torch.zeros(2)
PAIR = torch.tensor([[0, 1]])


@pytest.mark.parametrize("call, words", [
    (lambda: denoising_evidence(TWO, t=torch.tensor([3, 4]), pairs=PAIR), "pair 0 has t = 3 for the chosen and 4"),
    (lambda: denoising_evidence(TWO, t=torch.tensor([0.25, 0.5]), pairs=PAIR), "pair 0 has t = 0.25 for the chosen and 0.5"),
    (lambda: denoising_evidence(TWO, t=torch.tensor([3]), pairs=PAIR), r"t has shape \(1,\)"),
    (lambda: denoising_evidence(TWO, torch.zeros(3), t=torch.tensor([3, 3]), pairs=PAIR), r"reference has shape \(3,\)"),
    (lambda: denoising_error(torch.zeros(2, 3), torch.zeros(2, 1)), r"\(2, 3\), target \(2, 1\)"),
    (lambda: denoising_error(TWO, TWO), "at least one dimension"),
    (lambda: denoising_error(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([[1], [0]])), "mask"),
    (lambda: denoising_error(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([[1], [-1]])), "mask"),
])
def test_refusals_name_the_value(call, words):
    with pytest.raises(ValueError, match=words):
        call()
