r"""Links around a link: a share of the loss, and a margin that every pair has to reach."""

import math
from dataclasses import dataclass

from torch import Tensor

from diffalign.objectives.links import Link


@dataclass(frozen=True)
class Weighted(Link):
    r"""loss = weight * link(z; p): a link that shares the loss with other terms.

    Raises:
        ValueError: unless weight is positive and finite.
    """

    link: Link
    weight: float

    def __post_init__(self):
        if not 0 < self.weight < math.inf:
            raise ValueError(f"the weight of a link must be positive and finite; got {self.weight}")

    @property
    def soft(self) -> bool:
        return self.link.soft

    @property
    def reads_gap(self) -> bool:
        return self.link.reads_gap

    def __call__(self, z: Tensor, probability: Tensor) -> Tensor:
        return self.weight * self.link(z, probability)

    def slope(self, z: Tensor, probability: Tensor) -> Tensor:
        return self.weight * self.link.slope(z, probability)


@dataclass(frozen=True)
class Shifted(Link):
    r"""loss = link(z - by; p):  SimPO's target margin gamma, in the units of z (arXiv:2405.14734). Not symmetric in the two samples.

    Raises:
        ValueError: if `by` is not finite.
    """

    link: Link
    by: float

    def __post_init__(self):
        if not math.isfinite(self.by):
            raise ValueError(f"the margin gamma must be finite; got {self.by}")

    @property
    def soft(self) -> bool:
        return self.link.soft

    @property
    def reads_gap(self) -> bool:
        return self.link.reads_gap

    def __call__(self, z: Tensor, probability: Tensor) -> Tensor:
        return self.link(z - self.by, probability)

    def slope(self, z: Tensor, probability: Tensor) -> Tensor:
        return self.link.slope(z - self.by, probability)
