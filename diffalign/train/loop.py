"""The only training loop: optimizer steps over preference batches, with checkpoints, validation and watchers."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from diffalign.objectives import Metrics, means, merge, reduce
from diffalign.train import checkpoint
from diffalign.train.config import TrainConfig
from diffalign.train.errors import ConfigError, TrainingError
from diffalign.train.health import Health, check_start
from diffalign.train.parts import Measured, Parts
from diffalign.train.problems import check_machine, checked
from diffalign.train.run_config import RunConfig
from diffalign.train.setup import accelerated, build
from diffalign.train.validate import averaged, quiet_libraries


def train(config: TrainConfig, *, quiet: bool = False) -> dict[str, Any]:
    """Run, or go on with, the training of a diffusion model that ``config`` describes. A run that has ended is left as it is.

    Returns:
        the summary that is also written to ``output_dir/summary.json``.

    Raises:
        ConfigError, ValueError, ImportError: the configuration, the data or an extra that is missing, with what to do.
        TrainingError: numbers that are not finite, or an identity that should hold at the first step and does not.
    """
    return run(checked(config).resolved(), build, quiet=quiet)


def run(config: RunConfig, build: Callable[..., Parts], *, quiet: bool = False) -> dict[str, Any]:
    """``train`` for a configuration of any modality that was checked and resolved.

    Args:
        build: (config, device, quiet) -> the parts of the run.
    """
    check_machine(config)
    say = (lambda text: None) if quiet else tqdm.write
    resume_from = checkpoint.find(config)
    if (summary := checkpoint.finished(config)) is not None:
        say(f"{config.output_dir} holds this very run, finished after {summary['steps']} steps: nothing to do (--fresh starts over)")
        return summary
    with quiet_libraries(), accelerated(config) as accelerator:
        run = Run(config, accelerator, build(config, accelerator.device, quiet), say)
        for note in run.parts.notes:
            say(note)
        if resume_from is not None:
            run.restore(resume_from)
            say(f"resuming {run.folder} at step {run.step} of {config.max_train_steps} from {resume_from.name}")
        checkpoint.claim(config, run.step)
        if config.report_to != "none":
            accelerator.init_trackers("logs", init_kwargs={"tensorboard": {"purge_step": run.step + 1}})
        with tqdm(total=config.max_train_steps, initial=run.step, desc="train", unit="step", disable=quiet) as bar:
            while run.step < config.max_train_steps:
                metrics = run.one_step()
                run.after_step(metrics)
                bar.update()
                bar.set_postfix(loss=f"{metrics['loss']:.3f}", accuracy=f"{metrics.get('rewards/accuracies', math.nan):.2f}")
        return run.finish()


class Run:
    """The state of a training run between two optimizer steps."""

    def __init__(self, config: RunConfig, accelerator, parts: Parts, say):
        self.config, self.accelerator, self.parts, self.say = config, accelerator, parts, say
        self.folder = Path(config.output_dir)
        self.step = 0
        self.window: Metrics = {}  # sums and counts since the last line of metrics.jsonl
        self.health, self.warnings = Health(), []
        self.step0: dict[str, float] | None = None
        self.validations: dict[str, dict] = {}
        self.started = time.time()
        # Only the optimizer: what accelerate makes of a network always answers in float32, and a half-precision sampler cannot use that.
        parts.optimizer = accelerator.prepare(parts.optimizer)
        if parts.ema is not None:
            parts.ema.to(accelerator.device)

    # One optimizer step ---------------------------------------------------------------------------------------------------------------

    def one_step(self) -> dict[str, float]:
        """Gradients of the average over all pairs of the step, then one update. Returns the step's metrics."""
        parts, accelerator = self.parts, self.accelerator
        batches = parts.order.step(self.step)
        pairs = sum(len(indices) for _, indices in batches)
        found, ids = [], []
        for epoch, indices in batches:
            out = parts.measure(indices, epoch, accelerator)
            self._refuse_loss(out)
            loss = reduce(out.terms, pairs)
            if out.penalty is not None:
                loss = loss + out.penalty * (len(out.ids) / pairs)
            accelerator.backward(loss)
            found.append(self._logged(out))
            ids += out.ids
        sums = merge(found)
        metrics = means(sums)
        if self.step == 0:
            expected = metrics.get("loss_at_start") if parts.reference is not None and parts.reference.equals_policy_at_start else None
            self.say(check_start(metrics["loss"], expected))
            self.step0 = None if expected is None else {"expected": expected, "measured": metrics["loss"]}
        update = {"learning_rate": parts.schedule.get_last_lr()[0]}
        if math.isfinite(norm := self._clipped_norm(ids)):  # not where float16 overflowed
            update["grad_norm"] = norm
        parts.optimizer.step()
        if not parts.optimizer.step_was_skipped:  # float16's scaler skips a step whose gradients overflowed
            parts.schedule.step()
            if parts.ema is not None:
                parts.ema.step(parts.trainable.values())
            if parts.reference is not None:
                parts.reference.update()
        parts.optimizer.zero_grad()
        self.step += 1
        self.window = merge([self.window, sums, {name: (value, 1) for name, value in update.items()}])
        return metrics | update

    def _logged(self, out: Measured) -> Metrics:
        """What is logged of a batch, as (sum, count)."""
        count = len(out.ids)
        found = {"loss": (reduce(out.terms, 1).detach(), count), **out.terms.metrics, **out.metrics}
        if self.parts.reference is not None and self.parts.starts_known:
            found["loss_at_start"] = ((self.parts.objective.loss_at_start(out.labels) * out.terms.weight.detach().cpu()).sum(), count)
        return {name: (float(total), n) for name, (total, n) in found.items()}

    def _refuse_loss(self, out: Measured) -> None:
        losses = (out.terms.loss * out.terms.weight).detach().tolist()
        bad = [id for id, loss in zip(out.ids, losses, strict=True) if not math.isfinite(loss)]
        if bad:
            raise TrainingError(self._not_finite(self.step + 1, f"the loss is not finite; pairs: {', '.join(bad)}"))

    def _clipped_norm(self, ids: list[str]) -> float:
        """The gradients' norm before they are clipped."""
        norm = float(self.accelerator.clip_grad_norm_(list(self.parts.trainable.values()), self.config.max_grad_norm))
        if self.accelerator.scaler is None and not math.isfinite(norm):
            raise TrainingError(self._not_finite(self.step + 1, f"the gradients are not finite; pairs: {', '.join(ids)}"))
        return norm

    def _not_finite(self, step: int, what: str) -> str:
        last = checkpoint.latest(self.folder)
        kept = f"{last} is good" if last else "there is no checkpoint yet"
        return f"step {step}: {what}. {kept}. Lower learning_rate, use mixed_precision bf16 or no, or look at these pairs"

    # Between the steps ----------------------------------------------------------------------------------------------------------------

    def after_step(self, metrics: dict[str, float]) -> None:
        """Warn, log, validate and checkpoint where it is time."""
        config, last = self.config, self.step == self.config.max_train_steps
        for text in self.health.warnings(self.step, metrics):
            self.warnings.append(text)
            self.say(f"WARNING {text}")
        if self.step % config.logging_steps == 0 or last:
            self._log(means(self.window))
            self.window = {}
        if self.step % config.validate_every == 0 or last:
            self.validate()
        if self.step % config.checkpoint_every == 0 or last:
            self.checkpoint()

    def _log(self, metrics: dict[str, float]) -> None:
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": self.step, **metrics}) + "\n")
        self.accelerator.log(metrics, step=self.step)

    def validate(self) -> None:
        """Held-out numbers with the weights that would be saved now, and samples from fixed seeds where any are asked for."""
        config, parts = self.config, self.parts
        with averaged(parts.ema, parts.trainable.values()):
            if parts.held_out:
                numbers = parts.held_out_metrics(config, self.accelerator)
                self.validations[str(self.step)] = numbers
                self._log(numbers)
                accuracy = numbers.get("held_out/accuracies", math.nan)  # of tied rankings there is none
                self.say(f"step {self.step}: held-out accuracy {accuracy:.3f}, loss {numbers['held_out/loss']:.4f}")
            parts.write_samples(config, self.folder / "samples" / f"step_{self.step:06d}")

    def checkpoint(self) -> None:
        """Everything that ``restore`` needs. Raises TrainingError rather than saving weights that are not finite."""
        parts = self.parts
        if bad := [name for name, parameter in parts.trainable.items() if not torch.isfinite(parameter).all()]:
            raise TrainingError(self._not_finite(self.step, f"{len(bad)} trained tensors are not finite, {bad[0]} among them"))
        state = {
            "optimizer": parts.optimizer.state_dict(),
            "schedule": parts.schedule.state_dict(),
            "ema": None if parts.ema is None else parts.ema.state_dict(),
            "reference": None if parts.reference is None else parts.reference.state_dict(),
            "objective": dict(parts.objective.state_dict()),
            "scaler": None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict(),
        }
        facts = {"data": parts.data, "health": self.health.state_dict(), "warnings": self.warnings, "window": self.window}
        facts |= {"validations": self.validations, "step0": self.step0}
        checkpoint.save(self.folder, self.step, parts.trainable, state, facts, keep=self.config.checkpoints_total_limit)

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint. Raises ConfigError where the data is not what the run began with."""
        parts = self.parts
        weights, state, facts = checkpoint.load(path, self.accelerator.device)
        if facts["data"] != parts.data:
            raise ConfigError(f"{self.config.data} holds other pairs than when {self.folder} was begun: bring them back, or use --fresh")
        with torch.no_grad():
            for name, parameter in parts.trainable.items():
                parameter.copy_(weights[name])
        parts.optimizer.load_state_dict(state["optimizer"])
        parts.schedule.load_state_dict(state["schedule"])
        if parts.ema is not None:
            parts.ema.load_state_dict(state["ema"])
        if parts.reference is not None:
            parts.reference.load_state_dict(state["reference"])
        parts.objective.load_state_dict(state["objective"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.health.load_state_dict(facts["health"])
        self.step, self.warnings, self.window = facts["step"], facts["warnings"], facts["window"]
        self.validations, self.step0 = facts["validations"], facts["step0"]

    def finish(self) -> dict[str, Any]:
        """Save the result (the averaged weights where there are any), the model card and, last, the summary."""
        config, parts = self.config, self.parts
        name = "lora" if config.train == "lora" else "model"
        part = self.folder / f"{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        with averaged(parts.ema, parts.trainable.values()):
            parts.save(config, part)
        shutil.rmtree(self.folder / name, ignore_errors=True)
        part.rename(self.folder / name)
        summary = {
            "steps": self.step, "result": str(self.folder / name), "step0": self.step0, **self.validations.get(str(self.step), {}),
            "warnings": self.warnings, "seconds": round(time.time() - self.started, 1), "notes": parts.notes,
        }  # fmt: skip
        checkpoint.write_text(self.folder / "README.md", parts.card(config, summary))
        checkpoint.write_text(self.folder / "summary.json", json.dumps(summary, indent=1))
        return summary
