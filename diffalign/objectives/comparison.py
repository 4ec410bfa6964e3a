r"""What people (or a reward) say about samples: labels only, never a model. Here of pairs; of single samples and lists in labels.py."""

import copy
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

from diffalign.objectives.evidence import upcast

Number: TypeAlias = Tensor | float
Labelled = TypeVar("Labelled", bound="LabelSet")


class LabelSet:
    """Base of the frozen dataclasses that hold labels. `rows`: how many rows of evidence the labels reach into."""

    rows: int

    def beside(self: Labelled, values: Tensor) -> Labelled:
        """The same labels on the device and in the dtype of `values`. They were checked when made: no second look, no wait for the GPU."""
        moved = copy.copy(self)
        for name, label in vars(self).items():
            if isinstance(label, Tensor):
                object.__setattr__(moved, name, label.to(values.device, values.dtype if label.is_floating_point() else label.dtype))
        return moved


def one_each(name: str, value: Number, count: int, unit: str, device: torch.device) -> Tensor:
    """One number for all, or one a unit, as a detached float tensor (count,). ValueError for another shape or a number not finite."""
    value = upcast(torch.as_tensor(value).detach().to(device))
    if value.shape not in (torch.Size([]), torch.Size([count])):
        raise ValueError(f"{name} must be one number or one a {unit}, shape ({count},); got shape {tuple(value.shape)}")
    if not torch.isfinite(value).all():
        raise ValueError(f"{name} must be finite; got {value.tolist()}")
    return value.expand(count)


@dataclass(frozen=True, eq=False)
class Comparison(LabelSet):
    r"""P labelled pairs among N samples. Every field but `pairs` may be given as one number for all pairs.

        z = beta * scale * (r_chosen - r_rejected) - margin,        loss = weight * link(z; probability)

    Args:
        pairs: (P, 2) int64, rows (chosen, rejected) of the evidence. The two need not share a prompt.
        probability: (P,) in [0, 1], how sure the label is that chosen beats rejected. 1 is a plain label, 1/2 a tie.
        weight: (P,) at least 0, multiplies the loss, *outside* the link.
        scale: (P,) multiplies beta, *inside* the link (SmPO's soft labels, from its released code). Not interchangeable with `weight`.
        margin: (P,) by how much the rejected one has to be beaten, in the units of `z` and of the logged `rewards/margins`, that is
            *after* beta. So SimPO's published gamma and a reward model's margin are written as they are published, at any beta.
            For a regression (CaPO) it is the gap itself, R_chosen - R_rejected of the calibrated rewards.

    *Deviates:* the papers that write `beta * (r_chosen - r_rejected - margin')` mean margin = beta * margin'; in evidence units an
    image margin would read 0.0002 and change its meaning with every beta of a sweep.

    Raises:
        ValueError: for a wrong shape or dtype, a negative row, a sample compared with itself, a probability outside [0, 1], a negative
            weight, or a number that is not finite.
    """

    pairs: Tensor
    probability: Number = 1.0
    weight: Number = 1.0
    scale: Number = 1.0
    margin: Number = 0.0
    rows: int = field(init=False)
    given: frozenset[str] = field(init=False)  # which of probability, weight, scale and margin say something: are not 1 (margin: not 0)

    def __post_init__(self):
        pairs = self.pairs
        if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype != torch.int64:
            raise ValueError(f"pairs must be int64 of shape (P, 2), rows (chosen, rejected); got {pairs.dtype} {tuple(pairs.shape)}")
        if (pairs < 0).any():
            raise ValueError(f"pairs hold rows of the evidence, from 0 on; the smallest given is {pairs.min().item()}")
        if (pairs[:, 0] == pairs[:, 1]).any():
            same = pairs[pairs[:, 0] == pairs[:, 1]][0, 0].item()
            raise ValueError(f"row {same} is compared with itself: chosen and rejected must be two samples")
        labels = {"probability": self.probability, "weight": self.weight, "scale": self.scale, "margin": self.margin}
        for name, value in labels.items():
            object.__setattr__(self, name, one_each(name, value, len(pairs), "pair", pairs.device))
        object.__setattr__(self, "rows", int(pairs.max()) + 1 if len(pairs) else 0)
        if ((self.probability < 0) | (self.probability > 1)).any():
            raise ValueError(f"probability must lie in [0, 1]; got {self.probability.tolist()}: judge's scores need calibrating first")
        if (self.weight < 0).any():
            raise ValueError(f"weight must be at least 0; got {self.weight.tolist()}: to prefer the other sample, swap the pair")
        said = {name for name in labels if (vars(self)[name] != (0 if name == "margin" else 1)).any()}
        object.__setattr__(self, "given", frozenset(said))

    @property
    def soft(self) -> bool:
        """Whether some probability is not 1."""
        return "probability" in self.given

    @classmethod
    def halves(
        cls, count: int, *, probability=1.0, weight=1.0, scale=1.0, margin=0.0, device: torch.device | str | None = None
    ) -> "Comparison":
        """The layout of every pair batch: rows 0..count-1 are the chosen samples, rows count..2 count-1 their rejected partners."""
        rows = torch.arange(count, device=device)
        return cls(torch.stack([rows, rows + count], dim=1), probability, weight, scale, margin)
