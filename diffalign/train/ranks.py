"""Several processes of one run: each takes its share of every batch, and what they find is summed.

The records of a step are a pure function of its number (``batch.Order``), and process r of R takes the records r, r + R, ... of each of its
batches: as many as the others, one less, or none. What is random in an example belongs to the record (``Draws``). So neither how many
processes there are nor their order changes a result by more than the rounding of a sum, and a run may go on with other ones.

Gradients are summed here and not by torch's DistributedDataParallel. A loss has the number of units of the whole step for a denominator
(``objectives.reduce``), so the sum over processes of whatever each of them has is the gradient, exactly, however unevenly they share; DDP
averages, so it would have to be scaled back; it takes a forward of the wrapped module and a backward of the same parameters on every
process, which a process without a record, a reference that runs through the same module and sampling from the bare network do not give.
What it offers in return, to sum while the backward pass still runs, matters for all the weights over a slow network, and hardly for an
adapter.

Beside the gradients everything travels as small objects over gloo, in messages that say whether they hold a value or an error. So what
stops one process stops the others at their next message, and a process that has died is noticed by its closed connection.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from diffalign import objectives
from diffalign.train.errors import ConfigError, Elsewhere, TrainingError

SETTING_UP = timedelta(days=2)  # how long the others wait while the first encodes a large data set
STEP = timedelta(hours=1)  # how long a process waits for another that hangs; one that has died is noticed at once
GRACE = 5.0  # seconds that the others leave to the process that says what happened, before whoever started them all ends them
BUCKET = 2**24  # elements of gradients that are summed at once: 64 MiB of float32


@dataclass
class Ranks:
    """The processes of a run, as one of them sees them; ``Ranks()`` is a run of one process, for which nothing below does anything.

    ``rank``: its number, 0 for the first, which alone writes and speaks. ``size``: how many there are. ``group``: of torch.distributed,
    what messages go through now; ``of_steps``: what they go through once the run is set up.
    """

    rank: int = 0
    size: int = 1
    group: Any = None
    of_steps: Any = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, items: list) -> list:
        """The items of this process: every ``size``-th from its own on."""
        return items[self.rank :: self.size]

    def exchange(self, value: Any = None) -> list:
        """What every process brings to this call, in the order of ranks. Waits for the slowest.

        Args:
            value: plain Python, or tensors on the CPU.

        Raises:
            Elsewhere: another process has stopped. TrainingError, in the first: one has died or does not answer.
        """
        return [value] if self.size == 1 else self._gathered((None, value))

    def agree(self, value: Any, otherwise: str) -> None:
        """Raises TrainingError with ``otherwise`` unless all processes bring the same value."""
        if any(other != value for other in self.exchange(value)):
            raise TrainingError(otherwise)

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, on the tensor's device: ``all_reduce`` of ``objectives.get``."""
        if self.size == 1:
            return tensor
        return torch.stack(self.exchange(tensor.detach().cpu())).sum(0).to(tensor.device)

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """Within it the first process does what the others, who come after it, find done."""
        if not self.first:
            self.exchange()
        yield
        if self.first:
            self.exchange()

    def set_up(self) -> None:
        """From now on nobody takes long: a process that does not answer within ``STEP`` ends the run."""
        self.group = self.of_steps

    @contextmanager
    def together(self) -> Iterator[None]:
        """What stops one process in here stops all. One of those with an error raises it, the others raise ``Elsewhere``."""
        try:
            yield
        except (Elsewhere, Lost):
            raise
        except Exception as error:
            if self.size == 1:
                raise
            try:
                self._gathered((2 if isinstance(error, ConfigError) else 1, self.rank))
            except Elsewhere as told:
                if told.rank != self.rank:
                    raise
            except Lost:
                pass  # its own error says more
            raise

    def _gathered(self, message: tuple[int | None, Any]) -> list:
        """The values of all processes' messages; a message is (None, value) or (exit code, rank) of a process that stops."""
        found = [None] * self.size
        with self._reaching():
            torch.distributed.all_gather_object(found, message, group=self.group)
        stopped = [message for message in found if message[0] is not None]
        if stopped:
            code, speaker = stopped[0]
            if speaker != self.rank:
                time.sleep(GRACE)
            raise Elsewhere(code, speaker)
        return [value for _, value in found]

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Around a call of torch.distributed, which fails where a process has died or stays silent for too long."""
        try:
            yield
        except RuntimeError as error:
            time.sleep(GRACE)  # where someone watches over the processes, they say more and end this one now
            if not self.first:
                raise Elsewhere(1, 0) from error
            raise Lost(
                f"another of the {self.size} processes of this run has died or does not answer: look at what it said last, and start the "
                "run again, which goes on from its last checkpoint"
            ) from error

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Every ``grad`` becomes the sum over all processes, the same bits on each. One that no process has stays None."""
        if self.size == 1:
            return
        parameters = list(parameters)
        there = zip(*self.exchange([parameter.grad is not None for parameter in parameters]), strict=True)
        for bucket in _buckets([parameter for parameter, flags in zip(parameters, there, strict=True) if any(flags)]):
            grads = [torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in bucket]
            flat = torch.cat([grad.flatten() for grad in grads])
            with self._reaching():
                torch.distributed.all_reduce(flat)
            for parameter, part in zip(bucket, flat.split([len(grad.flatten()) for grad in grads]), strict=True):
                parameter.grad = part.view(parameter.shape)


