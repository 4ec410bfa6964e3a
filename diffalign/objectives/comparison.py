r"""What people (or a reward) say about samples: labels only, never a model."""

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffalign.objectives.evidence import upcast


@dataclass(frozen=True, eq=False)
class Comparison:
    r"""P labelled pairs among N samples. Every field but `pairs` may be given as one number for all pairs.

        z = beta * scale * (r_chosen - r_rejected) - margin,        loss = weight * link(z; probability)

    Args:
        pairs: (P, 2) int64, rows (chosen, rejected) of the evidence. The two need not share a prompt.
        probability: (P,) in [0, 1], how sure the label is that chosen beats rejected. 1 is a plain label, 1/2 a tie.
        weight: (P,) at least 0, multiplies the loss, *outside* the link.
        scale: (P,) multiplies beta, *inside* the link (SmPO's soft labels, arXiv:2506.02698). Not interchangeable with `weight`.
        margin: (P,) by how much the rejected one has to be beaten, in the units of `z` and of the logged `rewards/margins`, that is
            *after* beta. So SimPO's published gamma and a reward model's margin are written as they are published, at any beta.

    *Deviates:* the papers that write `beta * (r_chosen - r_rejected - margin')` mean margin = beta * margin'; in evidence units an
    image margin would read 0.0002 and change its meaning with every beta of a sweep.

    Raises:
        ValueError: for a wrong shape or dtype, a negative row, a sample compared with itself, a probability outside [0, 1], a negative
            weight, or a number that is not finite.
    """

    pairs: Tensor
    probability: Tensor | float = 1.0
    weight: Tensor | float = 1.0
    scale: Tensor | float = 1.0
    margin: Tensor | float = 0.0
    rows: int = field(init=False)  # how many rows of evidence the pairs reach into

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
            object.__setattr__(self, name, self._per_pair(name, value))
        object.__setattr__(self, "rows", int(pairs.max()) + 1 if len(pairs) else 0)
        if ((self.probability < 0) | (self.probability > 1)).any():
            raise ValueError(f"probability must lie in [0, 1]; got {self.probability.tolist()}: judge's scores need calibrating first")
        if (self.weight < 0).any():
            raise ValueError(f"weight must be at least 0; got {self.weight.tolist()}: to prefer the other sample, swap the pair")

    def _per_pair(self, name: str, value: Tensor | float) -> Tensor:
        """One number for all pairs, or (P,), as a detached float tensor (P,) beside `pairs`."""
        value = upcast(torch.as_tensor(value).detach().to(self.pairs.device))
        if value.shape not in (torch.Size([]), self.pairs.shape[:1]):
            raise ValueError(f"{name} must be one number or one a pair, shape ({len(self.pairs)},); got shape {tuple(value.shape)}")
        if not torch.isfinite(value).all():
            raise ValueError(f"{name} must be finite; got {value.tolist()}")
        return value.expand(len(self.pairs))

    @classmethod
    def halves(
        cls, count: int, *, probability=1.0, weight=1.0, scale=1.0, margin=0.0, device: torch.device | str | None = None
    ) -> "Comparison":
        """The layout of every pair batch: rows 0..count-1 are the chosen samples, rows count..2 count-1 their rejected partners."""
        rows = torch.arange(count, device=device)
        return cls(torch.stack([rows, rows + count], dim=1), probability, weight, scale, margin)

    def beside(self, values: Tensor) -> "Comparison":
        """The same labels on the device and in the dtype of `values`. They were checked when made: no second look, no wait for the GPU."""
        moved = copy.copy(self)
        for name, label in vars(self).items():
            if isinstance(label, Tensor):
                object.__setattr__(moved, name, label.to(values.device, values.dtype if label.is_floating_point() else label.dtype))
        return moved
