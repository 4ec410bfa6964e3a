"""The implicit reward of an aligned diffusion model on preference pairs, measured as the trainer measures held-out accuracy."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from diffalign import data
from diffalign.eval.stats.compare import WinRate, compare
from diffalign.models import load_model, lora
from diffalign.models.reference import evaluating
from diffalign.train.batch import BatchMaker
from diffalign.train.checkpoint import CONFIG
from diffalign.train.config import TrainConfig
from diffalign.train.diffusion import DiffusionParts
from diffalign.train.errors import ConfigError
from diffalign.train.fields import fitting, read_yaml
from diffalign.train.labels import sides_of
from diffalign.train.problems import checked
from diffalign.train.setup import build
from diffalign.train.step import preference_step
from diffalign.train.validate import quiet_libraries


@dataclass(frozen=True)
class PairErrors:
    """Denoising errors of P pairs at D draws of noise and timestep each, (D, P, 2) float64, last dimension (chosen, rejected).

    ``pairs``: the records, in this order. ``against``: what ``reference`` are the errors of, in words.
    """

    pairs: tuple[data.Pair, ...]
    policy: np.ndarray
    reference: np.ndarray
    against: str

    @property
    def groups(self) -> list[str]:
        """(P,) prompts, the clusters of every interval."""
        return [pair.prompt for pair in self.pairs]

    @property
    def rewards(self) -> np.ndarray:
        """(P, 2) implicit rewards over beta: -1/2 (policy error - reference error) (arXiv:2311.12908, eq. 14), the mean over the draws."""
        return -0.5 * (self.policy - self.reference).mean(0)

    def evidence(self) -> tuple[np.ndarray, np.ndarray]:
        """(policy, reference), each (P, 2): -1/2 error, the mean over the draws, as ``eval.diagnostics`` reads it."""
        return -0.5 * self.policy.mean(0), -0.5 * self.reference.mean(0)

    def accuracy(self, **interval) -> WinRate:
        """Share of pairs whose chosen side has the higher mean reward: the more draws, the less of it is chance. (Draws weigh as their
        changes are large; ``accuracy_by_draw`` counts them alike and can differ much.)"""
        return compare(*self.rewards.T, self.groups, **interval)

    def accuracy_by_draw(self, **interval) -> WinRate:
        """Share of (pair, draw), as the trainer's ``held_out/accuracies`` of a method whose reward is the log-ratio."""
        change = (self.policy - self.reference).reshape(-1, 2)
        return compare(-change[:, 0], -change[:, 1], self.groups * len(self.policy), **interval)


def of_run(
    folder: str | Path, pairs: str | None = None, *, checkpoint: str | Path | None = None, draws: int | None = None,
    max_pairs: int | None = None, cache_dir: str | None = None, device: str = "cpu", quiet: bool = True,
) -> PairErrors:  # fmt: skip
    """Of a run of ``diffalign train``: by default on the pairs it held out, with its own draws.

    The reference is the run's; the base model where it had none or a moving average (which ends near the policy).

    Args:
        folder: the run's, with its config.yaml and its result. checkpoint: a folder ``checkpoint-...`` whose weights are taken instead (not
            the moving average, where one was kept).
        pairs: other data, all of it measured: a set that the run never saw, in or out of its distribution.
        draws, max_pairs: default: as many as the run's validations took (of other data: all pairs). cache_dir: for encoded images; default:
            the run's own.

    Raises:
        ConfigError, ValueError: the folder holds no finished run of a diffusion model, there is nothing to measure on, or nothing to
            compare with (all weights were trained without a reference).
    """
    folder = Path(folder)
    config = _config_of(folder)
    changes = {"cache_dir": cache_dir or config.cache_dir or str(folder / "cache"), "device": "cpu" if device == "cpu" else "auto"}
    changes["cache_inversion"] = False  # nothing is added to the run's own
    if pairs is not None:
        changes |= {"data": pairs, "columns": {}, "held_out": 0.0, "max_pairs": max_pairs}
    else:
        changes |= {"max_pairs": 1, "max_held_out_pairs": max_pairs or config.max_held_out_pairs}  # what is trained on is not encoded
    take = partial(_take, folder=folder, checkpoint=checkpoint)
    return _measured(dataclasses.replace(config, **changes), take, pairs is None, draws, device, quiet)


