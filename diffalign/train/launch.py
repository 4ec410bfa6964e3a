"""``diffalign train --gpus N``: the processes of a run on one machine are started here, and how they ended is said in one line."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import uuid

import torch

from diffalign.train.errors import TrainingError


def processes_problem(processes: int, on_cpu: bool) -> list[str]:
    """What is wrong with a number of processes on this machine, or beside those that were started already; [] where nothing is."""
    started = int(os.environ.get("WORLD_SIZE", "1"))
    there = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    if processes < 1:
        return [f"gpus is {processes}; it must be at least 1"]
    if started > 1 and processes not in (1, started):
        return [f"gpus is {processes}, and {started} processes were started already: leave --gpus out"]
    if started == 1 and processes > max(there, 1) and not on_cpu:
        return [f"gpus is {processes}, and this machine has {there}: use no more, or --device cpu for processes on the CPU"]
    return []


def launch(argv: list[str], processes: int) -> int:
    """``diffalign train ARGV`` in that many processes, by torchrun's own machinery; returns the exit code.

    One that fails ends the others. It has then told why (``ranks.Ranks.together``), unless it was killed.

    Raises:
        TrainingError: a process was killed, such as by the system when memory ran out.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    watcher = logging.getLogger("torch.distributed.elastic")  # its reports of failed processes would bury ours
    watcher.addHandler(logging.NullHandler())
    watcher.propagate = False
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    with tempfile.TemporaryDirectory(prefix="diffalign-") as folder:
        settings = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id=uuid.uuid4().hex, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
            max_restarts=0, monitor_interval=0.1, local_addr="localhost", logs_specs=DefaultLogsSpecs(log_dir=folder),
        )  # fmt: skip
        try:
            elastic_launch(settings, sys.executable)("-m", "diffalign", "train", *argv)
        except ChildFailedError as failed:
            rank, failure = failed.get_first_failure()
            if failure.exitcode > 0:
                return failure.exitcode
            name = signal.Signals(-failure.exitcode).name
            print(file=sys.stderr)  # the progress bar of the first process was left where it stood
            raise TrainingError(
                f"process {rank} of {processes} was killed ({name}; by the system where memory ran out), and the others were ended: start "
                "the run again, which goes on from its last checkpoint"
            ) from None
        except SignalException as stopped:
            if stopped.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            return 128 + stopped.sigval
    return 0
