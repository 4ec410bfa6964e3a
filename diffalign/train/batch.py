"""From encoded pairs to what a step consumes: every random choice of a training example is made here, from its own counter."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from diffalign import data
from diffalign.denoising import Draws
from diffalign.objectives import Comparison


@dataclass(frozen=True)
class Batch:
    """B pairs as 2B samples: rows 0..B-1 are the chosen ones, rows B..2B-1 their rejected partners.

    ``x0``, ``noise``: (2B, C, h, w) float32; both halves of ``noise`` are equal (shared noising). ``t``: (2B,), equal within a pair.
    ``conditioning``: name -> (2B, ...). ``ids``: B record ids.
    """

    ids: list[str]
    x0: Tensor
    noise: Tensor
    t: Tensor
    conditioning: dict[str, Tensor]
    comparison: Comparison

    def to(self, device) -> Batch:
        move = {name: value.to(device) for name, value in self.conditioning.items()}
        return Batch(self.ids, self.x0.to(device), self.noise.to(device), self.t, move, self.comparison)


class Order:
    """Which pairs an optimizer step sees: a pure function of its number, so that a resumed run goes on exactly.

    Args:
        buckets: of every training pair, as ``data.batches`` takes them. batch_size: pairs in a forward pass; a batch is of one bucket, and
            the last ones of an epoch may be smaller. accumulation: batches in a step.
    """

    def __init__(self, buckets: list, batch_size: int, accumulation: int, seed: int):
        self.accumulation = accumulation
        self.epoch = lru_cache(maxsize=2)(lambda epoch: data.batches(buckets, batch_size, epoch=epoch, seed=seed, drop_last=False))
        self.batches_an_epoch = len(self.epoch(0))  # the same for all: buckets keep their sizes

    def step(self, step: int) -> list[tuple[int, list[int]]]:
        """[(epoch, indices of the pairs of one batch)] of optimizer step ``step``, counted from 0."""
        places = [divmod(step * self.accumulation + k, self.batches_an_epoch) for k in range(self.accumulation)]
        return [(epoch, self.epoch(epoch)[row]) for epoch, row in places]


class BatchMaker:
    """Builds batches from a ``PairStore``.

    For a record and its ``draw``-th use, ``Draws(seed, id, draw)`` decides: the flip, each side's sample of the VAE posterior
    (``x0 = mean + std * n``, independent for the two sides), the noise and the timestep (shared), and whether both captions are dropped.
    So a record's example does not depend on the batch it falls into, on the number of processes or on a restart.
    """

    def __init__(self, model, store, sampler, *, seed: int, flip: bool, caption_dropout: float):
        self.model, self.store, self.sampler = model, store, sampler
        self.seed, self.flip, self.caption_dropout = seed, flip, caption_dropout

    def __call__(self, indices: list[int], draw: int) -> Batch:
        drawn = [Draws(self.seed, self.store.id_of(i), draw) for i in indices]
        pairs = [self.store[i, self.flip and d.uniform("flip") < 0.5] for i, d in zip(indices, drawn, strict=True)]
        x0 = _by_side([p.mean + p.std * d.normal("posterior", p.mean.shape) for p, d in zip(pairs, drawn, strict=True)])
        noise = torch.stack([d.normal("noise", p.mean.shape[1:]) for p, d in zip(pairs, drawn, strict=True)])
        t = self.sampler(torch.tensor([d.uniform("timestep") for d in drawn], dtype=torch.float64), self.model.path)
        empty = {name: value.expand(2, *value.shape[1:]) for name, value in self.store.empty_text.items()}
        text = [empty if d.uniform("caption") < self.caption_dropout else pair.text for pair, d in zip(pairs, drawn, strict=True)]
        conditioning = {name: _by_side([row[name] for row in text]) for name in text[0]}
        conditioning |= self.model.size_conditioning(
            _by_side([p.original_size for p in pairs]), _by_side([p.crop for p in pairs]), _by_side([p.target_size for p in pairs])
        )
        comparison = Comparison.halves(
            len(pairs),
            probability=torch.tensor([p.probability for p in pairs]),
            weight=torch.tensor([p.weight for p in pairs]),
            margin=torch.tensor([p.margin for p in pairs]),
        )
        return Batch([p.id for p in pairs], x0, torch.cat([noise, noise]), torch.cat([t, t]), conditioning, comparison)


def _by_side(values: list[Tensor]) -> Tensor:
    """B tensors (2, ...) -> (2B, ...), chosen rows first."""
    return torch.stack(values, dim=1).flatten(0, 1)
