"""What a training step takes: its memory and time, measured on one and two records and carried on to the batch of the run."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from diffalign.train.batch import Order
from diffalign.train.loop import Run
from diffalign.train.parts import Parts


@dataclass(frozen=True)
class Phase:
    """Peaks in bytes, of everything on the device, while gradients are made and while weights are updated; seconds of the step."""

    gradients: int
    update: int
    seconds: float


@dataclass(frozen=True)
class Footprint:
    """one, two: a step on batches of one and of two records (equal where there is one record only). accumulated: batches in each."""

    one: Phase
    two: Phase
    accumulated: int

    def bytes_at(self, batch: int) -> int:
        """Peak of a step with ``batch`` records in a forward pass: activations grow with them, weights and optimizer do not."""
        slope = max(0, self.two.gradients - self.one.gradients)
        return max(self.one.gradients + (batch - 1) * slope, self.one.update, self.two.update)

    def seconds_at(self, batch: int, accumulation: int) -> float:
        slope = max(0.0, self.two.seconds - self.one.seconds)
        return (self.one.seconds + (batch - 1) * slope) * accumulation / self.accumulated


class Always(Order):
    """An order in which every batch holds the same records."""

    def __init__(self, indices: list[int], accumulation: int):
        self.indices, self.accumulation = indices, accumulation

    def step(self, step: int) -> list[tuple[int, list[int]]]:
        return [(step * self.accumulation + k, self.indices) for k in range(self.accumulation)]


class TensorMemory(TorchDispatchMode):
    """Bytes of the tensors that exist, and their peak, where no allocator counts them (the CPU). What a kernel uses for itself is not seen.

    Args:
        known: tensors that exist already.
    """

    def __init__(self, known: Iterable[Tensor]):
        super().__init__()
        self.now = self.most = 0
        self.alive: dict[int, Any] = {}
        for tensor in known:
            self._see(tensor)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tensors_in(out):
            self._see(tensor)
        return out

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.alive or tensor.device.type == "meta":
            return

        def freed(_, key=key, size=size):
            del self.alive[key]
            self.now -= size

        self.alive[key] = weakref.ref(storage, freed)
        self.now += size
        self.most = max(self.most, self.now)


class Meter:
    """Peak bytes on the run's device since ``restart``; a context around the steps."""

    def __init__(self, device: torch.device, known: Iterable[Tensor]):
        self.cuda = device if device.type == "cuda" else None
        self.tensors = None if self.cuda else TensorMemory(known)

    def watching(self) -> AbstractContextManager:
        return self.tensors or nullcontext()

    def restart(self) -> None:
        if self.cuda:
            torch.cuda.reset_peak_memory_stats(self.cuda)
        else:
            self.tensors.most = self.tensors.now

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated(self.cuda) if self.cuda else self.tensors.most


def measure(run: Run, indices: list[int]) -> Footprint:
    """Steps of ``run`` on one record and on two, each once for memory and once for time. It has made a step before: then the state of the
    optimizer is there.

    Args:
        indices: one or two records of one shape.

    Raises what a step raises.
    """
    accumulated = min(2, run.config.gradient_accumulation_steps)  # from the second batch on gradients are there beside activations
    found = []
    for batch in (indices[:1], indices):
        run.parts.order = Always(batch, accumulated)
        gradients, update = peaks(run)
        started = _clock(run.accelerator.device)
        run.one_step()
        found.append(Phase(gradients, update, _clock(run.accelerator.device) - started))
    return Footprint(*found, accumulated)


def peaks(run: Run) -> tuple[int, int]:
    """Peak bytes of one step before its update, and from there on."""
    meter = Meter(run.accelerator.device, sum(resident(run.parts).values(), []))
    before = []

    def at_update(*_: Any) -> None:
        before.append(meter.peak())
        meter.restart()

    hook = run.parts.optimizer.optimizer.register_step_pre_hook(at_update)
    with meter.watching():
        meter.restart()
        run.one_step()
    hook.remove()
    return before[0] if before else meter.peak(), meter.peak()  # float16's scaler may skip an update


def resident(parts: Parts) -> dict[str, list[Tensor]]:
    """The tensors that are there from step to step; copies are moving averages and a frozen reference."""
    module, reference = parts.model.module, parts.reference
    own = {} if reference is None else {name: value for name, value in vars(reference).items() if name != "model"}
    return {
        "weights": [*module.parameters(), *module.buffers()],
        "optimizer state": list(tensors_in(parts.optimizer.state)),
        "copies": list(tensors_in([parts.ema, own])),
    }


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors of a value: itself, or in its lists and mappings, or a moving average's."""
    from diffusers.training_utils import EMAModel

    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, EMAModel):
        yield from value.shadow_params
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(part)


def size(tensors: Iterable[Tensor]) -> int:
    """Bytes, those of one storage once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
