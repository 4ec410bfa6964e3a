"""The results of an evaluation: one object that is written as JSON, read back, summed up in a sentence, and shown as a page."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from diffalign.eval.pages.content import Curve
from diffalign.eval.results import CategoryResult, ComparisonResult, ModelResult, Prompts, Ranking, Rating, Sample, plain
from diffalign.eval.verdict import leader, verdict

__all__ = [
    "CategoryResult", "ComparisonResult", "Curve", "Evaluation", "ModelResult", "Prompts", "Ranking", "Rating", "Sample",
]  # fmt: skip

FORMAT = 1  # of the JSON; raised when what is there means something else
FREE = ("rewards", "findings", "distribution", "diagnostics", "settings", "versions")  # fields that hold anything JSON can hold


@dataclass(frozen=True)
class Evaluation:
    """Models against a baseline, on the same prompts and seeds. Equal content gives equal bytes of JSON: no time is in it unless given.

    Args:
        title: of the page. command: that repeats it. baseline: the name of one of ``models``.
        prompts: which prompts; ``rewards``: name -> state (weights, versions) of the reward; the order shown is that of ``comparisons``.
        reward: the one the verdict is about; default: that of the first comparison.
        comparisons: model x reward against the baseline. categories: the same by category of prompt. ranking: all models, by a reward each.
        findings: model -> [{name, what, value, threshold, flagged, note}] of the reward-hacking checks; value None or NaN: not checked.
        distribution, diagnostics: model -> measure -> {value, n, note}; n (a number or two) and note may be left out.
        curves: plots, such as Goodhart's.
        samples: the pictures and their scores. warnings: sentences a reader must not miss, such as ``sets.black_report``'s.
        settings, versions: whatever repeats it. confidence: of every interval.

    Raises:
        ValueError: the baseline, or a model of a comparison, is not among the models; a comparison or a sample is there twice; a sample
            lacks the picture of a model.
        TypeError: something has no form in JSON.
    """

    title: str
    command: str
    baseline: str
    models: tuple[ModelResult, ...]
    prompts: Prompts
    comparisons: tuple[ComparisonResult, ...]
    rewards: Mapping[str, Any] = field(default_factory=dict)
    reward: str = ""
    ranking: tuple[Ranking, ...] = ()
    categories: tuple[CategoryResult, ...] = ()
    findings: Mapping[str, list[dict]] = field(default_factory=dict)
    distribution: Mapping[str, Mapping[str, Mapping]] = field(default_factory=dict)
    diagnostics: Mapping[str, Mapping[str, Mapping]] = field(default_factory=dict)
    curves: tuple[Curve, ...] = ()
    samples: tuple[Sample, ...] = ()
    warnings: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    confidence: float = 0.95

    def __post_init__(self):
        for name in FREE:
            object.__setattr__(self, name, plain(getattr(self, name)))
        object.__setattr__(self, "curves", tuple(_plain_curve(curve) for curve in self.curves))
        if not self.reward and self.comparisons:
            object.__setattr__(self, "reward", self.comparisons[0].reward)
        names = [model.name for model in self.models]
        if self.baseline not in names or len(set(names)) != len(names):
            raise ValueError(f"the baseline {self.baseline!r} must be one of the models, each named once: {', '.join(names) or 'none'}")
        for row in (*self.comparisons, *self.categories):
            if row.model not in names or row.model == self.baseline:
                others = ", ".join(name for name in names if name != self.baseline)
                raise ValueError(f"a result is about {row.model!r}; it must be about a model beside the baseline: {others or 'none'}")
        _once([(row.model, row.reward) for row in self.comparisons], "comparison of model and reward")
        _once([(sample.prompt_id, sample.index) for sample in self.samples], "sample of prompt and index")
        for sample in self.samples:
            if missing := [name for name in names if name not in sample.images]:
                raise ValueError(f"sample {sample.prompt_id!r}, index {sample.index}, has no picture of {', '.join(missing)}")

    @property
    def others(self) -> tuple[str, ...]:
        """Names of the models beside the baseline, in their order."""
        return tuple(model.name for model in self.models if model.name != self.baseline)

    @property
    def reward_names(self) -> tuple[str, ...]:
        """In the order of the comparisons, the verdict's first."""
        return tuple(dict.fromkeys([*([self.reward] if self.reward else []), *(row.reward for row in self.comparisons)]))

    @property
    def leader(self) -> str:
        """The model the verdict is about: the highest win rate by its reward; ``""`` where nothing was compared."""
        best = leader(self.comparisons, self.reward)
        return "" if best is None else best.model

    def flagged(self) -> list[tuple[str, dict]]:
        """(model, finding) of every check that is flagged, the verdict's model first."""
        models = sorted(self.others, key=lambda name: name != self.leader)
        return [(model, item) for model in models for item in self.findings.get(model, []) if item["flagged"]]

    def verdict(self) -> tuple[str, str]:
        """(sentence, lead): which model wins, by how much, how sure; "no difference can be told" where the interval holds one half."""
        return verdict(self.baseline, self.models, self.comparisons, self.reward, self.findings, self.confidence)

    def to_json(self) -> dict:
        sentence, lead = self.verdict()
        return plain({**dataclasses.asdict(self), "format": FORMAT, "verdict": {"sentence": sentence, "lead": lead}})

    @classmethod
    def from_json(cls, data: Mapping) -> Evaluation:
        """Read what ``to_json`` gave.

        Raises:
            ValueError: it is of another format, or a part is missing or not known.
        """
        if data.get("format") != FORMAT:
            raise ValueError(f"results of format {data.get('format')!r} cannot be read, only {FORMAT}: evaluate again with this version")
        parts = {"prompts": lambda item: _part(Prompts, item)}
        lists = {
            "models": ModelResult, "comparisons": ComparisonResult, "categories": CategoryResult, "curves": Curve, "samples": Sample,
        }  # fmt: skip
        for name, kind in lists.items():
            parts[name] = lambda items, kind=kind: tuple(_part(kind, item) for item in items)
        parts["ranking"] = lambda items: tuple(_part(Ranking, {**row, "rows": [_part(Rating, r) for r in row["rows"]]}) for row in items)
        parts["warnings"] = tuple
        given = {key: value for key, value in data.items() if key not in ("format", "verdict")}
        return _part(cls, {key: parts[key](value) if key in parts else value for key, value in given.items()})

    def text(self) -> str:
        """The JSON as it is written."""
        return json.dumps(self.to_json(), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"

    def write(self, path: str | Path) -> Path:
        """Write the JSON, whole or not at all; its folder is made where missing."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(self.text(), encoding="utf-8")
        os.replace(partial, path)
        return path

    @classmethod
    def read(cls, path: str | Path) -> Evaluation:
        """What ``write`` wrote."""
        return cls.from_json(json.loads(Path(path).read_text(encoding="utf-8")))


def _part(kind, values: Mapping):
    """A dataclass of its fields; lists become tuples where the field is one."""
    known = {item.name: item for item in fields(kind)}
    if strange := sorted(set(values) - set(known)):
        raise ValueError(f"results hold {', '.join(strange)} in {kind.__name__}, which knows {', '.join(known)}")
    made = {}
    for name, value in values.items():
        made[name] = tuple(value) if isinstance(value, list) and str(known[name].type).startswith("tuple") else value
    try:
        return kind(**made)
    except TypeError as error:
        raise ValueError(f"results lack a part of {kind.__name__}: {error}") from error


def _plain_curve(curve: Curve) -> Curve:
    return dataclasses.replace(curve, series=plain(curve.series), lines=plain(curve.lines))


def _once(keys: list[tuple], what: str) -> None:
    seen = set()
    for key in keys:
        if key in seen:
            raise ValueError(f"the {what} {key} is there twice")
        seen.add(key)
