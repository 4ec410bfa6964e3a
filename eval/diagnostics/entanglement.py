"""Gradient entanglement: what a step up the chosen and down the rejected does to each of them, through the weights they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffalign.denoising import denoising_error
from diffalign.models.reference import evaluating
from diffalign.train.batch import Batch
from diffalign.train.labels import pairs_of

PATTERNS = ("chosen rises, rejected falls", "both rise", "both fall", "chosen falls, rejected rises")


@dataclass(frozen=True)
class Entanglement:
    r"""Inner products of the gradients g_w, g_l of the evidence of P pairs. A step along  c_w g_w - c_l g_l  changes, to first order in its
    length,

        chosen by    c_w |g_w|^2 - c_l <g_w, g_l>        falls iff  <g_w, g_l>/|g_w|^2 > c_w/c_l
        rejected by  c_w <g_w, g_l> - c_l |g_l|^2        rises iff  <g_w, g_l>/|g_l|^2 > c_l/c_w

    DPO has c_w = c_l, so there both fall iff |g_w|^2 < <g_w, g_l> < |g_l|^2. Source: arXiv:2410.13828 through the project's notes. The
    lines above are a Taylor expansion and are tested against finite steps; the paper's own statement was not checked.

    Attributes: ``chosen``, ``rejected`` (P,) squared norms, ``inner`` (P,) float64; ``together``: the same of the mean gradients over all
    pairs, as arrays (1,), which is what a step on the whole batch feels; None where this is itself such a mean.
    """

    chosen: np.ndarray
    rejected: np.ndarray
    inner: np.ndarray
    together: Entanglement | None = None

    @property
    def cosine(self) -> np.ndarray:
        """(P,) in [-1, 1]; 0 where a gradient is zero."""
        scale = np.sqrt(self.chosen * self.rejected)
        return np.divide(self.inner, scale, out=np.zeros_like(scale), where=scale > 0)

    @property
    def chosen_ratio(self) -> np.ndarray:
        """(P,) <g_w, g_l>/|g_w|^2: the chosen falls where it exceeds c_w/c_l (1 for DPO)."""
        return _ratio(self.inner, self.chosen)

    @property
    def rejected_ratio(self) -> np.ndarray:
        """(P,) <g_w, g_l>/|g_l|^2: the rejected rises where it exceeds c_l/c_w (1 for DPO)."""
        return _ratio(self.inner, self.rejected)

    def change(self, chosen_weight: float = 1.0, rejected_weight: float = 1.0) -> np.ndarray:
        """(P, 2) first-order changes of the evidence of (chosen, rejected) a unit of the step, each pair taking its own step."""
        chosen = chosen_weight * self.chosen - rejected_weight * self.inner
        return np.stack([chosen, chosen_weight * self.inner - rejected_weight * self.rejected], 1)

    def patterns(self, chosen_weight: float = 1.0, rejected_weight: float = 1.0) -> dict[str, float]:
        """Share of pairs that such a step moves each of the four ways; no change counts as the way that is not wanted.

        The last would need <g_w, g_l>^2 >= |g_w|^2 |g_l|^2, so only parallel gradients (or none) are found there.
        """
        up, down = (self.change(chosen_weight, rejected_weight) * [1, -1] > 0).T
        shares = (up & down, up & ~down, ~up & down, ~up & ~down)
        return dict(zip(PATTERNS, (float(part.mean()) for part in shares), strict=True))

    def loser_weight(self, kept: float = 0.0) -> np.ndarray:
        """(P,) the largest c_l in [0, 1] beside c_w = 1 that leaves the chosen ``kept`` of its own ascent: c_w |g_w|^2 - c_l <g_w, g_l> >=
        kept |g_w|^2. What Diffusion-SDPO computes in output space (``denoising.outputs.balance``, there ``mu``), here in the weights."""
        if not 0 <= kept <= 1:
            raise ValueError(f"kept is {kept}; it is a share of the chosen's own ascent and lies in [0, 1]")
        room = np.divide((1 - kept) * self.chosen, self.inner, out=np.ones_like(self.inner), where=self.inner > 0)
        return room.clip(0, 1)

    def measures(self) -> dict[str, dict[str, Any]]:
        """For ``Evaluation.diagnostics``: of steps with equal weights, as DPO's are."""
        n = len(self.inner)
        found = {f"a step on a pair: {name}": {"value": value, "n": n} for name, value in self.patterns().items()}
        found["cosine of the two gradients, median"] = {"value": float(np.median(self.cosine)), "n": n}
        if self.together is not None:
            found["chosen ratio of the whole batch"] = {"value": float(self.together.chosen_ratio[0]), "n": n, "note": "above 1 it falls"}
        return found