ALONE = Ranks()


class Lost(TrainingError):
    """A process of the run has died or does not answer."""


def connect(accelerator) -> Ranks:
    """The processes that accelerate has found.

    Raises:
        ConfigError: processes that do not see each other, or what accelerate is configured for is not plain data parallelism.
    """
    started, size = int(os.environ.get("WORLD_SIZE", "1")), accelerator.num_processes
    if started > 1 and size != started:
        raise ConfigError(f"{started} processes were started and accelerate found {size}: start one a GPU, or use --device cpu")
    kind = accelerator.distributed_type.value
    if kind != "NO" and not kind.startswith("MULTI_"):
        raise ConfigError(f"accelerate is configured for {kind}; processes here each hold the whole model: choose multi-GPU or multi-CPU")
    if size == 1:
        return ALONE
    group, of_steps = (torch.distributed.new_group(backend="gloo", timeout=patience) for patience in (SETTING_UP, STEP))
    return Ranks(accelerator.process_index, size, group, of_steps)


def coupling_problem(objective: str, ranks: Ranks) -> str | None:
    """Why an objective cannot be had with several processes, or None: it compares records of one forward pass, and shares have others."""
    row = objectives.TABLE[objective]
    if ranks.size == 1 or not (row.couples == "call" or "extra:mismatched" in row.needs):
        return None
    return (
        f"the objective {objective} compares the records of a forward pass with each other, and {ranks.size} processes share them out: "
        "start one process, or choose another objective"
    )


def fingerprint(tensors: Iterable[Tensor]) -> int:
    """A number that tells the bits of tensors apart: the same on processes that hold the same weights."""
    return int(sum(tensor.detach().flatten().view(torch.int16).sum(dtype=torch.int64) for tensor in tensors))


@contextmanager
def said_once() -> Iterator[None]:
    """Before the processes are connected all of them refuse the same things, and the first of each machine says so."""
    try:
        yield
    except (ConfigError, ImportError) as error:
        if int(os.environ.get("LOCAL_RANK", "0")) > 0:
            raise Elsewhere(2 if isinstance(error, ConfigError) else 1, 0) from error
        raise


def _buckets(parameters: list[torch.nn.Parameter]) -> Iterator[list[torch.nn.Parameter]]:
    """The parameters in their order, about ``BUCKET`` elements at a time."""
    bucket, elements = [], 0
    for parameter in parameters:
        bucket.append(parameter)
        elements += parameter.numel()
        if elements >= BUCKET:
            yield bucket
            bucket, elements = [], 0
    if bucket:
        yield bucket
