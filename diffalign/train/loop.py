"""The only training loop: optimizer steps over preference batches, with checkpoints, validation and watchers."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm import tqdm

from diffalign import data, models
from diffalign.objectives import reduce
from diffalign.train import checkpoint
from diffalign.train.config import TrainConfig
from diffalign.train.health import Health, error_changes
from diffalign.train.setup import Parts, build
from diffalign.train.step import preference_step
from diffalign.train.validate import draw_samples, held_out_metrics

log = logging.getLogger(__name__)


class TrainingError(RuntimeError):
    """The run cannot go on; the last checkpoint is whole."""


def train(config: TrainConfig, *, quiet: bool = False) -> dict[str, Any]:
    """Run, or go on with, the training that ``config`` describes.

    Returns:
        the summary that is also written to ``output_dir/summary.json``.

    Raises:
        ConfigError, ValueError: the configuration or the data, with what to do. TrainingError: a loss that is not finite, or an
        identity that should hold at the first step and does not.
    """
    config = config.checked()
    resume_from = checkpoint.claim(config)
    folder = Path(config.output_dir)
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision, cpu=config.device == "cpu", project_dir=str(folder),
        log_with=None if config.report_to == "none" else config.report_to,
    )  # fmt: skip
    if config.report_to != "none":
        accelerator.init_trackers("logs", config={k: v for k, v in config.to_dict().items() if isinstance(v, int | float | str)})
    say = (lambda text: None) if quiet else tqdm.write
    run = Run(config, accelerator, build(config, accelerator.device, quiet), folder, say)
    for note in run.parts.notes:
        say(note)
    if resume_from is not None:
        run.restore(resume_from)
        say(f"resuming {folder} at step {run.step} of {config.max_train_steps} from {resume_from.name}")
    bar = tqdm(total=config.max_train_steps, initial=run.step, desc="train", unit="step", disable=quiet)
    while run.step < config.max_train_steps:
        metrics = run.one_step()
        bar.update()
        bar.set_postfix(loss=f"{metrics['loss']:.3f}", accuracy=f"{metrics['rewards/accuracies']:.2f}")
    bar.close()
    summary = run.finish()
    if config.report_to != "none":
        accelerator.end_training()
    return summary


class Run:
    """The state of a training run between two optimizer steps."""

    def __init__(self, config: TrainConfig, accelerator: Accelerator, parts: Parts, folder: Path, say):
        self.config, self.accelerator, self.parts, self.folder, self.say = config, accelerator, parts, folder, say
        self.step, self.warnings, self.window = 0, [], []
        self.step0: dict[str, float] | None = None
        self.validations: dict[str, dict] = {}
        parts.model.network, parts.optimizer = accelerator.prepare(parts.model.network, parts.optimizer)
        if parts.ema is not None:
            parts.ema.to(accelerator.device)
        self.batches_an_epoch = len(self._order(0))
        self.health = Health(math.inf if parts.reference is None else self._expected_start(self._micro_batches(0)[0][1].comparison))
        self.started = time.time()

    # One optimizer step ---------------------------------------------------------------------------------------------------------------

    def one_step(self) -> dict[str, float]:
        config, parts, accelerator = self.config, self.parts, self.accelerator
        batches = self._micro_batches(self.step)
        denominator = sum(len(batch.ids) for _, batch in batches)
        sums: dict[str, tuple[float, float]] = {}
        loss = 0.0
        for last, batch in batches:
            batch = batch.to(accelerator.device)
            sync = nullcontext() if last else accelerator.no_sync(parts.model.network)
            with sync:
                out = preference_step(parts.model, parts.reference, parts.objective, batch, accelerator.autocast)
                part = reduce(out.terms, denominator)
                self._refuse_nan(part, batch)
                accelerator.backward(part)
            loss += part.item()
            rows = {name: (float(total), float(count)) for name, (total, count) in out.terms.metrics.items()}
            if out.reference_error is not None:
                horizon = parts.model.path.num_timesteps
                rows |= error_changes(out.policy_error, out.reference_error, out.t, batch.comparison.pairs, horizon)
            for name, (total, count) in rows.items():
                before = sums.get(name, (0.0, 0.0))
                sums[name] = (before[0] + total, before[1] + count)
        if self.step == 0:
            self._check_start(loss, batches)
        grad_norm = accelerator.clip_grad_norm_(list(parts.trainable.values()), config.max_grad_norm)
        metrics = {"loss": loss, **{name: total / count for name, (total, count) in sums.items() if count}}
        metrics |= {"grad_norm": float(grad_norm), "learning_rate": parts.schedule.get_last_lr()[0]}
        parts.optimizer.step()
        parts.schedule.step()
        parts.optimizer.zero_grad()
        if parts.ema is not None:
            parts.ema.step(parts.trainable.values())
        if parts.reference is not None:
            parts.reference.update()
        self.step += 1
        self._after(metrics)
        return metrics

    def _order(self, epoch: int) -> list[list[int]]:
        return data.batches(self.parts.buckets, self.config.train_batch_size, epoch=epoch, seed=self.config.seed, drop_last=False)

    def _micro_batches(self, step: int):
        """[(is the last of the step, batch)]; the epoch a batch belongs to is the draw of its records."""
        accumulation = self.config.gradient_accumulation_steps
        found = []
        for k in range(accumulation):
            epoch, row = divmod(step * accumulation + k, self.batches_an_epoch)
            found.append((k == accumulation - 1, self.parts.maker(self._order(epoch)[row], draw=epoch)))
        return found

    def _refuse_nan(self, loss, batch):
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss at step {self.step} is {loss.item()}; pairs of the batch: {', '.join(batch.ids)}. "
                f"The last checkpoint in {self.folder} is good. Lower learning_rate, use mixed_precision bf16 instead of fp16, or look at these pairs"
            )

    def _expected_start(self, comparison) -> float:
        return self.parts.objective.loss_at_start(comparison).mean().item()

    def _check_start(self, loss: float, batches) -> None:
        """Where policy and reference hold equal weights, the first loss has a closed value; anything else is a bug, such as active dropout."""
        reference = self.parts.reference
        if reference is None or not reference.equals_policy_at_start:
            self.say("step-0 identity: not applicable (policy and reference differ at the start, or there is no reference)")
            return
        terms = [(self.parts.objective.loss_at_start(batch.comparison) * batch.comparison.weight).sum().item() for _, batch in batches]
        expected = sum(terms) / sum(len(batch.ids) for _, batch in batches)
        self.step0 = {"expected": expected, "measured": loss}
        if abs(loss - expected) > 0.05 * abs(expected) + 1e-6:
            raise TrainingError(
                f"the first loss is {loss:.6f}, but policy and reference are equal and it must be {expected:.6f}: "
                "is a dropout active in the denoiser, or was the reference loaded in another precision?"
            )
        self.say(f"step-0 identity: loss {loss:.6f}, expected {expected:.6f}")

    # Between the steps ----------------------------------------------------------------------------------------------------------------

    def _after(self, metrics: dict[str, float]) -> None:
        config, last = self.config, self.step == self.config.max_train_steps
        for text in self.health.warnings(self.step, metrics):
            self.warnings.append(text)
            self.say(f"WARNING {text}")
        self.window.append(metrics)
        if self.step % config.logging_steps == 0 or last:
            names = dict.fromkeys(name for row in self.window for name in row)
            rows = {name: [row[name] for row in self.window if name in row] for name in names}
            self._log({name: sum(values) / len(values) for name, values in rows.items()})
            self.window = []
        if self.step % config.validate_every == 0 or last:
            self.validate()
        if self.step % config.checkpoint_every == 0 or last:
            self.checkpoint()

    def _log(self, metrics: dict[str, float]) -> None:
        with open(self.folder / "metrics.jsonl", "a") as file:
            file.write(json.dumps({"step": self.step, **metrics}) + "\n")
        self.accelerator.log(metrics, step=self.step)

    def validate(self) -> None:
        """Held-out numbers with the weights that would be saved now, and images from fixed seeds where any are asked for."""
        config, parts = self.config, self.parts
        with self._averaged_weights():
            if parts.held_out:
                parts.model.denoiser.eval()
                numbers = held_out_metrics(
                    parts.model, parts.reference, parts.objective, parts.held_out_maker, parts.held_out, batch_size=config.train_batch_size,
                    draws=config.held_out_draws, autocast=self.accelerator.autocast, device=self.accelerator.device,
                )  # fmt: skip
                parts.model.denoiser.train()
                self.validations[str(self.step)] = numbers
                self._log(numbers)
                self.say(f"step {self.step}: held-out accuracy {numbers['held_out/accuracies']:.3f}, loss {numbers['held_out/loss']:.4f}")
            prompts = config.validation_prompts or self._prompts_of_held_out()
            if prompts and config.num_validation_images:
                draw_samples(
                    parts.model, prompts[: config.num_validation_images], self.folder / "samples" / f"step_{self.step:06d}", seed=config.seed,
                    steps=config.validation_inference_steps, guidance_scale=config.validation_guidance_scale, resolution=parts.resolution,
                )  # fmt: skip

    def _prompts_of_held_out(self) -> list[str]:
        store = self.parts.maker.store
        return list(dict.fromkeys(store.prompt_of(i) for i in (self.parts.held_out or self.parts.train)))

    @contextmanager
    def _averaged_weights(self):
        """Within it the moving average, where one is kept, stands in the policy's place."""
        ema, parameters = self.parts.ema, list(self.parts.trainable.values())
        if ema is None:
            yield
            return
        ema.store(parameters)
        ema.copy_to(parameters)
        yield
        ema.restore(parameters)

    def checkpoint(self) -> None:
        parts = self.parts
        state = {
            "optimizer": parts.optimizer.state_dict(),
            "schedule": parts.schedule.state_dict(),
            "ema": None if parts.ema is None else parts.ema.state_dict(),
            "reference": None if parts.reference is None else parts.reference.state_dict(),
            "scaler": None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict(),
        }
        facts = {"health": self.health.state_dict(), "warnings": self.warnings, "window": self.window}
        facts |= {"validations": self.validations, "step0": self.step0}
        checkpoint.save(self.folder, self.step, parts.trainable, state, facts, keep=self.config.checkpoints_total_limit)

    def restore(self, path: Path) -> None:
        parts = self.parts
        weights, state, facts = checkpoint.load(path, self.accelerator.device)
        with torch.no_grad():
            for name, parameter in parts.trainable.items():
                parameter.copy_(weights[name])
        parts.optimizer.load_state_dict(state["optimizer"])
        parts.schedule.load_state_dict(state["schedule"])
        if parts.ema is not None:
            parts.ema.load_state_dict(state["ema"])
        if parts.reference is not None:
            parts.reference.load_state_dict(state["reference"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.health.load_state_dict(facts["health"])
        self.step, self.warnings, self.window = facts["step"], facts["warnings"], facts["window"]
        self.validations, self.step0 = facts["validations"], facts["step0"]
        metrics = self.folder / "metrics.jsonl"
        if metrics.exists():
            kept = [line for line in metrics.read_text().splitlines() if line and json.loads(line)["step"] <= self.step]
            checkpoint.write_text(metrics, "".join(line + "\n" for line in kept))

    def finish(self) -> dict[str, Any]:
        """Save the result (the averaged weights where there are any) and the summary."""
        config, parts = self.config, self.parts
        with self._averaged_weights():
            name = "lora" if config.train == "lora" else "model"
            part = self.folder / f"{name}.part"
            shutil.rmtree(part, ignore_errors=True)
            if config.train == "lora":
                models.lora.save(parts.model, part)
            else:
                parts.model.pipeline().save_pretrained(part)
            shutil.rmtree(self.folder / name, ignore_errors=True)
            part.rename(self.folder / name)
        last = self.validations.get(str(self.step), {})
        summary = {
            "steps": self.step, "result": str(self.folder / name), "step0": self.step0, **last, "warnings": self.warnings,
            "seconds": round(time.time() - self.started, 1), "notes": parts.notes,
        }  # fmt: skip
        checkpoint.write_text(self.folder / "summary.json", json.dumps(summary, indent=1))
        return summary

