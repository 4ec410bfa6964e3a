r"""Labels of single samples and of ranked lists, beside the pairs of comparison.py."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffalign.objectives.comparison import LabelSet, Number, one_each


@dataclass(frozen=True, eq=False)
class Labels(LabelSet):
    r"""N samples, each liked or not, without a partner (arXiv:2402.01306; for diffusion arXiv:2404.04465).

    Args:
        desirable: (N,) bool, one a row of the evidence.
        weight: (N,) at least 0, multiplies the loss, outside the link. One number serves all.

    Raises:
        ValueError: for a wrong shape or dtype, a negative weight, or one that is not finite.
    """

    desirable: Tensor
    weight: Number = 1.0
    rows: int = field(init=False)
    liked: int = field(init=False)  # how many of the samples are desirable

    def __post_init__(self):
        if self.desirable.ndim != 1 or self.desirable.dtype != torch.bool:
            given = f"{self.desirable.dtype} {tuple(self.desirable.shape)}"
            raise ValueError(f"desirable must be bool of shape (N,), one a sample; got {given}: threshold scores first")
        weight = one_each("weight", self.weight, len(self.desirable), "sample", self.desirable.device)
        if (weight < 0).any():
            raise ValueError(f"weight must be at least 0; got {weight.tolist()}: to dislike a sample, make it undesirable")
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "rows", len(self.desirable))
        object.__setattr__(self, "liked", int(self.desirable.sum()))


@dataclass(frozen=True, eq=False)
class Scores(LabelSet):
    r"""N samples, each with a number which its reward is compared with: an advantage, or a probability to win.

    Args:
        value: (N,) one a row of the evidence, in the units the objective names.
        weight: (N,) at least 0, multiplies the loss. One number serves all.

    Raises:
        ValueError: for a wrong shape, a negative weight, or a number that is not finite.
    """

    value: Tensor
    weight: Number = 1.0
    rows: int = field(init=False)

    def __post_init__(self):
        if self.value.ndim != 1:
            raise ValueError(f"value must be (N,), one number a sample; got shape {tuple(self.value.shape)}")
        count, device = len(self.value), self.value.device
        object.__setattr__(self, "value", one_each("value", self.value, count, "sample", device))
        weight = one_each("weight", self.weight, count, "sample", device)
        if (weight < 0).any():
            raise ValueError(f"weight must be at least 0; got {weight.tolist()}: to push a sample away, give it a low value")
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "rows", count)


@dataclass(frozen=True, eq=False)
class Rankings(LabelSet):
    r"""N samples in G lists, each sample with how good it is within its list.

    Args:
        group: (N,) int64, the list of every row of the evidence: 0..G-1, at least two samples each, in any order.
        relevance: (N,) the larger the better; ties are allowed. Objectives of an order read only that; others the numbers: rewards, win
            probabilities or levels, as their rows say. RankDPO's gain is 2^relevance - 1: win probabilities, at most 30.
        weight: (G,) at least 0, multiplies a list's loss. One number serves all.

    Raises:
        ValueError: for a wrong shape or dtype, a list which is missing or has one sample, a negative weight, or a number not finite.
    """

    group: Tensor
    relevance: Tensor
    weight: Number = 1.0
    rows: int = field(init=False)
    groups: int = field(init=False)
    ordered: int = field(init=False)  # how many pairs of one list have a better and a worse sample
    highest: float = field(init=False)  # the largest relevance

    def __post_init__(self):
        group = self.group
        if group.ndim != 1 or group.dtype != torch.int64:
            raise ValueError(f"group must be int64 of shape (N,), the list of every sample; got {group.dtype} {tuple(group.shape)}")
        if (group < 0).any():
            raise ValueError(f"group numbers the lists from 0 on; the smallest given is {group.min().item()}")
        sizes = group.bincount()
        if (sizes < 2).any():
            i = int((sizes < 2).nonzero()[0])
            raise ValueError(f"list {i} has {sizes[i].item()} samples: a ranking needs two or more, numbered 0..G-1 without a gap")
        relevance = one_each("relevance", self.relevance, len(group), "sample", group.device)
        weight = one_each("weight", self.weight, len(sizes), "list", group.device)
        if (weight < 0).any():
            raise ValueError(f"weight must be at least 0; got {weight.tolist()}")
        set_field = object.__setattr__
        set_field(self, "relevance", relevance)
        set_field(self, "weight", weight)
        set_field(self, "rows", len(group))
        set_field(self, "groups", len(sizes))
        set_field(self, "ordered", int(self.better().sum()))
        set_field(self, "highest", float(relevance.max()) if len(group) else 0.0)

    def better(self) -> Tensor:
        """(N, N) bool: row i and column j are of one list and i is the better one."""
        return (self.group[:, None] == self.group) & (self.relevance[:, None] > self.relevance)

    def rank(self) -> Tensor:
        """(N,) from 1, the best, on: one more than the number of better samples in the list, so ties share a rank in whatever order."""
        return 1 + self.better().sum(0)
