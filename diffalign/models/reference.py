"""The reference: what the policy is compared with, one explicit choice.

none    no reference (MaPO)
base    the model under the adapter; moves away from `start` when training continues an existing adapter
start   the weights training started from: a frozen copy (full fine-tuning), the adapter switched off (fresh LoRA: the same thing,
        without a copy), or a second, frozen adapter (continued LoRA)
past    an adapter that was saved earlier, frozen, beside the one that is trained
ema     an exponential moving average of the trained weights: ema <- decay * ema + (1 - decay) * policy after each optimizer step
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from diffalign.models import lora

KINDS = ("none", "base", "start", "past", "ema")
EMA_DECAY = 0.999


class Model(Protocol):
    """What a reference asks of a model of any modality: the bare network that is trained, and the call that a step makes."""

    module: nn.Module
    device: torch.device

    def predict(self, *args: Any, network: Callable[..., Any] | None = None) -> Tensor: ...


class Reference:
    """Predictions to compare with; the policy (weights, adapters, gradient flags, train mode) is the same before and after a call.

    Attributes: kind; ``equals_policy_at_start``, whether log-ratios are exactly zero before the first step (then a loss's value is known).
    A LoRA dropout, active only in the policy's train mode, is the one thing that breaks that equality.
    """

    kind: str
    equals_policy_at_start: bool

    def __init__(self, model: Model):
        self.model = model

    def weights(self) -> AbstractContextManager[Callable[..., Any]]:
        """A context that yields the network to call, with the reference's weights."""
        raise NotImplementedError

    def predict(self, *args: Any) -> Tensor:
        """The reference's prediction: arguments and result as of ``model.predict``. No gradients, evaluation mode."""
        with torch.no_grad(), evaluating(self.model.module), self.weights() as network:
            return self.model.predict(*args, network=network)

    def update(self) -> None:
        """Call once after each optimizer step."""

    def describe(self) -> str:
        """One line for the log and the model card."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run cannot rebuild from the model's source."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError(
                f"reference '{self.kind}' keeps no state and the checkpoint has some: resume with the reference it was saved with"
            )


class AdapterOff(Reference):
    """The base model: the policy with its adapters switched off."""

    def __init__(self, model: Model, kind: str):
        super().__init__(model)
        self.kind, self.equals_policy_at_start = kind, lora.is_fresh(model.module)

    @contextmanager
    def weights(self) -> Iterator[nn.Module]:
        with lora.disabled(self.model.module):
            yield self.model.module

    def describe(self) -> str:
        note = "" if self.equals_policy_at_start else "; the policy starts from a trained adapter, so log-ratios do not start at zero"
        return f"{self.kind}: the base model, adapter switched off (no copy){note}"


class FrozenCopy(Reference):
    """A copy of all the network's weights, made now. A resumed run makes it before it loads its own weights, so it is not saved.

    The copy runs through the policy's own module, so that whatever accelerate does to that (autocast, attention kernels) it does to both.
    """

    kind, equals_policy_at_start = "start", True

    def __init__(self, model: Model):
        super().__init__(model)
        self.frozen = {name: parameter.detach().clone() for name, parameter in model.module.named_parameters()}

    @contextmanager
    def weights(self) -> Iterator[Callable[..., Any]]:
        yield lambda *args, **kwargs: functional_call(self.model.module, self.frozen, args, kwargs)

    def describe(self) -> str:
        return f"start: a frozen copy of the network ({sum(tensor.numel() for tensor in self.frozen.values()):,} parameters)"


class SecondAdapter(Reference):
    """A frozen adapter named ``reference`` with the values the continued adapter has now."""

    kind, equals_policy_at_start = "start", True
    name = "reference"

    def __init__(self, model: Model):
        super().__init__(model)
        lora.duplicate(model.module, "default", self.name)

    @contextmanager
    def weights(self) -> Iterator[nn.Module]:
        with lora.active(self.model.module, self.name):
            yield self.model.module

    def describe(self) -> str:
        return "start: a frozen copy of the adapter that training continues"

    def state_dict(self) -> dict[str, Any]:
        return {key: parameter.detach().clone() for key, parameter in lora.adapter_parameters(self.model.module, self.name)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        own = dict(lora.adapter_parameters(self.model.module, self.name))
        if set(state) != set(own):
            raise ValueError(
                f"the saved reference adapter has {len(state)} tensors and this one other {len(own)}: were its targets the same?"
            )
        for key, parameter in own.items():
            parameter.copy_(state[key])


class PastAdapter(SecondAdapter):
    """A frozen adapter named ``reference`` with the values of a file, such as an earlier checkpoint of the policy."""

    kind, equals_policy_at_start = "past", False

    def __init__(self, model: Model, folder: str):
        Reference.__init__(self, model)
        lora.load_beside(model.module, folder, self.name)
        self.folder = folder

    def describe(self) -> str:
        return f"past: the adapter of {self.folder}, frozen; the policy starts elsewhere, so log-ratios do not start at zero"


class MovingAverage(Reference):
    """diffusers' EMAModel over the trained parameters, at a constant decay from the first update on.

    Deviates: EMAModel's default jumps to the policy at the first update and warms its decay up, meant for averages of weights that start
    at random; a reference starts at good weights and has to trail the policy from the beginning.
    """

    kind, equals_policy_at_start = "ema", True

    def __init__(self, model: Model, decay: float):
        from diffusers.training_utils import EMAModel

        super().__init__(model)
        trained = {name: parameter for name, parameter in model.module.named_parameters() if parameter.requires_grad}
        if not trained:
            raise ValueError(
                "reference 'ema' averages the trainable parameters and there are none: add an adapter or unfreeze the network"
            )
        self.names = list(trained)
        self.average = EMAModel(trained.values(), decay=decay, min_decay=decay, update_after_step=-1)

    @contextmanager
    def weights(self) -> Iterator[Callable[..., Any]]:
        averaged = dict(zip(self.names, self.average.shadow_params, strict=True))
        yield lambda *args, **kwargs: functional_call(self.model.module, averaged, args, kwargs)

    def update(self) -> None:
        parameters = dict(self.model.module.named_parameters())
        self.average.step([parameters[name] for name in self.names])

    def describe(self) -> str:
        return f"ema: moving average of {len(self.names)} trained tensors, decay {self.average.decay:g} an optimizer step"

    def state_dict(self) -> dict[str, Any]:
        return self.average.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.average.load_state_dict(state)
        self.average.to(self.model.device)


def make_reference(
    kind: str, model: Model, *, continued_adapter: bool = False, ema: float | None = None, past: str | None = None
) -> Reference | None:
    """The reference of a run. Call it once the policy's weights and adapters are what training starts from, on their final device.

    Args:
        kind: one of ``none | base | start | past | ema``.
        continued_adapter: the adapter ``default`` was loaded and is trained further.
        ema: the decay of ``ema`` (0.999 unless given). past: the folder (or file) of the adapter that ``past`` is.
    Errors: ValueError for combinations that do not exist, or that would silently mean another reference.
    """
    if kind not in KINDS:
        raise ValueError(f"reference must be one of {', '.join(KINDS)}, got {kind!r}")
    if ema is not None and kind != "ema":
        raise ValueError(f"ema={ema} is read by the reference 'ema' only, and the reference is '{kind}': drop it, or choose 'ema'")
    if (past is not None) != (kind == "past"):
        raise ValueError(f"the reference is '{kind}' and past={past!r}: 'past' is the adapter of a folder, and nothing else reads one")
    adapters = lora.adapter_names(model.module)
    if continued_adapter and "default" not in adapters:
        raise ValueError("continued_adapter=True, but the network has no adapter 'default': load it with lora.load first")
    if adapters and not continued_adapter and not lora.is_fresh(model.module):
        raise ValueError(
            "the adapter 'default' is not fresh (its B is not zero), so 'start' and 'base' differ: "
            "pass continued_adapter=True, and choose 'start' (the adapter as it is now) or 'base' (without it)"
        )
    if kind == "none":
        return None
    if kind == "base":
        if not adapters:
            raise ValueError("reference 'base' switches the adapter off and there is none (full fine-tuning): use 'start', a frozen copy")
        return AdapterOff(model, "base")
    if kind == "past":
        if not adapters:
            raise ValueError("reference 'past' is an adapter beside the trained one and there is none (full fine-tuning): use 'start'")
        return PastAdapter(model, past)
    if kind == "start":
        if not adapters:
            return FrozenCopy(model)
        return SecondAdapter(model) if continued_adapter else AdapterOff(model, "start")
    decay = EMA_DECAY if ema is None else ema
    if not 0 <= decay < 1:
        raise ValueError(f"ema is the decay of the moving average and lies in [0, 1), got {decay}")
    return MovingAverage(model, decay)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode; every module's own mode comes back."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        network.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode
