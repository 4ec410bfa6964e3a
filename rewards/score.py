"""Many samples by several rewards in one pass: every sample is decoded once, prepared in workers, measured in batches, kept in a cache."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from diffalign import __version__
from diffalign.rewards.base import Reward
from diffalign.rewards.manifests_items import Item, Sample
from diffalign.rewards.score_cache import ScoreCache, content, score_key, state_key

WORKERS = 4  # threads: decoding, resizing and hashing let go of Python's lock (docs/benchmarks.md compares them with processes)


class BadSample(ValueError):
    """``strict`` and a sample that could not be scored."""


@dataclass
class Scores:
    """What became of N items and of every reward.

    scores    reward -> N numbers; NaN where there is none
    errors    reward -> N texts, why there is none; None where there is a score, or the reward answered NaN
    decoded   samples decoded; measured: scores computed; cached: scores that were known
    """

    scores: dict[str, list[float]]
    errors: dict[str, list[str | None]]
    decoded: int = 0
    measured: int = 0
    cached: int = 0

    @classmethod
    def empty(cls, names: Sequence[str], count: int) -> Scores:
        return cls({name: [math.nan] * count for name in names}, {name: [None] * count for name in names})

    def failed(self) -> int:
        """Scores that an error stands for."""
        return sum(error is not None for errors in self.errors.values() for error in errors)


@dataclass
class _Work:
    """One item on its way through the workers."""

    index: int
    known: dict[str, float] = field(default_factory=dict)  # reward -> score, from the cache
    prepared: dict[str, Any] = field(default_factory=dict)  # reward -> what its network takes
    keys: dict[str, bytes] = field(default_factory=dict)
    file: tuple[str, str] | None = None  # identity and content, to be kept with the scores
    decoded: int = 0
    errors: dict[str, str] = field(default_factory=dict)


def score_items(
    items: Sequence[Item],
    rewards: Mapping[str, Reward],
    *,
    cache: ScoreCache | None = None,
    batch_size: int | None = None,
    workers: int = WORKERS,
    strict: bool = False,
    quiet: bool | None = None,
) -> Scores:
    """Every item by every reward; the order and the batches change no score.

    Args:
        rewards: by name, all of one modality.
        cache: where known scores are looked up and new ones kept; None: neither.
        batch_size: samples a forward; each reward's own unless given.
        workers: threads that decode and prepare.
        strict: the first sample that cannot be scored raises BadSample; else its text stands in ``errors``.
        quiet: no progress bar; None: one where there is a terminal.
    """
    if len(modalities := {reward.modality for reward in rewards.values()}) != 1:
        raise ValueError(f"rewards of one modality can score the same samples; these are of {', '.join(sorted(modalities)) or 'none'}")
    run = _Run(items, rewards, cache, batch_size, strict)
    steps = max(batch_size or reward.batch_size for reward in rewards.values())
    with ThreadPoolExecutor(workers) as pool, tqdm(total=len(items), unit="sample", disable=quiet) as bar:
        try:
            for work in _ahead(pool, run.prepare, len(items), steps + 2 * workers):
                run.take(work)
                bar.update()
            run.flush()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return run.found


def _ahead(pool: ThreadPoolExecutor, prepare, count: int, ahead: int) -> Iterator[_Work]:
    """prepare(0), prepare(1), ... in this order, at most ``ahead`` of them done before they are asked for."""
    indices, window = iter(range(count)), deque[Future]()
    for index in islice(indices, ahead):
        window.append(pool.submit(prepare, index))
    while window:
        yield window.popleft().result()
        for index in islice(indices, 1):
            window.append(pool.submit(prepare, index))


class _Run:
    def __init__(self, items, rewards, cache, batch_size, strict):
        self.items, self.rewards, self.cache, self.batch_size, self.strict = items, rewards, cache, batch_size, strict
        self.states = {name: state_key({**reward.state(), "diffalign": __version__}) for name, reward in rewards.items()} if cache else {}
        self.waiting: dict[str, list[_Work]] = {name: [] for name in rewards}
        self.found = Scores.empty(list(rewards), len(items))

    # In the workers -------------------------------------------------------------------------------------------------------------------

    def prepare(self, index: int) -> _Work:
        """Looked up, and what is not known decoded once and prepared for each reward that lacks it."""
        item, work = self.items[index], _Work(index)
        wanted = list(self.rewards)
        for name in list(wanted):
            if item.error or (self.rewards[name].needs_prompt and not item.prompt):
                work.errors[name] = item.error or "the sample has no prompt"
                wanted.remove(name)
        try:
            identity = item.sample.identity() if self.cache and wanted else None
            known = identity and self.cache.content_of(identity)
            if known:
                self._look_up(work, known, item, wanted)
            decoded: dict[Any, Any] = {}
            for name in wanted:
                if name not in work.known:
                    self._prepare_for(name, work, item, decoded, identity, wanted)
        except Exception as error:  # whatever a decoder raises on broken data: the row says it, the others go on
            text = _told(error)
            work.errors |= {name: text for name in wanted if name not in work.known and name not in work.prepared}
        return work

    def _prepare_for(self, name: str, work: _Work, item: Item, decoded: dict, identity: str | None, wanted: list[str]) -> None:
        reward = self.rewards[name]
        kind = type(reward).read  # rewards that read alike share what was read
        if kind not in decoded:
            decoded[kind] = reward.read(item.sample.load())
            work.decoded += 1
            if identity and not work.keys:
                work.file = (identity, content(decoded[kind]))
                self._look_up(work, work.file[1], item, wanted)
        if name not in work.known:
            work.prepared[name] = reward.prepare(decoded[kind])

    def _look_up(self, work: _Work, found: str, item: Item, wanted: list[str]) -> None:
        """Fills ``keys`` and ``known``."""
        work.keys = {name: score_key(found, _said(self.rewards[name], item), self.states[name]) for name in wanted}
        kept = self.cache.scores(list(work.keys.values()))
        work.known = {name: kept[key] for name, key in work.keys.items() if key in kept}

    # In the main thread ---------------------------------------------------------------------------------------------------------------

    def take(self, work: _Work) -> None:
        """One prepared item, in order; measures a reward's batch when it is full."""
        self.found.decoded += work.decoded
        self.found.cached += len(work.known)
        for name, score in work.known.items():
            self.found.scores[name][work.index] = score
        for name, text in work.errors.items():
            self._fail(name, work.index, text)
        if self.cache and work.file and not work.prepared:
            self.cache.keep({}, [work.file])
        for name in list(work.prepared):
            self.waiting[name].append(work)
            if len(self.waiting[name]) == (self.batch_size or self.rewards[name].batch_size):
                self._measure(name)

    def flush(self) -> None:
        for name in self.rewards:
            self._measure(name)

    def _measure(self, name: str) -> None:
        batch, self.waiting[name] = self.waiting[name], []
        if not batch:
            return
        try:
            scores = self._scores(name, batch)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # of a batch that cannot be measured each sample is tried alone, so that one bad prompt costs one row
            scores = [self._one(name, work) for work in batch]
        kept = {}
        for work, score in zip(batch, scores, strict=True):
            work.prepared.pop(name)
            if score is None:
                continue
            self.found.scores[name][work.index] = score
            self.found.measured += 1
            if self.cache:
                kept[work.keys[name]] = score
        if self.cache:
            self.cache.keep(kept, [work.file for work in batch if work.file])

    def _scores(self, name: str, batch: list[_Work]) -> list[float]:
        reward = self.rewards[name]
        prompts = [self.items[work.index].prompt if reward.needs_prompt else "" for work in batch]
        return reward.score_prepared([work.prepared[name] for work in batch], prompts).tolist()

    def _one(self, name: str, work: _Work) -> float | None:
        try:
            return self._scores(name, [work])[0]
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            self._fail(name, work.index, _told(error))
            return None

    def _fail(self, name: str, index: int, text: str) -> None:
        if self.strict:
            raise BadSample(f"{self.items[index].image}: {text}")
        self.found.errors[name][index] = text


def _said(reward: Reward, item: Item) -> str:
    """What stands for the prompt in a key: of a point cloud's reference, which is a file, what tells its content."""
    if not reward.needs_prompt:
        return ""
    return Sample(Path(item.prompt)).identity() if reward.modality == "lidar" else item.prompt


def _told(error: Exception) -> str:
    """An exception in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
