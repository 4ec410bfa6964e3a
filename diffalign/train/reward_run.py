"""A training run of a reward between two steps: what it holds, one step, what is measured, what is kept."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffalign import data
from diffalign.objectives import Evidence, Metrics, means, merge
from diffalign.train import checkpoint, reward_losses
from diffalign.train.batch import Order
from diffalign.train.errors import ConfigError, TrainingError
from diffalign.train.labels import labels_of
from diffalign.train.records import key_of
from diffalign.train.reward_config import RewardConfig
from diffalign.train.reward_groups import Groups
from diffalign.train.reward_inputs import Inputs
from diffalign.train.reward_network import ClipReward, from_scratch, load

GAPS = (0.0, 0.1, 0.2, 0.4, 0.6, math.inf)  # of two scores in [0, 1]: the bands of accuracy by gap


class Run:
    """The state of a run between two steps."""

    def __init__(self, config: RewardConfig, say, quiet: bool):
        self.config, self.say, self.folder, self.step, self.started = config, say, Path(config.output_dir), 0, time.time()
        self.device = torch.device("cuda" if config.device == "auto" and torch.cuda.is_available() else "cpu")
        records, counts = data.read(
            config.data, columns=config.columns, ties=config.ties, split=config.data_split, on_bad=config.on_bad_data
        )
        pairs, conversion = data.as_source(records, "pairs")
        self.pairs, held_out = data.hold_out(pairs, config.held_out, config.seed)
        if not self.pairs:
            raise ConfigError(f"no pair is left to train on: held_out is {config.held_out} and the data holds {len(pairs)} pairs")
        say(f"data: {counts}" + (f"; {conversion}" if conversion else "") + f"; {len(held_out)} held out")
        self.counts, self.count, self.every = str(counts), len(self.pairs), [*self.pairs, *held_out]
        self.groups = Groups(self.every, config.groups, config.seed)
        self.weight = self._weights()
        self.clips = [self._network(k) for k in range(config.groups)]
        self.objective, extra = reward_losses.objective(config.loss, config.label_smoothing)
        alpha = config.lora_alpha or float(config.lora_rank)
        self.trainable = dict(extra)
        for k, clip in enumerate(self.clips):
            parts = clip.train_only(config.train, config.lora_rank, alpha, config.seed + k)
            self.trainable |= {f"{k}.{name}": parameter for name, parameter in parts.items()}
        frozen = config.train == "head"
        arguments = dict(frozen=frozen, batch_size=config.train_batch_size, quiet=quiet)
        self.inputs = [Inputs(clip, self.every, self.device, **arguments) for clip in self.clips[: 1 if frozen else None]]
        from transformers import get_scheduler

        self.optimizer = torch.optim.AdamW(
            list(self.trainable.values()), lr=config.learning_rate, betas=(0.9, config.adam_beta2), weight_decay=config.adam_weight_decay
        )
        self.schedule = get_scheduler(config.lr_scheduler, self.optimizer, config.lr_warmup_steps, config.max_train_steps)
        self.order = Order([0] * self.count, config.train_batch_size, config.gradient_accumulation_steps, config.seed)
        self.window: Metrics = {}  # since the last line of metrics.jsonl
        self.validations: dict[str, dict[str, Any]] = {}
        say(f"trainable: {sum(p.numel() for p in self.trainable.values()):,} parameters in {len(self.trainable)} tensors")

    def _network(self, k: int) -> ClipReward:
        config = self.config
        clip = load(config.model) if config.model else from_scratch(config.tokenizer, config.network, config.seed + k)
        if config.gradient_checkpointing:
            clip.network.gradient_checkpointing_enable()
        return clip.to(self.device).train()

    def _weights(self) -> Tensor:
        """(N,) of every pair beside its own weight: mean 1 over those trained on."""
        if not self.config.balance_prompts:
            return torch.ones(len(self.every))
        often = Counter(pair.prompt for pair in self.every)
        weight = torch.tensor([1 / often[pair.prompt] for pair in self.every])
        return weight / weight[: self.count].mean()

    # One step -------------------------------------------------------------------------------------------------------------------------

    def one_step(self) -> dict[str, float]:
        """Gradients of the mean over all pairs of the step, then one update."""
        if self.config.groups > 1 and self.step and self.step % self.config.assign_steps == 0:
            changed = self.groups.assign(self.pairs, self._log_likelihood())
            self.say(f"step {self.step}: {changed} of {len(self.groups.of)} raters change their group")
        batches = self.order.step(self.step)
        count, found = sum(len(indices) for _, indices in batches), []
        for _, indices in batches:
            loss, metrics = self._loss(indices)
            if not torch.isfinite(loss):
                raise TrainingError(f"the loss is {loss.item()} at step {self.step}: lower learning_rate")
            (loss / count).backward()
            found.append(metrics)
        norm = torch.nn.utils.clip_grad_norm_(self.trainable.values(), self.config.max_grad_norm)
        self.optimizer.step()
        update = {"learning_rate": (self.schedule.get_last_lr()[0], 1), "grad_norm": (float(norm), 1)}
        self.schedule.step()
        self.optimizer.zero_grad()
        for clip in self.clips:
            clip.bound_scale()
        self.step += 1
        self.window = merge([self.window, *found, update])
        return means(merge(found))

    def _loss(self, indices: list[int]) -> tuple[Tensor, Metrics]:
        """The sum of the weighted losses of these pairs, each under its group's reward, and their metrics."""
        total, found = torch.zeros((), device=self.device), []
        for k, clip in enumerate(self.clips):
            mine = [i for i in indices if self.groups.group(self.every[i]) == k]
            if not mine:
                continue
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.mixed_precision == "bf16"):
                images, captions, which = self.inputs[min(k, len(self.inputs) - 1)].batch(mine)
                images, captions = clip.features(images, captions)
            scores = clip.scale * (images * captions[which]).sum(-1)
            labels = labels_of([self.every[i] for i in mine])
            terms = self.objective(Evidence(scores), labels)
            loss = terms.loss
            if self.config.in_batch_negatives:
                own = which[: len(mine)]
                pairs, probability = labels.pairs.to(self.device), labels.probability.to(self.device)
                same = which[:, None] == own
                loss = reward_losses.against_batch(clip.scale * images @ captions[own].T, pairs, probability, same)
            loss = (loss * terms.weight * self.weight[mine].to(self.device)).sum()
            total = total + loss
            found.append({"loss": (loss.detach(), len(mine)), **terms.metrics})
        return total, merge(found)

    @torch.no_grad()
    def _margins(self, indices: range, k: int | None = None) -> Tensor:
        """(len(indices),) score of the chosen less that of the rejected, under reward k, or each pair under its group's."""
        found = torch.zeros(len(indices))
        for j, clip in enumerate(self.clips):
            mine = [i for i in indices if (self.groups.group(self.every[i]) if k is None else k) == j]
            for at in range(0, len(mine), self.config.train_batch_size):
                some = mine[at : at + self.config.train_batch_size]
                images, captions, which = self.inputs[min(j, len(self.inputs) - 1)].batch(some)
                images, captions = clip.features(images, captions)
                chosen, rejected = (clip.scale * (images * captions[which]).sum(-1)).chunk(2)
                found[torch.tensor(some) - indices.start] = (chosen - rejected).cpu()
        return found

    def _log_likelihood(self) -> Tensor:
        """(groups, N) of every training pair's label under every reward; up to a constant of the pair."""
        p = torch.tensor([pair.probability for pair in self.pairs])
        z = torch.stack([self._margins(range(self.count), k) for k in range(self.config.groups)])
        return -self.objective.link(z.to(self.device), p.to(self.device)).detach().cpu()

    # Between steps --------------------------------------------------------------------------------------------------------------------

    def after_step(self) -> None:
        config, last = self.config, self.step == self.config.max_train_steps
        validated = {}
        if last or self.step % config.validate_every == 0:
            validated = self.held_out()
            if validated:
                self.validations[str(self.step)] = validated
                self.say(f"step {self.step}: held-out accuracy {validated['accuracy']:.3f} of {validated['pairs']} pairs")
        if last or self.step % config.logging_steps == 0 or validated:
            line = {"step": self.step, **means(self.window), **({"held_out/accuracies": validated["accuracy"]} if validated else {})}
            with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            self.window = {}
        if last or self.step % config.checkpoint_every == 0:
            state = {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict()}
            facts = {"data": key_of(self.every), "groups": self.groups.of, "validations": self.validations}
            checkpoint.save(self.folder, self.step, self.trainable, state, facts, keep=1)

    def restore(self, path: Path) -> None:
        weights, state, facts = checkpoint.load(path, self.device)
        if facts["data"] != key_of(self.every):
            raise ConfigError(f"{self.config.data} is not what {path} was trained on: use another --output-dir, or --fresh to start over")
        with torch.no_grad():
            for name, parameter in self.trainable.items():
                parameter.copy_(weights[name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.step, self.groups.of, self.validations = facts["step"], facts["groups"], facts["validations"]

    def held_out(self) -> dict[str, Any]:
        """Accuracy on the held-out pairs that have a winner, and by gap where they have scores; {} without any."""
        rows = range(self.count, len(self.every))
        if not rows:
            return {}
        for clip in self.clips:
            clip.eval()
        margins = self._margins(rows)
        for clip in self.clips:
            clip.train()
        clear = [(pair, margin) for pair, margin in zip(self.every[self.count :], margins.tolist(), strict=True) if not pair.is_tie]
        won = [margin if pair.probability > 0.5 else -margin for pair, margin in clear]
        gaps = [abs(pair.scores[0] - pair.scores[1]) for pair, _ in clear if pair.scores is not None]
        return accuracy(won) | ({"by_gap": by_gap(won, gaps)} if len(gaps) == len(won) else {})

    def finish(self) -> dict[str, Any]:
        result = self.folder / "model"
        for k, clip in enumerate(self.clips):
            clip.save(result if self.config.groups == 1 else result / f"group-{k}")
        summary = {
            "result": str(result),
            "steps": self.step,
            "held_out": self.validations.get(str(self.step), {}),
            "validations": self.validations,
            "pairs": {"read": self.counts, "trained": self.count, "held_out": len(self.every) - self.count},
            "seconds": round(time.time() - self.started, 1),
            "config": self.config.to_dict(),
        }
        if self.config.loss == "davidson":
            summary["nu"] = math.exp(self.trainable["log_nu"].item())
        if self.config.groups > 1:
            summary["groups"] = self.groups.of
        checkpoint.write_text(self.folder / "summary.json", json.dumps(summary, indent=1))
        return summary


def accuracy(margins: list[float]) -> dict[str, Any]:
    """Share of pairs whose winner scores higher, equal scores one half, and of how many."""
    if not margins:
        return {"accuracy": math.nan, "pairs": 0}
    return {"accuracy": sum((z > 0) + 0.5 * (z == 0) for z in margins) / len(margins), "pairs": len(margins)}


def by_gap(margins: list[float], gaps: list[float], edges: tuple[float, ...] = GAPS) -> list[dict[str, Any]]:
    """``accuracy`` by the difference of the labels' scores: bands low < gap <= high."""
    bands = []
    for low, high in zip(edges, edges[1:], strict=False):
        inside = [z for z, gap in zip(margins, gaps, strict=True) if low < gap <= high]
        bands.append({"over": low, "up_to": None if math.isinf(high) else high, **accuracy(inside)})
    return [band for band in bands if band["pairs"]]
