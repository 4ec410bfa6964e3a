"""The only training loop: optimizer steps over preference batches, with checkpoints, validation and watchers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from diffalign.train import checkpoint
from diffalign.train.config import TrainConfig
from diffalign.train.errors import ConfigError, setting_up
from diffalign.train.parts import Parts
from diffalign.train.problems import check_machine, checked
from diffalign.train.ranks import Ranks, connect, coupling_problem, said_once
from diffalign.train.run_config import RunConfig
from diffalign.train.running import Run
from diffalign.train.setup import accelerated, build
from diffalign.train.validate import quiet_libraries


def train(config: TrainConfig, *, quiet: bool = False) -> dict[str, Any]:
    """Run, or go on with, the training of a diffusion model that ``config`` describes. A run that has ended is left as it is.

    Returns:
        the summary that is also written to ``output_dir/summary.json``.

    Raises:
        ConfigError, ImportError: the configuration, the model, the data or an extra that is missing, with what to do.
        TrainingError: numbers that are not finite, an identity that should hold at the first step and does not, or a process that died.
        Elsewhere: another process of the run raised one of these.
    """
    return run(checked(config).resolved(), build, quiet=quiet)


def run(config: RunConfig, build: Callable[..., Parts], *, quiet: bool = False) -> dict[str, Any]:
    """``train`` for a configuration of any modality that was checked and resolved.

    Args:
        build: (config, device, quiet, ranks) -> the parts of the run.
    """
    with said_once():
        check_machine(config)
    with quiet_libraries(), accelerated(config) as accelerator:
        with said_once():
            ranks = connect(accelerator)
        with ranks.together():
            return _run(config, build, accelerator, ranks, quiet or not ranks.first)


def _run(config: RunConfig, build: Callable[..., Parts], accelerator, ranks: Ranks, quiet: bool) -> dict[str, Any]:
    """What every process of a run does, with the same result in each; the first one alone writes."""
    say = (lambda text: None) if quiet else tqdm.write
    resume_from = checkpoint.find(config)
    summary = checkpoint.finished(config)
    ranks.agree([str(resume_from), summary], f"{config.output_dir} has to be one folder for all processes, which find different runs")
    if summary is not None:
        say(f"{config.output_dir} holds this very run, finished after {summary['steps']} steps: nothing to do (--fresh starts over)")
        return summary
    if ranks.first:
        checkpoint.require_writable(config)
    if problem := coupling_problem(config.objective, ranks):
        raise ConfigError(problem)
    with setting_up():
        parts = build(config, accelerator.device, quiet, ranks)
    if ranks.size > 1:
        parts.notes.append(f"processes: {ranks.size} share the {config.train_batch_size} records of a batch")
    run = Run(config, accelerator, parts, say, ranks)
    for note in run.parts.notes:
        say(note)
    if resume_from is not None:
        run.restore(resume_from)
        say(f"resuming {run.folder} at step {run.step} of {config.max_train_steps} from {resume_from.name}")
    run.check_agreement()
    if ranks.first:
        checkpoint.claim(config, run.step)
        if config.report_to != "none":
            accelerator.init_trackers("logs", init_kwargs={"tensorboard": {"purge_step": run.step + 1}})
    ranks.set_up()
    with tqdm(total=config.max_train_steps, initial=run.step, desc="train", unit="step", disable=quiet) as bar:
        while run.step < config.max_train_steps:
            metrics = run.one_step()
            run.after_step(metrics)
            bar.update()
            bar.set_postfix(loss=f"{metrics['loss']:.3f}", accuracy=f"{metrics.get('rewards/accuracies', math.nan):.2f}")
    return run.finish()
