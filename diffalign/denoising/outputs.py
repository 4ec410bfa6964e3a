r"""Numbers read from the network's outputs themselves, for the objectives which look at more than the error:

    extra = outputs.measured(objective.needs, prediction, target, reference_prediction, pairs)
    evidence = denoising_evidence(error, reference_error, t=t, pairs=pairs, extra=extra)

All predictions and targets are (N, ...), of one kind, for the same x_t and t; half precision is cast up to float32 before any difference.
References and targets get no gradient. A mask is that of `denoising_error`. Means over elements, never times -1/2: not evidence.
"""

from collections.abc import Callable, Collection

import torch
from torch import Tensor

from diffalign.denoising.error import denoising_error, latent_mean, weights_of
from diffalign.objectives.evidence import upcast


def drift(prediction: Tensor, reference_prediction: Tensor, mask: Tensor | None = None) -> Tensor:
    """(N,) mean((prediction - reference_prediction)^2), how far the policy has moved; with gradient.

    SimpleTuner's anchor term is 1/2 of it (read in its Flow-DPO distiller); in DSPO it is the last term of the square under `cross`.
    """
    return denoising_error(prediction, reference_prediction.detach(), mask)


def cross(prediction: Tensor, target: Tensor, reference_prediction: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""(N,) mean((prediction - target) (prediction - reference_prediction)), with gradient.

    With the error and the drift it gives the square of any mixture of the two differences, such as DSPO's (its released code; the paper was
    not read):

        mean((prediction - target - w (prediction - reference_prediction))^2) = error - 2 w cross + w^2 drift

    Raises:
        ValueError: if the shapes differ.
    """
    shapes = {tuple(x.shape) for x in (prediction, target, reference_prediction)}
    if len(shapes) > 1:
        raise ValueError(f"prediction, target and reference_prediction have shapes {sorted(shapes)}: they must be the same")
    x = upcast(prediction)
    return latent_mean((x - upcast(target.detach())) * (x - upcast(reference_prediction.detach())), mask)


def balance(prediction: Tensor, target: Tensor, pairs: Tensor, mu: float = 0.9, mask: Tensor | None = None) -> Tensor:
    r"""(P,) Diffusion-SDPO's share of the loser's gradient that leaves the winner's error from rising, to first order; detached.

        balance = clamp((1 - mu) |gA|^2 / (gA . gB), 0, 1)  if gA . gB > 0,  else 1

    gA and gB are the gradients of the chosen's and the rejected's error in their predictions, 2 (prediction - target)/elements; with a mask
    m, whose error is sum(m (prediction - target)^2)/sum(m), 2 m (prediction - target)/sum(m).
    Source: arXiv:2511.03317 through our notes of its released code (mu 0.9, beta 5000); the paper's own equation was not verified.

    *Deviates:* one share a pair; the release has one for a whole micro-batch, the same thing for one pair.

    Args:
        pairs: (P, 2) rows (chosen, rejected) of the predictions, `comparison.pairs`.
        mu: in [0, 1], the share of the winner's own descent that is left to it; at 1 a loser that would slow it is dropped.

    Raises:
        ValueError: for mu outside [0, 1], or shapes that differ.
    """
    if not 0 <= mu <= 1:
        raise ValueError(f"mu must lie in [0, 1]; got {mu}: Diffusion-SDPO's is 0.9")
    if prediction.shape != target.shape:
        raise ValueError(f"prediction has shape {tuple(prediction.shape)}, target {tuple(target.shape)}: they must be the same")
    gradient = (upcast(prediction.detach()) - upcast(target.detach())).flatten(1)  # 2/elements drops out of the ratio
    if mask is not None:
        weights = weights_of(mask, prediction)
        gradient = gradient * (weights / weights.sum(1, keepdim=True))
    chosen, rejected = gradient[pairs.to(gradient.device).T]
    along = (chosen * rejected).sum(1)
    share = (1 - mu) * (chosen**2).sum(1) / along.where(along > 0, torch.ones_like(along))
    return share.clamp(0, 1).where(along > 0, torch.ones_like(along))


# name -> (prediction, target, reference prediction, pairs, mask) -> its numbers: all that a denoising step can put into Evidence.extra
MEASURES: dict[str, Callable[..., Tensor]] = {
    "drift": lambda prediction, target, reference, pairs, mask: drift(prediction, reference, mask),
    "cross": lambda prediction, target, reference, pairs, mask: cross(prediction, target, reference, mask),
    "balance": lambda prediction, target, reference, pairs, mask: balance(prediction, target, pairs, mask=mask),
}


def measured(
    needs: Collection[str], prediction: Tensor, target: Tensor, reference_prediction: Tensor | None, pairs: Tensor,
    mask: Tensor | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """Those of `MEASURES` that an objective's `needs` name as "extra:NAME": (N,) each, or (P,) of the pairs (P, 2). Others of its needs are
    left to the objective, which refuses evidence that lacks them (`methods.Point.refusals` says it before a run)."""
    values = prediction, target, reference_prediction, pairs, mask
    return {name: measure(*values) for name, measure in MEASURES.items() if f"extra:{name}" in needs}
