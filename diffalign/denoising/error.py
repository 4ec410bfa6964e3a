r"""The denoising error, and how it becomes evidence."""

from collections.abc import Mapping

from torch import Tensor

from diffalign.objectives import Evidence
from diffalign.objectives.evidence import upcast


def denoising_error(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""error_i = mean over all non-batch dims of (prediction_i - target_i)^2, never reduced over the batch. With a mask m,

        error_i = sum(m_i (prediction_i - target_i)^2) / sum(m_i)

    so that a small region weighs as much as a whole image does, and beta keeps its meaning. (SimpleTuner's Flow-DPO and FantasyTalking2
    restrict errors to regions; how they normalise was not verified.)

    Args:
        prediction: (N, ...) of the network; carries the gradient. Half precision is cast up to float32 before the difference is taken.
        target: (N, ...) from `path.target`, of the same kind.
        mask: broadcastable to (N, ...), not negative; the mean is weighted by it. None counts every element once.

    Returns:
        (N,) float32, or float64 for float64 inputs.

    *Deviates:* arXiv:2311.12908, eq. 14 writes the squared norm, a sum. The mean is the released code's; beta is in its units.

    Raises:
        ValueError: if the shapes differ, or a sample has nothing under its mask.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"prediction has shape {tuple(prediction.shape)}, target {tuple(target.shape)}: they must be the same")
    return latent_mean((upcast(prediction) - upcast(target)) ** 2, mask)


def latent_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """(N, ...) -> (N,): the mean over all dims but the first, weighted by the mask if there is one. Errors as in `denoising_error`."""
    if values.ndim < 2:
        raise ValueError(f"latents must be (N, ...) with at least one dimension to average over; got shape {tuple(values.shape)}")
    if mask is None:
        return values.flatten(1).mean(1)
    weights = weights_of(mask, values)
    return (weights * values.flatten(1)).sum(1) / weights.sum(1)


def weights_of(mask: Tensor, values: Tensor) -> Tensor:
    """The mask as (N, elements) beside `values` (N, ...). ValueError where it is negative, or leaves nothing of a sample."""
    weights = upcast(mask.detach()).to(values.device).broadcast_to(values.shape).flatten(1)
    if (weights < 0).any() or (weights.sum(1) == 0).any():
        raise ValueError("a mask must not be negative and must leave something of every sample: drop samples whose mask is empty")
    return weights


def denoising_evidence(
    policy_error: Tensor, reference_error: Tensor | None = None, *, t: Tensor, pairs: Tensor, extra: Mapping[str, Tensor] | None = None
) -> Evidence:
    r"""evidence = -1/2 error, so that beta is the Diffusion-DPO release's (z = -beta/2 * Delta, arXiv:2311.12908).

    Args:
        policy_error: (N,) from `denoising_error`; carries the gradient.
        reference_error: (N,) of the reference on the same x_t, or None.
        t: (N,) the times the errors were measured at.
        pairs: (P, 2) the pairs they will be compared in (`comparison.pairs`).
        extra: further numbers for the objectives that read them, (N,) a sample or (P,) a pair, in units of their own: see `outputs.py`.

    Returns:
        Evidence of N samples, of size 1: an error is a mean already.

    Raises:
        ValueError: if the two members of a pair were measured at different times. Errors differ over t by far more than over samples, so
            such a comparison would be about the times. If an extra is neither one number a sample nor one a pair.
    """
    if t.shape != policy_error.shape:
        raise ValueError(f"t has shape {tuple(t.shape)}, policy_error {tuple(policy_error.shape)}: give one time a sample")
    t_chosen, t_rejected = t[pairs.to(t.device).T]
    if (t_chosen != t_rejected).any():
        i = (t_chosen != t_rejected).nonzero()[0].item()
        raise ValueError(f"pair {i} has t = {t_chosen[i].item()} for the chosen and {t_rejected[i].item()} for the rejected sample: "
                         "draw one time a pair and use it for both")
    for name, value in (extra or {}).items():
        if value.shape not in (policy_error.shape, pairs.shape[:1]):
            raise ValueError(f"extra {name!r} has shape {tuple(value.shape)}: give one number a sample, ({len(policy_error)},), "
                             f"or one a pair, ({len(pairs)},)")
    reference = None if reference_error is None else -0.5 * upcast(reference_error)
    return Evidence(-0.5 * upcast(policy_error), reference, size=policy_error.new_ones(len(policy_error)), extra=dict(extra or {}))
