"""The parts of an evaluation's results, as plain data: who was compared, by what, with which outcome, on which pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Prompts:
    """Which prompts the pictures were drawn for. ``sha256``: of the list as it was used: equal sums, equal prompts."""

    name: str
    count: int
    sha256: str = ""
    licence: str = ""


@dataclass(frozen=True)
class ModelResult:
    """One model. ``trained_on``: the rewards it was aligned with, where that is known; no verdict should rest on those alone.

    ``source``: where it was loaded from. ``images``: how many pictures it drew. ``about``: anything more JSON can hold.
    """

    name: str
    source: str = ""
    images: int = 0
    trained_on: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ComparisonResult:
    """One model against the baseline by one reward, over pairings of one prompt and one seed; a tie counts one half.

    ``interval``: of the win rate. ``mean``, ``median``: of the model's scores; ``baseline_*``: of the baseline's, same prompts and seeds.
    ``p_values``: test -> p, of "the win rate is one half" or the like; ``p_adjusted``: the p of ``test`` after Holm over all comparisons.
    ``minimum_detectable``: the win rate above one half that so many prompts would tell from one half with ``power``.

    Raises:
        ValueError: a number is not finite, the win rate or its interval leaves [0, 1], or the interval is upside down.
    """

    model: str
    reward: str
    win_rate: float
    interval: tuple[float, float]
    wins: int
    ties: int
    losses: int
    prompts: int
    mean: float
    median: float
    baseline_mean: float
    baseline_median: float
    p_values: Mapping[str, float] = field(default_factory=dict)
    test: str = ""
    p_adjusted: float | None = None
    minimum_detectable: float | None = None
    power: float = 0.8

    def __post_init__(self):
        where, (low, high) = f"{self.model} by {self.reward}", self.interval
        numbers = (self.win_rate, low, high, self.mean, self.median, self.baseline_mean, self.baseline_median)
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError(f"the comparison of {where} holds a number that is not finite: {numbers}; leave prompts without a score out")
        if not 0 <= low <= high <= 1 or not 0 <= self.win_rate <= 1:
            given = f"{self.win_rate} [{low}, {high}]"
            raise ValueError(f"the comparison of {where} needs 0 <= low <= high <= 1 and a win rate in [0, 1], not {given}")

    @property
    def pairings(self) -> int:
        return self.wins + self.ties + self.losses

    @property
    def outcome(self) -> str:
        """``"better"``, ``"worse"`` or ``"open"``: what the interval allows to say."""
        return outcome(self.interval)


@dataclass(frozen=True)
class CategoryResult:
    """The win rate over the prompts of one category; ``interval``: None where the prompts are too few for one."""

    model: str
    reward: str
    category: str
    win_rate: float
    interval: tuple[float, float] | None
    wins: int
    ties: int
    losses: int

    @property
    def outcome(self) -> str:
        """As a comparison's; ``"open"`` where there is no interval."""
        return "open" if self.interval is None else outcome(self.interval)


@dataclass(frozen=True)
class Rating:
    """A place in a ranking of all models, the baseline among them.

    ``rating``: None where the games do not say; ``low``, ``high``: None where the interval has no end on that side, or is not known.
    """

    model: str
    rating: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Ranking:
    """All models by one reward, best first. ``scale``: what a rating is, such as "Bradley-Terry, Elo scale, base = 1000"."""

    reward: str
    rows: tuple[Rating, ...]
    scale: str = ""
    note: str = ""


@dataclass(frozen=True)
class Sample:
    """The pictures of all models for one prompt and one seed.

    ``images``: model -> path, relative to the folder of the results; ``scores``: model -> reward -> score, higher is better, None, NaN
    or left out where there is none. ``seed``: None where the folder of pictures does not say.
    """

    prompt_id: str
    prompt: str
    category: str
    index: int
    seed: int | None
    images: Mapping[str, str]
    scores: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "scores", plain(self.scores))

    def gap(self, model: str, baseline: str, reward: str) -> float | None:
        """The model's score minus the baseline's; None where one of them is missing."""
        ours, theirs = (self.scores.get(name, {}).get(reward) for name in (model, baseline))
        return None if ours is None or theirs is None else ours - theirs


def outcome(interval: tuple[float, float]) -> str:
    """``"better"`` or ``"worse"`` where the whole interval of a win rate lies on one side of one half, else ``"open"``."""
    low, high = interval
    return "better" if low > 0.5 else "worse" if high < 0.5 else "open"


def plain(value: Any) -> Any:
    """``value`` as JSON holds it: sorted keys, lists, Python's own numbers; a number that is not finite becomes None.

    Errors: TypeError for what has no such form, named by its type.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, PurePath):
        return value.as_posix()
    raise TypeError(f"results hold texts, numbers, lists and mappings, not {type(value).__name__}: {value!r}")
