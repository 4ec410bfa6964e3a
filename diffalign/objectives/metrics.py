r"""What is logged about a batch, under TRL's names. Every metric is (sum, count), so that ranks and micro-batches add up."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from diffalign.objectives.links import Link

Metrics = dict[str, tuple[Tensor, int]]

SATURATED = 0.05  # a pair this far below its slope at zero margin no longer teaches


def pair_metrics(chosen: Tensor, rejected: Tensor, z: Tensor, probability: Tensor, link: "Link | None") -> Metrics:
    r"""Metrics of P pairs, detached, each as (sum, P):

    rewards/chosen, rewards/rejected    beta * r of the two sides, by the same reward map as the loss
    rewards/margins                     their difference (before a label's `scale` and `margin`)
    rewards/accuracies                  share of pairs whose chosen side has the higher reward; a tie counts one half
    grad_factor                         |dloss/dz|, from the link's own slope; a logistic link starts at 1/2
    saturation                          share of pairs whose grad_factor has sunk below 5 % of what it is at zero margin

    Args:
        chosen, rejected: (P,) rewards times beta, in the units of z.
        z: (P,) what the link sees.
        probability: (P,) soft label of the pair.
        link: the link of the objective; None leaves out the last two.
    """
    chosen, rejected, z = chosen.detach(), rejected.detach(), z.detach()
    per_pair = {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        "rewards/accuracies": (chosen > rejected) + 0.5 * (chosen == rejected),
    }
    if link is not None:
        per_pair |= slope_metrics(z, probability, link)
    return {name: (values.sum(), len(values)) for name, values in per_pair.items()}


def slope_metrics(z: Tensor, probability: Tensor, link: "Link") -> dict[str, Tensor]:
    """grad_factor and saturation, (U,) each, of a detached z."""
    slope, slope_at_zero = link.slope(z, probability).abs(), link.slope(z.new_zeros(z.shape), probability).abs()
    return {"grad_factor": slope, "saturation": (slope < SATURATED * slope_at_zero).to(z.dtype)}


def merge(parts: Iterable[Metrics]) -> Metrics:
    """The metrics of several micro-batches (or ranks) as those of one batch: sums add, counts add."""
    total: Metrics = {}
    for part in parts:
        for name, (value, count) in part.items():
            before, seen = total.get(name, (0.0, 0))
            total[name] = (before + value, seen + count)
    return total


def plain(metrics: Metrics) -> dict[str, tuple[float, int]]:
    """The same sums as Python numbers, which processes can tell each other. Waits for the device."""
    return {name: (float(total), count) for name, (total, count) in metrics.items()}


def means(metrics: Metrics) -> dict[str, float]:
    """The plain numbers to log: sum / count, metrics without a single unit left out. Waits for the device."""
    return {name: float(value) / count for name, (value, count) in metrics.items() if count}