def entanglement(evidence: Tensor, pairs: Tensor, parameters: Sequence[Tensor]) -> Entanglement:
    """Of pairs whose evidence is already computed, with its graph: one backward pass a side, no gradient is written to ``.grad``.

    Args:
        evidence: (N,), what a margin is made of: summed log-probabilities, or -1/2 denoising error. (A log-ratio has the same gradients.)
        pairs: (P, 2) rows (chosen, rejected). parameters: those that training moves; held are the gradients of four samples at once.

    Raises:
        ValueError: evidence without a graph, no parameters, or no pairs.
    """
    parameters, pairs = list(parameters), pairs.tolist()
    if not evidence.requires_grad or not parameters or not pairs:
        raise ValueError(
            f"entanglement needs evidence with a graph (requires_grad is {evidence.requires_grad}), parameters ({len(parameters)}) and "
            f"pairs ({len(pairs)}): compute the evidence with gradients, of parameters that require them"
        )
    gradients = partial(torch.autograd.grad, inputs=parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
    rows, totals = [], [[torch.zeros_like(p) for p in parameters] for _ in (0, 1)]
    for pair in pairs:
        sides = [gradients(evidence[row]) for row in pair]
        rows.append(_products(*sides))
        for total, side in zip(totals, sides, strict=True):
            torch._foreach_add_(total, list(side), alpha=1 / len(pairs))
    together = Entanglement(*np.array([_products(*totals)]).T)
    return Entanglement(*np.array(rows).T, together=together)


def denoising_entanglement(
    model, batch: Batch, *, noising: Callable | None = None, reference=None, parameters: Sequence[Tensor] | None = None,
    autocast: Callable = nullcontext,
) -> Entanglement:  # fmt: skip
    """Of a diffusion model on a batch of pairs: g is the gradient of -1/2 of a sample's denoising error at the batch's noise and time.

    Args:
        model, batch: as ``preference_step`` takes them. parameters: default: all of the denoiser that require gradients.
        noising: ``train.noising.Noising`` of a method that inverts (with the ``reference`` it may need); default: the batch's own noise.

    Raises:
        ValueError: the batch has no pairs, or nothing requires gradients.
    """
    parameters = [p for p in model.denoiser.parameters() if p.requires_grad] if parameters is None else list(parameters)
    with evaluating(model.denoiser), torch.enable_grad():
        if noising is None:
            x_t, noise = model.path.add_noise(batch.x0, batch.noise, batch.t), batch.noise
        else:
            x_t, noise = noising(model, reference, batch, autocast)
        with autocast():
            prediction = model.predict(x_t, batch.t, batch.conditioning)
        error = denoising_error(prediction, model.path.target(batch.x0, noise, batch.t), batch.mask)
        return entanglement(-0.5 * error, pairs_of(batch.labels), parameters)


def _products(chosen: Sequence[Tensor], rejected: Sequence[Tensor]) -> tuple[float, float, float]:
    """(|g_w|^2, |g_l|^2, <g_w, g_l>), added up in float64."""
    def dot(a, b):
        return float(sum((x.double() * y.double()).sum() for x, y in zip(a, b, strict=True)))

    return dot(chosen, chosen), dot(rejected, rejected), dot(chosen, rejected)


def _ratio(inner: np.ndarray, norm: np.ndarray) -> np.ndarray:
    """inner / norm; 0 where the gradient is zero."""
    return np.divide(inner, norm, out=np.zeros_like(norm), where=norm > 0)
