r"""Which times to train at: pure functions of uniforms, so that the draw is made elsewhere (`Draws`) and never depends on rank or order.

    sampler = timesteps.get("uniform")
    t = sampler(u, path)            u (N,) in [0, 1)      t (N,) int64 for DDPM, float32 s for flow

Options are in timesteps of the network, 0..T, for both kinds of path. The members of a pair share one u, and so one t.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from diffalign.denoising.path import Path
from diffalign.objectives.table import unknown

Sampler = Callable[[Tensor, Path], Tensor]


@dataclass(frozen=True)
class Uniform:
    """Every timestep of [low, high) equally often; high is T unless given. Diffusion-DPO's choice (arXiv:2311.12908) is the full range."""

    low: int = 0
    high: int | None = None

    def __call__(self, u: Tensor, path: Path) -> Tensor:
        high = path.num_timesteps if self.high is None else self.high
        if not 0 <= self.low < high <= path.num_timesteps:
            raise ValueError(f"the range [low, high) must be inside [0, {path.num_timesteps}]; got low={self.low}, high={high}")
        return path.at(_below(self.low + _checked(u) * (high - self.low), high))


@dataclass(frozen=True)
class LogitNormal:
    """t = T sigmoid(logit_mean + logit_std n), n standard normal: the middle of the path more often (arXiv:2403.03206, section 3.1)."""

    logit_mean: float = 0.0
    logit_std: float = 1.0

    def __post_init__(self):
        if not self.logit_std > 0:
            raise ValueError(f"logit_std must be positive; got {self.logit_std}")

    def __call__(self, u: Tensor, path: Path) -> Tensor:
        share = torch.sigmoid(self.logit_mean + self.logit_std * torch.special.ndtri(_checked(u)))
        return path.at(_below(path.num_timesteps * share, path.num_timesteps))


@dataclass(frozen=True)
class FromList:
    """One of a few timesteps, each equally often. SDXL-Turbo is trained at (249, 499, 749, 999)."""

    timesteps: tuple[float, ...]

    def __post_init__(self):
        if not self.timesteps:
            raise ValueError("the list of timesteps is empty: give at least one, such as (249, 499, 749, 999)")

    def __call__(self, u: Tensor, path: Path) -> Tensor:
        choices = torch.tensor(self.timesteps, dtype=torch.float64, device=u.device)
        if not path.continuous and (choices != choices.floor()).any():
            raise ValueError(f"a DDPM path has whole timesteps only; got {self.timesteps}")
        return path.at(choices[_below(_checked(u) * len(choices), len(choices)).to(torch.int64)])


SAMPLERS: dict[str, type] = {"uniform": Uniform, "logit_normal": LogitNormal, "list": FromList}


def get(name: str, **options) -> Sampler:
    """A sampler by name: "uniform" (low, high), "logit_normal" (logit_mean, logit_std), "list" (timesteps).

    Raises:
        ValueError: for an unknown name, or an option the sampler does not have.
    """
    if name not in SAMPLERS:
        raise unknown("timestep sampler", name, SAMPLERS)
    allowed = [part.name for part in fields(SAMPLERS[name])]
    for option in options:
        if option not in allowed:
            raise unknown(f"option of {name}", option, allowed)
    if name == "list":
        if "timesteps" not in options:
            raise ValueError("the list sampler needs timesteps, such as (249, 499, 749, 999)")
        options["timesteps"] = tuple(options["timesteps"])
    return SAMPLERS[name](**options)


def _checked(u: Tensor) -> Tensor:
    """(N,) uniforms as float64."""
    if u.ndim != 1 or not ((u >= 0) & (u < 1)).all():
        raise ValueError(f"uniforms must be (N,) in [0, 1); got shape {tuple(u.shape)}, values {u.flatten().tolist()}")
    return u.to(torch.float64)


def _below(position: Tensor, end: float) -> Tensor:
    """Undo a rounding up to the end of a half-open range."""
    end = torch.as_tensor(end, dtype=torch.float64, device=position.device)
    return position.minimum(torch.nextafter(end, torch.zeros_like(end)))
