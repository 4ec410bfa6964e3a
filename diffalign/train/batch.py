"""From encoded records to what a step consumes: every random choice of a training example is made here, from its own counter."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from diffalign import data
from diffalign.denoising import Draws
from diffalign.methods import Point
from diffalign.objectives import Comparison, Labels, Rankings
from diffalign.train.labels import labels_of


@dataclass(frozen=True)
class Batch:
    """B records of k samples as N = k B rows: row ``side * B + b`` is sample ``side`` of record b, so of pairs the chosen ones come first.

    ``x0``, ``noise``: (N, C, h, w) float32. ``t``: (N,), equal within a record. ``conditioning``: name -> (N, ...). ``labels``: what people
    said, as the objective reads it. ``ids``: B record ids. ``drawn``: their counters. ``mask``: (N, 1, h, w) float32, how much each latent
    counts in the error, the same for the samples of a record and one throughout for a record without a mask; None where all counts in all.
    """

    ids: list[str]
    x0: Tensor
    noise: Tensor
    t: Tensor
    conditioning: dict[str, Tensor]
    labels: Comparison | Labels | Rankings
    drawn: list[Draws]
    mask: Tensor | None = None

    def to(self, device) -> Batch:
        moved = {name: value.to(device) for name, value in self.conditioning.items()}
        mask = None if self.mask is None else self.mask.to(device)
        return dataclasses.replace(self, x0=self.x0.to(device), noise=self.noise.to(device), conditioning=moved, mask=mask)

    def normal(self, name: str) -> Tensor:
        """(N, C, h, w) standard normal numbers of that name, each row's its own."""
        return independent(self.drawn, name, len(self.x0) // len(self.ids), self.x0.shape[1:]).to(self.x0.device)


class Order:
    """Which pairs an optimizer step sees: a pure function of its number, so that a resumed run goes on exactly.

    Args:
        buckets: of every training record, as ``data.batches`` takes them. batch_size: records in a forward pass; a batch is of one
            bucket, and the last ones of an epoch may be smaller. accumulation: batches in a step.
    """

    def __init__(self, buckets: list, batch_size: int, accumulation: int, seed: int):
        self.accumulation = accumulation
        self.epoch = lru_cache(maxsize=2)(lambda epoch: data.batches(buckets, batch_size, epoch=epoch, seed=seed, drop_last=False))
        self.batches_an_epoch = len(self.epoch(0))  # the same for all: buckets keep their sizes

    def step(self, step: int) -> list[tuple[int, list[int]]]:
        """[(epoch, indices of the records of one batch)] of optimizer step ``step``, counted from 0."""
        places = [divmod(step * self.accumulation + k, self.batches_an_epoch) for k in range(self.accumulation)]
        return [(epoch, self.epoch(epoch)[row]) for epoch, row in places]


FIRST = 1e-4  # an inversion starts here on a flow path: at s = 0 no noise leads from x0 to x0


class BatchMaker:
    """Builds batches from a ``data.Store``.

    For a record and its ``draw``-th use, ``Draws(seed, id, draw)`` decides: the flip, each sample's place in the VAE posterior
    (``x0 = mean + std * n``, independent for the samples), the noise, the timestep, and whether the captions are dropped. So a record's
    example does not depend on the batch it falls into, on the number of processes or on a restart.

    Args:
        point: of the method: ``noising`` says whether the samples of a record share their noise, the rest how its labels are read.
        posterior: ``sample``, or ``mean`` for ``x0 = mean``.
    """

    def __init__(self, model, store, sampler, point: Point, posterior: str = "sample", *, seed: int, flip: bool, caption_dropout: float):
        self.model, self.store, self.sampler, self.point, self.spread = model, store, sampler, point, float(posterior == "sample")
        self.seed, self.flip, self.caption_dropout = seed, flip, caption_dropout

    def __call__(self, indices: list[int], draw: int) -> Batch:
        drawn = [Draws(self.seed, self.store.id_of(i), draw) for i in indices]
        encoded = [self.store[i, self.flip and d.uniform("flip") < 0.5] for i, d in zip(indices, drawn, strict=True)]
        samples, shape = len(encoded[0].mean), encoded[0].mean.shape[1:]
        x0 = _by_side([e.mean + self.spread * e.std * d.normal("posterior", e.mean.shape) for e, d in zip(encoded, drawn, strict=True)])
        if self.point.noising == "independent":
            noise = independent(drawn, "noise", samples, shape)
        else:
            noise = torch.stack([d.normal("noise", shape) for d in drawn]).repeat(samples, *[1] * len(shape))
        t = self.sampler(torch.tensor([d.uniform("timestep") for d in drawn], dtype=torch.float64), self.model.path)
        if self.point.inverts and self.model.path.continuous:
            t = t.clamp(min=FIRST)
        empty = {name: value.expand(samples, *value.shape[1:]) for name, value in self.store.empty_text.items()}
        text = [empty if d.uniform("caption") < self.caption_dropout else e.text for e, d in zip(encoded, drawn, strict=True)]
        conditioning = {name: _by_side([row[name] for row in text]) for name in text[0]}
        conditioning |= self.model.size_conditioning(
            _by_side([e.original_size for e in encoded]), _by_side([e.crop for e in encoded]), _by_side([e.target_size for e in encoded])
        )
        records = [e.record for e in encoded]
        labels = labels_of(records, soft_label_scale=self.point.soft_label_scale, swap=self.point.swap)
        mask = _masks([e.mask for e in encoded], samples, shape[1:])
        return Batch([record.id for record in records], x0, noise, t.repeat(samples), conditioning, labels, drawn, mask)


def independent(drawn: list[Draws], name: str, samples: int, shape) -> Tensor:
    """(samples * B, ...) standard normal numbers, rows as in a ``Batch``, each sample of a record with numbers of its own."""
    return torch.stack([d.normal(f"{name}/{side}", shape) for side in range(samples) for d in drawn])


def _masks(masks: list[Tensor | None], samples: int, size) -> Tensor | None:
    """(samples * B, 1, h, w) of a batch's B masks, (h, w) or None each; None where every latent of every record counts fully."""
    whole = torch.ones(size)
    rows = torch.stack([whole if mask is None else mask for mask in masks])[:, None]
    return None if bool((rows == 1).all()) else rows.repeat(samples, 1, 1, 1)


def _by_side(values: list[Tensor]) -> Tensor:
    """B tensors (k, ...) -> (k B, ...), sides one after the other."""
    return torch.stack(values, dim=1).flatten(0, 1)