def of_adapter(
    model: str, adapter: str | Path, pairs: str, *, draws: int = 4, max_pairs: int | None = None, seed: int = 0, batch_size: int = 4,
    timesteps: str | None = None, cache_dir: str | None = None, device: str = "cpu", quiet: bool = True, **options,
) -> PairErrors:  # fmt: skip
    """Of any LoRA adapter of ``model`` against the model without it, on all pairs of a data set.

    Args:
        model: as ``load_model`` takes it. adapter: folder or file. pairs: anything ``diffalign train --data`` reads. timesteps: as of
            ``TrainConfig``; default: the family's. seed: of the draws. cache_dir: for encoded images; default: kept nowhere.
        options: further ones of ``TrainConfig`` (``resolution``, ``columns``, ``mixed_precision``, ...).

    Raises:
        ConfigError, ValueError: what is wrong with the model, the adapter or the data.
    """
    with tempfile.TemporaryDirectory() as scratch:
        config = TrainConfig(
            model=model, data=pairs, init_lora=str(adapter), reference="base", held_out=0.0, max_pairs=max_pairs, seed=seed,
            train_batch_size=batch_size, timesteps=timesteps, cache_dir=cache_dir or scratch, device="cpu" if device == "cpu" else "auto",
            **options,
        )  # fmt: skip
        return _measured(config, lambda parts: None, False, draws, device, quiet)


@torch.no_grad()
def pair_errors(
    parts: DiffusionParts, maker: BatchMaker, batches: list[list[int]], *, draws: int, autocast: Callable = nullcontext, device="cpu"
) -> PairErrors:
    """What ``train.validate.held_out_metrics`` measures, kept a pair and draw: the same batches, noise and timesteps.

    A pair of probability below 1/2 is turned, as in training, so that ``chosen`` is the better one.

    Args:
        parts: of a run, whose policy, reference, objective and noising are used. batches: indices of pairs in ``maker``'s store.

    Raises:
        ValueError: the labels are no pairs, or there is neither a reference nor a base model.
    """
    moving = parts.reference is not None and parts.reference.kind == "ema"
    against = parts.baseline if parts.reference is None or moving else parts.reference
    if against is None:
        raise ValueError("all weights were trained without a reference, so there is no log-ratio: take the model they were trained from")
    order = [i for indices in batches for i in indices]
    found = torch.zeros(2, draws, len(order), 2, dtype=torch.float64)
    with evaluating(parts.model.denoiser):
        for draw in range(draws):
            start = 0
            for indices in batches:
                batch = maker(indices, draw).to(device)
                out = preference_step(parts.model, parts.reference, parts.objective, parts.noising, batch, autocast, against)
                rows = torch.stack(list(sides_of(batch.labels).values()), 1).cpu()  # (B, 2): chosen, rejected
                for which, error in enumerate((out.policy_error, out.baseline_error)):
                    found[which, draw, start : start + len(indices)] = error.double().cpu()[rows]
                start += len(indices)
    return PairErrors(tuple(maker.store.records[i] for i in order), *found.numpy(), against=against.describe())


def _measured(config: TrainConfig, take: Callable, held_out: bool, draws: int | None, device: str, quiet: bool) -> PairErrors:
    if config.point().source != "pairs":  # trained on labels or rankings: its log-ratios on pairs are measured as Diffusion-DPO's would be
        config = dataclasses.replace(config, method="diffusion-dpo", objective=None, beta=None, objective_options={})
    with quiet_libraries():
        parts = build(checked(config).resolved(), torch.device(device), quiet)
        maker, batches = parts.held_out_maker, parts.held_out
        if not held_out:
            batches = data.batches(maker.store.buckets, config.train_batch_size, epoch=0, seed=config.seed, drop_last=False)
        if not batches:
            raise ValueError(f"the run held nothing out (held_out {config.held_out}): name other pairs to measure on")
        take(parts)
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.mixed_precision)
        autocast = nullcontext if half is None else partial(torch.autocast, torch.device(device).type, half)
        return pair_errors(parts, maker, batches, draws=draws or config.held_out_draws, autocast=autocast, device=device)


def _config_of(folder: Path) -> TrainConfig:
    values, problems = fitting(TrainConfig, read_yaml(folder / CONFIG))
    if problems:
        raise ConfigError("\n".join([f"{folder / CONFIG} is no run of a diffusion model by this version:", *problems]))
    return TrainConfig(**values)


@torch.no_grad()
def _take(parts: DiffusionParts, folder: Path, checkpoint: str | Path | None) -> None:
    """The trained weights in the place of those that training started from; the reference stays."""
    if checkpoint is not None:
        weights = load_file(Path(checkpoint) / "trainable.safetensors")
    elif (folder / "lora").is_dir():
        denoiser = parts.model.denoiser
        lora.load_beside(denoiser, folder / "lora", "trained")
        weights = {name.replace(".trained.", ".default."): value for name, value in lora.adapter_parameters(denoiser, "trained")}
    elif (folder / "model").is_dir():
        weights = {name: value for name, value in load_model(str(folder / "model")).denoiser.named_parameters() if name in parts.trainable}
    else:
        raise ValueError(f"{folder} has neither lora/ nor model/: the run has not ended; let it end, or name one of its checkpoints")
    if set(weights) != set(parts.trainable):
        found, wanted = len(weights), len(parts.trainable)
        raise ValueError(f"{folder}: {found} trained tensors were found and its config.yaml trains {wanted} others: is it whole?")
    for name, parameter in parts.trainable.items():
        parameter.copy_(weights[name])
