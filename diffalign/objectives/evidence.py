r"""What a model says about N samples: one number a sample, before any `beta` and without any label.

    text                    policy_i = sum over response tokens of log pi(y_i | x_i)              (nats)
    images, audio, LiDAR    policy_i = -1/2 * mean over latent elements of (prediction - target)^2

Larger means that the model likes the sample more. The two rows above differ by units only, which is why one objective serves both.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


def upcast(x: Tensor) -> Tensor:
    """The precision all of our maths is done in: float16, bfloat16 and integers become float32, float64 stays float64."""
    return x if x.dtype == torch.float64 else x.to(torch.float32)


@dataclass(frozen=True, eq=False)
class Evidence:
    r"""Evidence of a policy, and of the reference it is compared with, on N samples.

    Args:
        policy: (N,) evidence of the model being trained; carries the gradient.
        reference: (N,) the same of the reference, in the same units, or None for a reference-free objective. It is detached here, so
            no gradient ever reaches a reference.
        size: (N,) what `policy` was summed over: response tokens for text; 1 where it already is a mean. None if unknown.
        extra: further named scalars a sample (N,) or a pair (P,), with gradient, for methods that read more than one: `extras.EXTRAS` says
            what each name holds.

    Half-precision tensors are cast up to float32; float64 stays float64.

    Raises:
        ValueError: if a tensor is not of floating point, or if `policy` is not (N,), or `reference` or `size` differ from it in shape.
    """

    policy: Tensor
    reference: Tensor | None = None
    size: Tensor | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self):
        if self.policy.ndim != 1:
            raise ValueError(f"evidence is one number a sample, shape (N,); policy has shape {tuple(self.policy.shape)}: reduce it first")
        for name, value in (("policy", self.policy), ("reference", self.reference)):
            if value is not None and not value.is_floating_point():
                raise ValueError(f"evidence must be of floating point; {name} is {value.dtype}")
        for name, value in (("reference", self.reference), ("size", self.size)):
            if value is not None and value.shape != self.policy.shape:
                raise ValueError(
                    f"{name} has shape {tuple(value.shape)}, policy {tuple(self.policy.shape)}: give both for the same N samples"
                )
        set_field = object.__setattr__
        set_field(self, "policy", upcast(self.policy))
        set_field(self, "reference", None if self.reference is None else upcast(self.reference.detach()))
        set_field(self, "size", None if self.size is None else upcast(self.size.detach()))
        set_field(self, "extra", {name: upcast(value) for name, value in self.extra.items()})

    @property
    def log_ratio(self) -> Tensor:
        r"""(N,) policy - reference: log pi_theta / pi_ref for text, 1/2 (error_ref - error_theta) for diffusion. Zero where they agree.

        Raises:
            ValueError: if there is no reference.
        """
        return self.policy - self.the_reference

    @property
    def the_reference(self) -> Tensor:
        """(N,) `reference`. ValueError if there is none."""
        if self.reference is None:
            raise ValueError("this objective compares the policy with a reference and the evidence has reference=None: "
                             "choose a reference (base, start, ema), or a reference-free objective")
        return self.reference

    @property
    def sizes(self) -> Tensor:
        """(N,) `size`. ValueError if there is none, or if a sample has nothing in it."""
        if self.size is None:
            raise ValueError("a length mean needs the size of every sample and the evidence has size=None: "
                             "give the token counts, or ones where the evidence is a mean already")
        if not (self.size > 0).all():
            empty = (~(self.size > 0)).nonzero().flatten().tolist()
            raise ValueError(f"samples {empty} have size {self.size[empty].tolist()}, and a mean over nothing is no number: "
                             "drop empty responses")
        return self.size

    @property
    def error(self) -> Tensor:
        """(N,) -2 * policy: the mean squared denoising error l that diffusion papers write, for text minus twice the log-probability."""
        return -2 * self.policy

    def named(self, name: str, count: int) -> Tensor:
        r"""(count,) the further scalar `name`.

        Raises:
            ValueError: if the evidence does not have it, or it has another shape.
        """
        if name not in self.extra:
            have = ", ".join(self.extra) or "nothing"
            raise ValueError(f"this objective needs extra[{name!r}] and the evidence's extra holds {have}: measure it in the step "
                             "(an objective's `needs` says what to measure)")
        value = self.extra[name]
        if value.shape != (count,):
            raise ValueError(f"extra[{name!r}] has shape {tuple(value.shape)}; this objective needs ({count},)")
        return value
