"""One process of several: the training runs of a list, one after the other, in one group of processes.

    python -m tests.train.ranks_worker RUNS.json          in the environment of torchrun

A run: modality, settings of its configuration, and what is changed of its parts: ``double`` (the network and its inputs in float64, so that
a batch of two and two batches of one differ by rounding alone) and ``breaks`` (the process that cannot measure anything).
"""

import dataclasses
import json
import os
import sys
from pathlib import Path

import torch

from diffalign.llm.config import TextConfig
from diffalign.train import TrainConfig, loop
from diffalign.train.errors import Elsewhere
from diffalign.train.ranks import ALONE


def execute(settings: dict, *, modality: str = "image", double: bool = False, breaks: int | None = None) -> dict:
    """The summary of the run."""
    if modality == "text":
        from diffalign.llm.setup import build

        config = TextConfig(**settings).resolved()
    else:
        from diffalign.train.setup import build

        config = TrainConfig(**settings).resolved()

    def changed(config, device, quiet, ranks=ALONE):
        parts = build(config, device, quiet, ranks)
        if double:
            in_float64(parts)
        if ranks.rank == breaks:
            parts.measure = broken
        return parts

    return loop.run(config, changed, quiet=True)


def in_float64(parts) -> None:
    parts.model.denoiser.double()
    maker = parts.maker

    def made(indices, draw):
        batch = maker(indices, draw)
        conditioning = {name: value.double() if value.is_floating_point() else value for name, value in batch.conditioning.items()}
        return dataclasses.replace(batch, conditioning=conditioning)

    parts.maker = made


def broken(indices, draw, accelerator):
    raise RuntimeError(f"the disk of process {os.environ['RANK']} is gone")


def main(path: str) -> None:
    from accelerate import Accelerator

    own = Accelerator(cpu=True)  # a script with processes of its own may train, and train again
    for run in json.loads(Path(path).read_text()):
        try:
            said = execute(**run)["notes"]
        except Elsewhere as stop:
            said = ["elsewhere", stop.code, stop.rank]
        except Exception as error:
            said = [type(error).__name__, str(error)]
        print(json.dumps(said))
    assert own.num_processes == int(os.environ["WORLD_SIZE"]) == torch.distributed.get_world_size()
    own.end_training()


if __name__ == "__main__":
    main(sys.argv[1])
