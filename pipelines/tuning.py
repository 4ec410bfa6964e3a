"""A comparison in which every method has the same tuning budget: settings chosen on dev prompts, judged on test prompts.

A run that was stopped goes on where it was: finished trainings and judged results are kept in the output folder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffalign.eval.stats.compare import WinRate, compare
from diffalign.train.errors import ConfigError, TrainingError

Settings = Mapping[str, object]
Grid = Mapping[str, tuple[Settings, ...]]


def rates(*values: float, **fixed) -> tuple[Settings, ...]:
    return tuple({"learning_rate": value, **fixed} for value in values)


def check(config, grid: Grid) -> None:
    """Raises ConfigError for methods that have no grid, and for counts below 1."""
    found = [f"{name} is {value}; it must be at least 1" for name, value in vars(config).items() if isinstance(value, int) and value < 1]
    if unknown := [name for name in config.methods if name not in grid]:
        found.append(f"no tuning grid for {', '.join(unknown)}; methods with one: {', '.join(grid)}")
    if not config.methods:
        found.append(f"methods is empty; methods with a tuning grid: {', '.join(grid)}")
    if found:
        raise ConfigError("\n".join(found))


@dataclass(frozen=True)
class Found:
    """What was measured of a method.

    settings: those that were chosen. tried: every setting of the grid, with the change of the mean score on dev prompts, None (and why)
    where its training failed. runs: summaries of the trainings of the chosen setting, one a seed. aligned, before: one array of scores of
    test prompts a seed, of the method and of the base. groups: (N,) the prompts of all of them, as integers.
    """

    settings: Settings
    tried: list[dict]
    runs: list[dict]
    aligned: list[np.ndarray]
    before: list[np.ndarray]
    groups: np.ndarray

    def compared(self) -> WinRate:
        """All seeds together, prompts being what is independent."""
        return compare(np.concatenate(self.aligned), np.concatenate(self.before), groups=self.groups)

    def by_seed(self) -> list[float]:
        return [compare(a, b).win_rate for a, b in zip(self.aligned, self.before, strict=True)]

    def mean(self, name: str) -> float | None:
        """Of a number of the trainings' summaries; None where one has it not."""
        return float(np.mean([run[name] for run in self.runs])) if all(name in run for run in self.runs) else None


class Bench:
    """The results of one model's comparison so far; a subclass a modality."""

    def __init__(self, config, model: str, quiet: bool):
        self.config, self.quiet, self.folder = config, quiet, Path(config.output_dir)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.failed: dict[str, str] = {}
        self.store = self.folder / "scores.json"
        self.kept: dict[str, Any] = json.loads(self.store.read_text()) if self.store.exists() else {}
        if self.kept.setdefault("model", model) != model:
            raise ConfigError(f"'{self.folder}' holds what {self.kept['model']} did, not {model}: choose another output_dir")

    def train(self, name: str, method: str, settings: Settings, seed: int) -> dict:
        """Train in the folder ``name``; returns the summary. Raises TrainingError where the numbers are not finite."""
        raise NotImplementedError

    def judge(self, name: str, prompts: list[str], seed: int, trained: str | None) -> list[float]:
        """Scores of the base (None) or of what was trained, one a prompt."""
        raise NotImplementedError

    def prompts(self, split: str, seed: int) -> list[str]:
        raise NotImplementedError

    def row(self, method: str, found: Found) -> dict:
        """What the table has of a method: ``method``, ``win_rate``, ``win_rate_ci``, ``settings``, ``tried``, and the modality's own."""
        raise NotImplementedError

    def line(self, row: dict) -> str:
        """What is said when a method is done."""
        raise NotImplementedError

    def write(self, rows: list[dict]) -> None:
        raise NotImplementedError

    def scores(self, name: str, split: str, seed: int, trained: str | None) -> np.ndarray:
        """(N,) of the base or of what was trained, on the prompts of a split, drawn with that seed; judged once."""
        prompts = self.prompts(split, seed)
        return self.keep(f"{name}/{split}/{seed}/{len(prompts)}", lambda: self.judge(name, prompts, seed, trained))

    def keep(self, key: str, judge: Callable[[], list[float]]) -> np.ndarray:
        if key not in self.kept:
            self.kept[key] = judge()
            self.store.write_text(json.dumps(self.kept))
        return np.array(self.kept[key])

    def measure(self, method: str, grid: tuple[Settings, ...]) -> Found:
        """Choose among the settings on dev, then judge with every seed; the choice was made with seed 0, which need not be trained again.

        Raises:
            TrainingError: every setting fails, or the chosen one does with another seed.
        """
        base, tried, trained = self.scores("base", "dev", 0, None), [], {}
        for k, settings in enumerate(grid):
            try:
                trained[k] = self.train(f"{method}/dev_{k}", method, settings, seed=0)
            except TrainingError as error:
                tried.append({"settings": settings, "score_change": None, "failed": str(error)})
                continue
            change = self.scores(f"{method}_{k}", "dev", 0, trained[k]["result"]) - base
            tried.append({"settings": settings, "score_change": float(change.mean())})
        if not trained:
            raise TrainingError(f"every setting fails; the first: {tried[0]['failed']}")
        best = max(trained, key=lambda k: tried[k]["score_change"])
        seeds = range(self.config.seeds)
        runs = [self.train(f"{method}/seed_{seed}", method, grid[best], seed=seed) if seed else trained[best] for seed in seeds]
        return Found(
            settings=grid[best], tried=tried, runs=runs,
            aligned=[self.scores(method, "test", seed, runs[seed]["result"]) for seed in seeds],
            before=[self.scores("base", "test", seed, None) for seed in seeds],
            groups=np.unique([prompt for seed in seeds for prompt in self.prompts("test", seed)], return_inverse=True)[1],
        )  # fmt: skip

    def run(self, grid: Grid) -> dict:
        """Measure the configuration's methods and write after each. A method whose training fails has no row and is named with why."""
        rows = []
        for method in self.config.methods:
            started = time.time()
            try:
                rows.append(self.row(method, self.measure(method, grid[method])))
                said = self.line(rows[-1])
            except TrainingError as error:
                self.failed[method] = str(error)
                said = f"{method} failed: {error}"
            if not self.quiet:
                print(f"{said}  ({time.time() - started:.0f} s)", flush=True)
            if rows:
                self.write(rows)
        return {"rows": rows, **({"failed": self.failed} if self.failed else {})}
