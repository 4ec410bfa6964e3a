"""Chunked log-probabilities against the plain ones, in value and gradient, and what they hold in memory."""

import pytest
import torch
from torch import nn

from diffalign.llm import logprobs
from diffalign.llm.logprobs import Head, States, plain_logps

VARIANTS = {"plain": (1.0, None, False), "bias and scale": (0.7, None, True), "cap": (1.0, 3.0, False), "all": (1.3, 2.0, True)}


@pytest.fixture
def numbers():
    generator = torch.Generator().manual_seed(0)
    return {
        "hidden": torch.randn(11, 8, generator=generator, dtype=torch.float64) * 3,
        "targets": torch.randint(0, 37, (11,), generator=generator),
        "upstream": torch.randn(11, generator=generator, dtype=torch.float64),
    }


def head(variant: str, dtype=torch.float64) -> Head:
    scale, cap, bias = VARIANTS[variant]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Head(nn.Linear(8, 37, bias=bias, dtype=dtype), scale, cap)


def both(made: Head, numbers: dict, chunk: int | None):
    """(log-probabilities, gradients of their weighted sum) by the plain way and by chunks."""
    found = []
    for way in (lambda h: plain_logps(made.logits(h), numbers["targets"]), lambda h: made.logps(h, numbers["targets"], chunk)[0]):
        hidden = numbers["hidden"].clone().requires_grad_()
        logps = way(hidden)
        found.append((logps.detach(), torch.autograd.grad((logps * numbers["upstream"]).sum(), [hidden, *made.linear.parameters()])))
    return found


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("chunk", [1, 4, 11, 100, None])
@pytest.mark.parametrize("at_once", [1, 30, 2**23])
def test_chunks_are_the_plain_computation(variant, chunk, at_once, numbers, monkeypatch):
    """Positions by words: of 11 by 37 as many as there may be at once, one alone at the least."""
    monkeypatch.setattr(logprobs, "CHUNK_LOGITS", at_once)
    (plain, of_plain), (chunked, of_chunked) = both(head(variant), numbers, chunk)
    assert (plain - chunked).abs().max() < 1e-12
    for a, b in zip(of_plain, of_chunked, strict=True):
        assert (a - b).abs().max() < 1e-12


def test_two_tokens_by_hand():
    made = Head(nn.Linear(1, 2, bias=False, dtype=torch.float64))
    made.linear.weight.data = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    hidden = torch.tensor([[0.0], [2.0]], dtype=torch.float64, requires_grad=True)
    logps, _ = made.logps(hidden, torch.tensor([0, 1]))
    logps.sum().backward()
    # log(1/2), and log sigma(2) with slope 1 - sigma(2) = 0.11920292202211755 in its logit; the first pulls by -1/2
    assert logps.tolist() == pytest.approx([-0.6931471805599453, -0.1269280110429725], abs=1e-15)
    assert hidden.grad.flatten().tolist() == pytest.approx([-0.5, 0.11920292202211755], abs=1e-15)


@pytest.mark.parametrize("at_once", [20, 2**23])
def test_the_sum_of_squares(at_once, numbers, monkeypatch):
    monkeypatch.setattr(logprobs, "CHUNK_LOGITS", at_once)
    made = head("all")
    _, squares = made.logps(numbers["hidden"].requires_grad_(), numbers["targets"], 4)
    probabilities = made.logits(numbers["hidden"]).softmax(1)
    assert (squares - probabilities.square().sum(1).log()).abs().max() < 1e-12 and not squares.requires_grad


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("chunk", [1, 4, None])
def test_the_divergence_of_whole_distributions(variant, chunk, numbers):
    """KL(other || pi) with gradient to the policy alone, against torch's own."""
    made, other = head(variant), head(variant)
    other.linear.weight.data += 0.3
    elsewhere = numbers["hidden"] * 0.5 + 0.1
    found = []
    for way in ("chunks", "plain"):
        hidden = numbers["hidden"].clone().requires_grad_()
        mine, its = (States(h, m.linear.weight, m.linear.bias) for h, m in ((hidden, made), (elsewhere, other)))
        if way == "chunks":
            kl = made.divergence(mine, its, chunk)
        else:
            log_pi, log_other = made.logits(hidden).log_softmax(1), other.logits(elsewhere).log_softmax(1).detach()
            kl = nn.functional.kl_div(log_pi, log_other, reduction="none", log_target=True).sum(1)
        found.append((kl.detach(), torch.autograd.grad((kl * numbers["upstream"]).sum(), [hidden, *made.linear.parameters()])))
    assert (found[0][0] - found[1][0]).abs().max() < 1e-12 and (found[1][0] > 0).all()
    for a, b in zip(found[0][1], found[1][1], strict=True):
        assert (a - b).abs().max() < 1e-12
    states = States(numbers["hidden"], made.linear.weight, made.linear.bias)
    assert made.divergence(states, states).abs().max() < 1e-14


