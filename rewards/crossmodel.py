"""MPS's cross model: image tokens ask, prompt tokens answer, four times over.

Each layer: x + cross_attention(x, context), then x + block(x). Both are multi-query (many heads of queries, one of keys and values), have
no biases, normalise x first, and run a SwiGLU feed-forward on the normalised x beside the attention; the block rotates queries and keys.

Sources: Kwai-Kolors/MPS trainer/models/cross_modeling.py, whose parameter names this keeps; PaLM (arXiv:2204.02311) for the parallel block,
arXiv:1911.02150 for multi-query attention, arXiv:2002.05202 for SwiGLU, arXiv:2104.09864 for the rotation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Normalise(nn.Module):
    """Layer norm whose bias is a buffer of zeros."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.register_buffer("bias", torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias)


class SwiGLU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x, gate = x.chunk(2, dim=-1)
        return F.silu(gate) * x


class Residual(nn.Module):
    """x + fn(x, ...)."""

    def __init__(self, fn: nn.Module):
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        return x + self.fn(x, *others)


class Rotation(nn.Module):
    """Rotary positions, the two halves of a head being the two coordinates."""

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("inv_freq", 10000.0 ** (-torch.arange(0, width, 2) / width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., L, width) -> the same, position l turned by l * inv_freq."""
        frequencies = self.inv_freq.to(torch.promote_types(self.inv_freq.dtype, torch.float32))
        angles = torch.outer(torch.arange(x.shape[-2]).to(frequencies), frequencies).repeat(1, 2)
        first, second = x.chunk(2, dim=-1)
        return x * angles.cos().to(x.dtype) + torch.cat([-second, first], dim=-1) * angles.sin().to(x.dtype)


class CrossAttention(nn.Module):
    def __init__(self, width: int, heads: int, head_width: int, inner: int):
        super().__init__()
        self.heads = heads
        self.norm = Normalise(width)
        self.to_q = nn.Linear(width, heads * head_width, bias=False)
        self.to_kv = nn.Linear(width, 2 * head_width, bias=False)
        self.to_out = nn.Linear(heads * head_width, width, bias=False)
        self.ff = nn.Sequential(nn.Linear(width, 2 * inner, bias=False), SwiGLU(), nn.Linear(inner, width, bias=False))

    def forward(self, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """x (N, I, width), context (N, T, width), mask (N, T): added to the logits."""
        x = self.norm(x)
        keys, values = self.to_kv(context).chunk(2, dim=-1)
        return self.to_out(attend(self.to_q(x), keys, values, self.heads, mask[:, None, None])) + self.ff(x)


class ParallelBlock(nn.Module):
    def __init__(self, width: int, heads: int, head_width: int, inner: int):
        super().__init__()
        self.heads, self.widths = heads, (heads * head_width, head_width, head_width, 2 * inner)
        self.norm = Normalise(width)
        self.rotary_emb = Rotation(head_width)
        self.fused_attn_ff_proj = nn.Linear(width, sum(self.widths), bias=False)
        self.attn_out = nn.Linear(heads * head_width, width, bias=False)
        self.ff_out = nn.Sequential(SwiGLU(), nn.Linear(inner, width, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values, inner = self.fused_attn_ff_proj(self.norm(x)).split(self.widths, dim=-1)
        return self.attn_out(attend(queries, keys, values, self.heads, None, self.rotary_emb)) + self.ff_out(inner)


class CrossModel(nn.Module):
    """x (N, I, width), context (N, T, width), mask (N, T) -> (N, I, width)."""

    def __init__(self, layers: int, width: int, heads: int, head_width: int, inner: int):
        super().__init__()
        shape = (width, heads, head_width, inner)
        pairs = [[Residual(CrossAttention(*shape)), Residual(ParallelBlock(*shape))] for _ in range(layers)]
        self.layers = nn.ModuleList(nn.ModuleList(pair) for pair in pairs)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        for cross, block in self.layers:
            x = block(cross(x, context, mask))
        return x


def attend(queries: Tensor, keys: Tensor, values: Tensor, heads: int, mask: Tensor | None, rotate: nn.Module | None = None) -> Tensor:
    """Multi-query attention: queries (N, I, heads * d), keys and values (N, T, d) -> (N, I, heads * d)."""
    queries, keys, values = queries.unflatten(-1, (heads, -1)).transpose(1, 2), keys[:, None], values[:, None]
    if rotate is not None:
        queries, keys = rotate(queries), rotate(keys)
    shape = (-1, heads, -1, -1)
    attended = F.scaled_dot_product_attention(queries, keys.expand(shape), values.expand(shape), attn_mask=mask)
    return attended.transpose(1, 2).flatten(2)


def sizes(state: dict[str, Tensor]) -> dict[str, int]:
    """What ``CrossModel`` is built with, read off a checkpoint; the published one has 4, 1024, 16, 64 and 4096."""
    queries, pair = state["layers.0.0.fn.to_q.weight"], state["layers.0.0.fn.to_kv.weight"]
    layers, head_width = 1 + max(int(name.split(".")[1]) for name in state), len(pair) // 2
    inner = state["layers.0.0.fn.ff.2.weight"].shape[1]
    return dict(layers=layers, width=queries.shape[1], heads=len(queries) // head_width, head_width=head_width, inner=inner)
