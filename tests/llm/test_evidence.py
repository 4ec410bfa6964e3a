import pytest
import torch

from diffalign.llm import sequence_evidence

LOGPS = torch.tensor([[-1.0, -2.0, -4.0], [-8.0, -16.0, -32.0]])
MASK = torch.tensor([[True, True, False], [False, True, True]])


def test_sums_over_the_mask_and_counts_it():
    evidence = sequence_evidence(LOGPS, MASK, LOGPS / 2)
    assert evidence.policy.tolist() == [-3.0, -48.0] and evidence.reference.tolist() == [-1.5, -24.0]
    assert evidence.size.tolist() == [2.0, 2.0] and sequence_evidence(LOGPS, MASK).reference is None


@pytest.mark.parametrize("padding", [float("-inf"), float("nan"), 1e30])
def test_padding_is_never_read(padding):
    logps = LOGPS.masked_fill(~MASK, padding).requires_grad_()
    evidence = sequence_evidence(logps, MASK.int())
    evidence.policy.sum().backward()
    assert evidence.policy.tolist() == [-3.0, -48.0] and torch.equal(logps.grad, MASK.float())
    longer = torch.nn.functional.pad(LOGPS, (0, 5), value=padding)
    assert sequence_evidence(longer, torch.nn.functional.pad(MASK, (0, 5))).policy.tolist() == [-3.0, -48.0]


def test_bfloat16_is_summed_in_float32():
    logps = torch.full((1, 1000), -1.0, dtype=torch.bfloat16)  # a bfloat16 sum would stop at -256
    assert sequence_evidence(logps, torch.ones(1, 1000)).policy.item() == -1000.0


def test_float64_stays_and_the_reference_gets_no_gradient():
    reference = LOGPS.double().requires_grad_()
    evidence = sequence_evidence(LOGPS.double(), MASK, reference)
    assert evidence.policy.dtype == torch.float64 and not evidence.reference.requires_grad


@pytest.mark.parametrize("call, words", [
    (lambda: sequence_evidence(LOGPS, torch.tensor([[1, 0, 0], [0, 0, 0]])), r"responses \[1\] have no token"),
    (lambda: sequence_evidence(LOGPS, MASK * 0.5), "zeros and ones"),
    (lambda: sequence_evidence(LOGPS, MASK[:, :2]), r"mask has shape \(2, 2\)"),
    (lambda: sequence_evidence(LOGPS, MASK, LOGPS[:1]), r"reference_logps has shape \(1, 3\)"),
    (lambda: sequence_evidence(LOGPS[0], MASK[0]), r"\(N, T\)"),
])
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words):
        call()