def test_huge_logits_stay_finite():
    made = head("plain", torch.float32)
    hidden = torch.full((2, 8), 1e5, requires_grad=True)
    logps, _ = made.logps(hidden, torch.tensor([0, 36]))
    logps.sum().backward()
    assert torch.isfinite(logps).all() and torch.isfinite(hidden.grad).all()


def test_half_precision_gives_float32_from_float32_sums(numbers):
    made = head("plain", torch.bfloat16)
    hidden = numbers["hidden"].bfloat16()
    chunked, plain = made.logps(hidden, numbers["targets"], 3)[0], plain_logps(made.logits(hidden), numbers["targets"])
    assert chunked.dtype == torch.float32 and (chunked - plain).abs().max() < 1e-5


def test_autocast_reaches_the_head_in_both_directions(numbers):
    made, hidden = head("plain", torch.float32), numbers["hidden"].float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        logps, _ = made.logps(hidden, numbers["targets"])
    logps.sum().backward()
    rounded = Head(nn.Linear(8, 37, bias=False, dtype=torch.bfloat16))
    rounded.linear.weight.data = made.linear.weight.data.bfloat16()
    assert torch.equal(logps.detach(), rounded.logps(hidden.detach().bfloat16(), numbers["targets"])[0])
    assert made.linear.weight.grad.dtype == torch.float32 and hidden.grad.dtype == torch.float32


def test_a_frozen_head_gets_no_gradient_and_no_weight_of_it_is_made(numbers):
    made = head("plain")
    made.linear.requires_grad_(False)
    hidden = numbers["hidden"].clone().requires_grad_()
    made.logps(hidden, numbers["targets"])[0].sum().backward()
    assert made.linear.weight.grad is None and hidden.grad.abs().sum() > 0


def test_no_tensor_as_large_as_all_logits_is_made():
    """By the shapes of everything that torch makes on the way, forward and back."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        rows = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else (out,):
                if isinstance(tensor, torch.Tensor) and tensor.ndim == 2 and tensor.shape[1] == 997:
                    self.rows = max(self.rows, tensor.shape[0])
            return out

    made = Head(nn.Linear(4, 997, bias=False))
    hidden, targets = torch.randn(64, 4, requires_grad=True), torch.arange(64)
    with Largest() as largest:
        made.logps(hidden, targets, 5)[0].sum().backward()
    assert largest.rows == 5
    with Largest() as largest:
        plain_logps(made.logits(hidden), targets).sum().backward()
    assert largest.rows == 64


@pytest.mark.parametrize("call, words", [
    (lambda made: made.logps(torch.zeros(2, 3, 8), torch.zeros(2, 3, dtype=torch.int64)), r"hidden must be \(M, H\)"),
    (lambda made: made.logps(torch.zeros(2, 8), torch.zeros(3, dtype=torch.int64)), r"targets \(M,\); got \(2, 8\) and \(3,\)"),
    (lambda made: made.logps(torch.zeros(2, 8), torch.zeros(2, dtype=torch.int64), 0), "chunk is 0"),
])  # fmt: skip
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words):
        call(head("plain", torch.float32))


def test_no_position_gives_no_number():
    made = head("plain", torch.float32)
    assert made.logps(torch.zeros(0, 8, requires_grad=True), torch.zeros(0, dtype=torch.int64))[0].shape == (0,)
