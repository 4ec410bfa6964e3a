r"""Log-probabilities of chosen tokens without the logits of all of them: a head applied to a few positions at a time, twice.

    log pi(y | h) = l_y - log sum_v exp l_v,        l = f(W h + b),   f(x) = c tanh(s x / c), or s x without a cap c

The forward pass keeps one number a position (the log of the sum); the backward pass computes the logits of a chunk again and turns them
into their gradient in place, dl_v = g (1[v = y] - pi(v | h)) f'. A chunk is some positions by some words (the sum over words is kept with
its largest exponent so far), so of a [batch, length, vocabulary] tensor that much exists at a time; prompts never get logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffalign.objectives.evidence import upcast

CHUNK_LOGITS = 2**23  # logits that exist at once: 32 MiB in float32
CHUNK_ROWS = 2048  # positions of a chunk unless said otherwise; so many words of theirs at a time as make CHUNK_LOGITS


class States(NamedTuple):
    """What a distribution over the vocabulary at M positions is made of: (M, H) hidden states, and the head's weight and bias."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class Head:
    """From hidden states to logits: a linear layer, a factor and a soft cap.

    Args:
        linear: the output embedding, (vocabulary, hidden) with or without a bias.
        scale: multiplies the logits (Cohere's ``logit_scale``, one over Granite's ``logits_scaling``).
        cap: c of c tanh(x / c), after the scale (Gemma 2's ``final_logit_softcapping``); None for no cap.
    """

    linear: nn.Linear
    scale: float = 1.0
    cap: float | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., vocabulary) in the layer's own (or autocast's) dtype."""
        logits = F.linear(hidden, self.linear.weight, self.linear.bias) * self.scale  # by the weights, as the chunks do it
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)

    def logps(self, hidden: Tensor, targets: Tensor, chunk: int | None = None) -> tuple[Tensor, Tensor]:
        """(M,) log-probability of each target, in nats, float32 (float64 where the layer is), and (M,) log sum_v pi(v)^2 of each
        position's whole distribution, without gradient.

        Args:
            hidden: (M, H) last hidden states of the positions that predict the targets. targets: (M,) int64.
            chunk: positions whose logits exist at once, of as many words as make 32 MiB in float32; default 2048.

        Raises:
            ValueError: a chunk below 1, or shapes that do not match.
        """
        if hidden.ndim != 2 or targets.shape != hidden.shape[:1]:
            raise ValueError(f"hidden must be (M, H) and targets (M,); got {tuple(hidden.shape)} and {tuple(targets.shape)}")
        settings = (self.scale, self.cap, _rows(chunk, CHUNK_ROWS), self._dtype(hidden))
        return _ChunkedLogps.apply(hidden, self.linear.weight, self.linear.bias, targets, *settings)

    def divergence(self, states: States, other: States, chunk: int | None = None) -> Tensor:
        """(M,) KL(other || pi) over the whole vocabulary at M positions, in nats; the gradient goes to ``states`` and so to the head.

        Args:
            states, other: of the policy and of what it is compared with, of the same positions.
        """
        rows = min(_rows(chunk, CHUNK_ROWS), max(1, CHUNK_LOGITS // len(states.weight)))  # of all words at once
        settings = (self.scale, self.cap, rows, self._dtype(states.hidden))
        return _ChunkedDivergence.apply(*states, *(None if value is None else value.detach() for value in other), *settings)

    def _dtype(self, hidden: Tensor) -> torch.dtype:
        device = hidden.device.type
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.linear.weight.dtype


def _rows(chunk: int | None, default: int) -> int:
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk is {chunk}; it must be at least 1 position")
    return default if chunk is None else chunk


def plain_logps(logits: Tensor, targets: Tensor) -> Tensor:
    """(...,) the same from logits that are there anyway: (..., V) and (...,) int64."""
    return upcast(logits).log_softmax(-1).gather(-1, targets[..., None]).squeeze(-1)


class _ChunkedLogps(torch.autograd.Function):
    """Autograd's view of ``Head.logps``. Second derivatives do not exist."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, scale, cap, chunk, dtype):
        kept = hidden.new_empty(len(hidden), dtype=torch.float64 if dtype == torch.float64 else torch.float32)
        picked, squares = torch.empty_like(kept), torch.empty_like(kept)
        blocks = _Blocks(hidden, weight, bias, scale, cap, chunk, dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in _chunks(len(hidden), chunk):
                largest = torch.full_like(kept[rows], -torch.inf)
                total, doubled = torch.zeros_like(largest), torch.zeros_like(largest)
                for words in blocks.words:
                    logits, _ = blocks.logits(rows, words)
                    place, inside = _place(targets[rows], words)
                    picked[rows] = torch.where(inside, logits.gather(1, place).squeeze(1), picked[rows])
                    largest, before = torch.maximum(largest, logits.amax(1)), largest
                    shrunk = (before - largest).exp_()
                    total = total.mul_(shrunk).add_(logits.sub_(largest[:, None]).exp_().sum(1))
                    doubled = doubled.mul_(shrunk.square_()).add_(logits.square_().sum(1))
                total.log_()
                kept[rows], squares[rows] = largest + total, doubled.log_() - 2 * total
        ctx.save_for_backward(hidden, weight, bias, targets, kept)
        ctx.settings = scale, cap, chunk, dtype
        ctx.mark_non_differentiable(squares)
        return picked - kept, squares

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient, _):
        hidden, weight, bias, targets, kept = ctx.saved_tensors
        scale, cap, chunk, dtype = ctx.settings
        wanted, blocks = _Gradients(ctx, hidden, weight, bias), _Blocks(hidden, weight, bias, scale, cap, chunk, dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in _chunks(len(hidden), chunk):
                g = gradient[rows, None].to(kept.dtype)
                for words in blocks.words:
                    logits, slope = blocks.logits(rows, words, slopes=True)
                    place, inside = _place(targets[rows], words)
                    logits.sub_(kept[rows, None]).exp_().mul_(-g).scatter_add_(1, place, g * inside[:, None])
                    wanted.add(rows, words, logits, slope, scale, dtype)
        return wanted.hidden_gradient(), wanted.of_weight, wanted.of_bias, None, None, None, None, None


class _Blocks:
    """Logits of some positions and some words at a time, all in one piece of memory: fresh pages cost a CPU as much as the product."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, scale: float, cap: float | None, chunk: int, dtype):
        self.states, self.weight, self.bias, self.bend, self.dtype = hidden, weight, bias, (scale, cap), dtype
        chunk = max(1, min(chunk, len(hidden)))
        block = min(len(weight), max(1, CHUNK_LOGITS // chunk))
        self.words = list(_chunks(len(weight), block))
        self.memory = hidden.new_empty(chunk * block, dtype=dtype)

    def logits(self, rows: slice, words: slice, slopes: bool = False) -> tuple[Tensor, Tensor | None]:
        """As ``_logits``, of the words alone; gone with the next call."""
        states, weight = self.states[rows].to(self.dtype), self.weight[words].to(self.dtype)
        out = self.memory[: len(states) * len(weight)].view(len(states), len(weight))
        if self.bias is None:
            torch.mm(states, weight.T, out=out)
        else:
            torch.addmm(self.bias[words].to(self.dtype), states, weight.T, out=out)
        return _bent(upcast(out), *self.bend, slopes)


def _place(targets: Tensor, words: slice) -> tuple[Tensor, Tensor]:
    """(rows, 1) where among the words a target is, anywhere if it is not among them, and (rows,) whether it is."""
    place = targets - words.start
    return place.clamp(0, words.stop - words.start - 1)[:, None], (place >= 0) & (place < words.stop - words.start)


class _ChunkedDivergence(torch.autograd.Function):
    """Autograd's view of ``Head.divergence``:  d KL / d l_v = pi(v) - other(v)."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, other_hidden, other_weight, other_bias, scale, cap, chunk, dtype):
        found = hidden.new_empty(len(hidden), dtype=torch.float64 if dtype == torch.float64 else torch.float32)
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in _chunks(len(hidden), chunk):
                logits, _ = _logits(hidden[rows], weight, bias, scale, cap, dtype)
                other, _ = _logits(other_hidden[rows], other_weight, other_bias, scale, cap, dtype)
                other, gap = other.log_softmax(1), logits.log_softmax(1)
                found[rows] = gap.sub_(other).mul_(other.exp_()).sum(1).neg_()
        ctx.save_for_backward(hidden, weight, bias, other_hidden, other_weight, other_bias)
        ctx.settings = scale, cap, chunk, dtype
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        hidden, weight, bias, other_hidden, other_weight, other_bias = ctx.saved_tensors
        scale, cap, chunk, dtype = ctx.settings
        wanted = _Gradients(ctx, hidden, weight, bias)
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in _chunks(len(hidden), chunk):
                logits, slope = _logits(hidden[rows], weight, bias, scale, cap, dtype, slopes=True)
                other, _ = _logits(other_hidden[rows], other_weight, other_bias, scale, cap, dtype)
                logits = logits.softmax(1).sub_(other.softmax(1)).mul_(gradient[rows, None].to(logits.dtype))
                wanted.add(rows, slice(None), logits, slope, scale, dtype)
        return wanted.hidden_gradient(), wanted.of_weight, wanted.of_bias, None, None, None, None, None, None, None


class _Gradients:
    """Gradients of hidden states, weight and bias, as far as they are wanted, added up from those of the logits of one block at a time."""

    def __init__(self, ctx, hidden: Tensor, weight: Tensor, bias: Tensor | None):
        self.hidden, self.weight = hidden, weight
        sums = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        self.of_hidden = torch.zeros_like(hidden, dtype=sums) if ctx.needs_input_grad[0] else None
        self.of_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        self.of_bias = torch.zeros_like(bias) if ctx.needs_input_grad[2] else None

    def add(self, rows: slice, words: slice, logits: Tensor, slope: Tensor | None, scale: float, dtype: torch.dtype) -> None:
        """``logits``: (rows, words) gradients of what follows factor and cap, changed in place."""
        if slope is not None:
            logits.mul_(slope)
        logits = logits.mul_(scale).to(dtype) if scale != 1 else logits.to(dtype)
        if self.of_hidden is not None:
            _add_product(self.of_hidden[rows], logits, self.weight[words].to(dtype))
        if self.of_weight is not None:
            _add_product(self.of_weight[words], logits.T, self.hidden[rows].to(dtype))
        if self.of_bias is not None:
            self.of_bias[words] += logits.sum(0)

    def hidden_gradient(self) -> Tensor | None:
        return None if self.of_hidden is None else self.of_hidden.to(self.hidden.dtype)


def _chunks(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _logits(hidden, weight, bias, scale, cap, dtype, slopes=False) -> tuple[Tensor, Tensor | None]:
    """(rows, V) logits that may be changed in place, in float32 (float64), and the slope 1 - tanh^2 of a cap where asked for."""
    return _bent(upcast(F.linear(hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))), scale, cap, slopes)


def _bent(logits: Tensor, scale: float, cap: float | None, slopes: bool) -> tuple[Tensor, Tensor | None]:
    """Factor and cap, in place; the slope as ``_logits`` gives it."""
    if scale != 1:
        logits.mul_(scale)
    if cap is None:
        return logits, None
    bent = logits.div_(cap).tanh_()
    slope = (1 - bent.square()) if slopes else None
    return bent.mul_(cap), slope


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left right, without a second tensor of its size where the dtypes are one."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
