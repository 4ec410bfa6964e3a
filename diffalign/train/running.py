"""The state of a run, and what happens to it: an optimizer step, a validation, a checkpoint, a restart, the end."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from diffalign.objectives import Metrics, means, merge, plain, reduce
from diffalign.train import checkpoint
from diffalign.train.errors import ConfigError, TrainingError
from diffalign.train.health import Health, check_start
from diffalign.train.parts import Measured, Parts
from diffalign.train.ranks import ALONE, Ranks, fingerprint
from diffalign.train.run_config import RunConfig
from diffalign.train.validate import averaged, held_out_numbers


class Run:
    """The state of a training run between two optimizer steps, the same in all its processes."""

    def __init__(self, config: RunConfig, accelerator, parts: Parts, say, ranks: Ranks = ALONE):
        self.config, self.accelerator, self.parts, self.say, self.ranks = config, accelerator, parts, say, ranks
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
        """Gradients of the average over all pairs of the step and all processes, then one update. Returns the step's metrics."""
        parts, accelerator, ranks = self.parts, self.accelerator, self.ranks
        batches = parts.order.step(self.step)
        pairs = sum(len(indices) for _, indices in batches)
        found, ids = [], []
        for epoch, indices in batches:
            share = ranks.share(indices)
            out = parts.measure(share, epoch, accelerator) if share else parts.nothing(accelerator.device)
            self._refuse_loss(out)
            loss = reduce(out.terms, pairs)
            if out.penalty is not None:
                loss = loss + out.penalty * (len(out.ids) / pairs)
            accelerator.backward(loss)
            found.append(self._logged(out))
            ids += out.ids
        messages = ranks.exchange((merge(found), ids))
        ranks.sum_gradients(parts.trainable.values())
        sums = merge(sums for sums, _ in messages)
        ids = [id for _, ids in messages for id in ids]
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
        if self.parts.reference is not None and self.parts.starts_known and count:
            found["loss_at_start"] = ((self.parts.objective.loss_at_start(out.labels) * out.terms.weight.detach().cpu()).sum(), count)
        return plain(found)

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
        if not self.ranks.first:
            return
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": self.step, **metrics}) + "\n")
        self.accelerator.log(metrics, step=self.step)

    def validate(self) -> None:
        """Held-out numbers with the weights that would be saved now, and samples from fixed seeds where any are asked for."""
        config, parts, ranks = self.config, self.parts, self.ranks
        with averaged(parts.ema, parts.trainable.values()):
            if parts.held_out:
                sums = merge(ranks.exchange(parts.held_out_metrics(ranks.share(parts.held_out), config, self.accelerator)))
                numbers = held_out_numbers(sums)
                self.validations[str(self.step)] = numbers
                self._log(numbers)
                accuracy = numbers.get("held_out/accuracies", math.nan)  # of tied rankings there is none
                self.say(f"step {self.step}: held-out accuracy {accuracy:.3f}, loss {numbers['held_out/loss']:.4f}")
            if ranks.first:
                parts.write_samples(config, self.folder / "samples" / f"step_{self.step:06d}")

    def checkpoint(self) -> None:
        """Everything that ``restore`` needs. Raises TrainingError rather than saving weights that are not finite."""
        parts = self.parts
        if bad := [name for name, parameter in parts.trainable.items() if not torch.isfinite(parameter).all()]:
            raise TrainingError(self._not_finite(self.step, f"{len(bad)} trained tensors are not finite, {bad[0]} among them"))
        self.check_agreement()
        if not self.ranks.first:
            return
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

    def check_agreement(self) -> None:
        """Raises TrainingError unless all processes hold the same records and, bit for bit, the same trained weights."""
        facts = [self.parts.data, fingerprint(self.parts.trainable.values())] if self.ranks.size > 1 else []
        self.ranks.agree(facts, f"step {self.step}: the processes of this run do not hold the same records and trained weights")

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint. Raises ConfigError where the data is not what the run began with."""
        parts = self.parts
        device = self.accelerator.device
        weights, state, facts = checkpoint.load(path, "cpu" if device.type == "cpu" else device)  # torch.load knows no cpu:0
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
        """Save the result (the averaged weights where there are any), the model card and, last, the summary; the others wait for it."""
        return self.ranks.exchange(self._save() if self.ranks.first else None)[0]

    def _save(self) -> dict[str, Any]:
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
