r"""Randomness by name: every draw is a function of (seed, record id, draw, name) and of nothing else, so a run does not depend on the
number of ranks, the order of the data, or where it was resumed."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """The draws of one record at one visit.

        draws = Draws(seed=0, record_id="pair-17", draw=3)
        u, noise = draws.uniform("timestep"), draws.normal("noise", (4, 64, 64))

    Args:
        seed: of the run.
        record_id: of the record, unique in the data; 7 and "7" are the same record.
        draw: how many times the record was visited before.

    Names are free; a name gives the same value however often and in whatever order it is asked for, other names unrelated ones.
    """

    seed: int
    record_id: str | int
    draw: int = 0

    def _key(self, name: str) -> int:
        """64 bits of SHA-256 over the four parts; JSON keeps their borders apart."""
        parts = json.dumps([int(self.seed), str(self.record_id), int(self.draw), name])
        return int.from_bytes(hashlib.sha256(parts.encode()).digest()[:8], "little")

    def uniform(self, name: str) -> float:
        """One number in [0, 1), a multiple of 2**-24 straight from the key: float32 holds it exactly, and never rounds it up to 1."""
        return (self._key(name) >> 40) * 2.0**-24

    def normal(self, name: str, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers, float32, on the CPU. The same bits on every machine with the same torch and instruction set."""
        return torch.randn(tuple(shape), generator=self.generator(name), dtype=torch.float32)

    def generator(self, name: str) -> torch.Generator:
        """A fresh CPU generator for this name, for any other distribution.

        torch keeps 32 bits of a CPU generator's seed, so among n draws about n**2 / 2**33 couples get equal noise: two unrelated records
        sharing noise, which harms nothing.
        """
        return torch.Generator().manual_seed(self._key(name))
