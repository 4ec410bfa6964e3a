import pytest
import torch

from diffalign.objectives import Evidence


@pytest.mark.parametrize("dtype, expected", [(torch.float16, torch.float32), (torch.bfloat16, torch.float32),
                                             (torch.float32, torch.float32), (torch.float64, torch.float64)])
def test_half_precision_is_cast_up_and_float64_stays(dtype, expected):
    x = torch.tensor([1.0, 2.0], dtype=dtype)
    evidence = Evidence(x, x, size=torch.tensor([3, 4]), extra={"inner": x})
    assert evidence.policy.dtype == evidence.reference.dtype == evidence.log_ratio.dtype == evidence.extra["inner"].dtype == expected
    assert evidence.size.dtype == torch.float32


def test_log_ratio_of_bfloat16_is_taken_in_float32():
    policy, reference = torch.tensor([-300.0], dtype=torch.bfloat16), torch.tensor([-301.5], dtype=torch.float32)
    assert Evidence(policy, reference).log_ratio.item() == 1.5  # in bfloat16 the difference would be 0 or 2


def test_no_gradient_reaches_the_reference():
    policy, reference = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    Evidence(policy, reference).log_ratio.sum().backward()
    assert policy.grad.tolist() == [1.0, 1.0] and reference.grad is None


def test_extra_keeps_its_gradient():
    inner = torch.zeros(2, requires_grad=True)
    assert Evidence(torch.zeros(2), extra={"inner": inner}).extra["inner"].requires_grad


@pytest.mark.parametrize("make, words", [
    (lambda: Evidence(torch.zeros(2, 3)), r"shape \(N,\).*\(2, 3\)"),
    (lambda: Evidence(torch.zeros(2, dtype=torch.int64)), "policy is torch.int64"),
    (lambda: Evidence(torch.zeros(2), torch.zeros(3)), r"reference has shape \(3,\)"),
    (lambda: Evidence(torch.zeros(2), size=torch.ones(3)), r"size has shape \(3,\)"),
    (lambda: Evidence(torch.zeros(2)).log_ratio, "reference=None.*reference-free"),
])
def test_refusals_name_the_value(make, words):
    with pytest.raises(ValueError, match=words):
        make()
