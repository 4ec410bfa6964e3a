r"""The path from data to noise, and everything that follows from it:

    x_t    = alpha x0 + sigma noise
    target =     a x0 +     b noise          what the network learns to predict; a prediction kind is a row (a, b)

The two lines are one 2x2 system in (x0, noise). Solving it turns any kind of prediction into any other, so that epsilon-, v-, sample- and
flow prediction, DDPM and flow matching, share one formula. Signs and names are diffusers'.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from diffalign.objectives.evidence import upcast
from diffalign.objectives.table import unknown


@dataclass(frozen=True, eq=False)
class Coefficients:
    r"""alpha and sigma of x_t = alpha x0 + sigma noise, and their derivatives along the path, each (N,). The derivatives are in the path's
    own time: the angle arctan(sigma/alpha) for DDPM, where the velocity d_alpha x0 + d_sigma noise is v (arXiv:2202.00512), and s
    for flow matching, where it is noise - x0 (arXiv:2210.02747)."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor


def _constant(a: float, b: float) -> Callable[[Coefficients], tuple[Tensor, Tensor]]:
    return lambda c: (torch.full_like(c.alpha, a), torch.full_like(c.alpha, b))


KINDS: dict[str, Callable[[Coefficients], tuple[Tensor, Tensor]]] = {
    "epsilon": _constant(0.0, 1.0),  # the noise
    "sample": _constant(1.0, 0.0),  # x0
    "v_prediction": lambda c: (-c.sigma, c.alpha),  # alpha noise - sigma x0
    "flow": _constant(-1.0, 1.0),  # noise - x0
}


class Schedule(Protocol):
    """Where a time is on the path; see `schedules.py`."""

    num_timesteps: int
    continuous: bool

    def coefficients(self, t: Tensor, dtype: torch.dtype) -> Coefficients: ...
    def at(self, position: Tensor) -> Tensor: ...
    def model_time(self, t: Tensor) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Path:
    r"""A schedule and the kind of prediction its network makes. Made by `ddpm_path` and `flow_path`.

    Times `t` are (N,): int64 timesteps for DDPM, floats s in [0, 1] (1 is noise) for flow. Keep them on the CPU, where checking is free.
    Latents are (N, ...). All maths, and all results, are float32 for half-precision latents and float64 for float64 ones: in bfloat16
    SDXL's coefficients are off by over 5 % at 12 timesteps. Cast to the network's dtype last.

    Raises:
        ValueError: for an unknown kind, times of the wrong type, shape or range, latents that do not match.
    """

    prediction_type: str
    schedule: Schedule

    def __post_init__(self):
        _kind(self.prediction_type)

    @property
    def num_timesteps(self) -> int:
        """T, the length of the network's time axis."""
        return self.schedule.num_timesteps

    @property
    def continuous(self) -> bool:
        """True if times are real numbers (flow), False if they are integers (DDPM)."""
        return self.schedule.continuous

    def at(self, position: Tensor) -> Tensor:
        """(N,) positions in [0, T] of the network's time axis, real numbers -> times t of this path (DDPM rounds down)."""
        return self.schedule.at(position)

    def model_time(self, t: Tensor) -> Tensor:
        """(N,) what the network is fed for times t: t itself for DDPM, T s for flow."""
        return self.schedule.model_time(t)

    def coefficients(self, t: Tensor, dtype: torch.dtype = torch.float32) -> Coefficients:
        """alpha, sigma and their derivatives at times t (N,), as float32 or float64, on t's device."""
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"coefficients are float32 or float64, got {dtype}: compute in float32 and cast x_t for the network")
        if t.ndim != 1:
            raise ValueError(f"times must be one a sample, shape (N,); got shape {tuple(t.shape)}")
        return self.schedule.coefficients(t, dtype)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        r"""x_t = alpha x0 + sigma noise  (arXiv:2006.11239, eq. 4 for DDPM). x0, noise and the result are (N, ...), t is (N,)."""
        c, (x0, noise) = self._place(t, x0, noise)
        return _spread(c.alpha, x0) * x0 + _spread(c.sigma, x0) * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor, kind: str | None = None) -> Tensor:
        r"""a x0 + b noise: what a perfect network predicts, (N, ...). `kind` is the path's own prediction type unless given."""
        c, (x0, noise) = self._place(t, x0, noise)
        a, b = _kind(kind or self.prediction_type)(c)
        return _spread(a, x0) * x0 + _spread(b, x0) * noise

    def convert(self, prediction: Tensor, x_t: Tensor, t: Tensor, to: str, kind: str | None = None) -> Tensor:
        r"""A prediction of one kind as another. With det = alpha b - sigma a of the kind given, and (a', b') the row of `to`,

            result = [ (a' b - b' a) x_t + (alpha b' - sigma a') prediction ] / det

        Args:
            prediction: (N, ...) of kind `kind` (the path's own prediction type unless given).
            x_t: (N, ...) the noisy latents the prediction was made for.
            t: (N,) times.
            to: the kind wanted; "sample" is x0, "epsilon" the noise.

        Raises:
            ValueError: where the kind does not determine x0 and noise: "epsilon" at zero terminal SNR (alpha = 0), "sample" without
                noise (sigma = 0).
        """
        kind = kind or self.prediction_type
        c, (x_t, prediction) = self._place(t, x_t, prediction)
        (a, b), (a_to, b_to) = _kind(kind)(c), _kind(to)(c)
        if kind == to:
            return prediction
        det = c.alpha * b - c.sigma * a
        if (det == 0).any():
            raise ValueError(f"a prediction of kind {kind!r} does not give {to!r} at t = {t[(det == 0)].tolist()}, where alpha = 0 (only "
                             "noise) or sigma = 0 (no noise): leave these times out, or use a v_prediction or flow network")
        of_x_t, of_prediction = (a_to * b - b_to * a) / det, (c.alpha * b_to - c.sigma * a_to) / det
        return _spread(of_x_t, x_t) * x_t + _spread(of_prediction, x_t) * prediction

    def _place(self, t: Tensor, *latents: Tensor) -> tuple[Coefficients, list[Tensor]]:
        """The latents in working precision, and the coefficients for them."""
        shapes = {tuple(x.shape) for x in latents}
        if len(shapes) > 1 or any(len(x) != len(t) for x in latents):
            raise ValueError(f"latents of shapes {sorted(shapes)} and {len(t)} times do not match: give (N, ...) of one shape and t (N,)")
        latents = [upcast(x) for x in latents]
        return self.coefficients(t, torch.promote_types(*(x.dtype for x in latents))), latents


def _kind(name: str) -> Callable[[Coefficients], tuple[Tensor, Tensor]]:
    if name not in KINDS:
        raise unknown("prediction kind", name, KINDS)
    return KINDS[name]


def _spread(coefficient: Tensor, latents: Tensor) -> Tensor:
    """(N,) -> (N, 1, ..., 1) beside the latents."""
    return coefficient.to(latents.device).view(-1, *[1] * (latents.ndim - 1))
