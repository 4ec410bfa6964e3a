"""``diffalign compare``: two tables of scores in; who wins by each reward, and how sure that is, out."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from diffalign.eval.stats.compare import Interval, Ties, Weights, compare
from diffalign.eval.stats.tables import BY, ScoreTable, align, read_scores, told
from diffalign.train.errors import ConfigError


@dataclass(frozen=True)
class CompareCommand:
    """Compare the scores of two models on the same prompts and seeds: win rates with intervals, p values, differences.

    The tables are those that diffalign score writes, long or wide. Prompts are the independent units of every interval and test, however
    many images each has.
    """

    a: tyro.conf.Positional[str]
    """Table of the model in question: .csv, .jsonl, .json or .parquet; FILE@MODEL where a table holds several models."""
    b: tyro.conf.Positional[str]
    """Table of the model it is compared with."""
    by: list[str] = dataclasses.field(default_factory=lambda: list(BY))
    """Columns that say which image of one table belongs to which of the other. The first is the prompt."""
    metrics: list[str] | None = None
    """Rewards to compare; default: all that both tables have."""
    ties: Ties = "half"
    """Equal scores: half a win each, excluded (the share among decided pairings), or loss (only a win counts)."""
    interval: Interval = "agresti-coull"
    """Of the win rate. agresti-coull holds its confidence near 0 and 1 and with few prompts too; percentile and bca are bootstraps."""
    weights: Weights = "images"
    """What counts the same: every image, or every prompt (its images are averaged first)."""
    test: Literal["sign", "wilcoxon"] = "sign"
    """Of the p values, which are adjusted for the number of metrics (Holm): the exact sign test of prompts, or Wilcoxon's signed rank."""
    missing: Literal["refuse", "drop"] = "refuse"
    """What to do with images, or scores, that one side lacks: stop and say which, or go on without them."""
    confidence: float = 0.95
    """Of the intervals."""
    resamples: int = 10_000
    """Bootstrap draws."""
    seed: int = 0
    """Of the bootstrap."""
    json: str | None = None
    """A file for all of it, with spread, quantiles and both tests."""


def run(argv: list[str]) -> int:
    """The whole command. Raises ConfigError for whatever is wrong with the call or the tables."""
    command = tyro.cli(CompareCommand, args=argv, prog="diffalign compare")
    try:
        found = compare_tables(command)
        print(as_text(found))
        if command.json is not None:
            from diffalign.rewards.score_output import write_json

            write_json(Path(command.json), found)
            print(command.json)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    return 0


def compare_tables(command: CompareCommand) -> dict[str, Any]:
    """What the command found, as plain data: ``metrics`` holds for each reward WinRate's fields, both tests, and the adjusted p."""
    from diffalign.eval.stats.significance import holm, minimum_detectable, sign_test, wilcoxon

    if not command.by:
        raise ConfigError("by is empty; name the columns that identify an image, such as prompt_id seed")
    a, b = read_scores(command.a, command.by), read_scores(command.b, command.by)
    rows_a, rows_b = align(a.keys, b.keys, by=command.by, names=(command.a, command.b), drop=command.missing == "drop")
    prompts = np.array([a.keys[row][0] for row in rows_a])
    metrics, tests = {}, {}
    for name in _metrics(command, a, b):
        scores_a, scores_b = a.scores[name][rows_a], b.scores[name][rows_b]
        kept = _kept(command, name, scores_a, scores_b, [a.keys[row] for row in rows_a])
        sides = scores_a[kept], scores_b[kept], prompts[kept]
        result = compare(
            *sides, ties=command.ties, interval=command.interval, weights=command.weights, confidence=command.confidence,
            resamples=command.resamples, seed=command.seed,
        )  # fmt: skip
        tests[name] = {"sign": sign_test(*sides), "wilcoxon": wilcoxon(*sides)}
        share = result.ties / (result.wins + result.ties + result.losses)
        metrics[name] = {
            **result.to_json(), "without_score": int((~kept).sum()), "sign_test": tests[name]["sign"].to_json(),
            "wilcoxon": tests[name]["wilcoxon"].to_json(),
            "minimum_detectable": minimum_detectable(result.n_prompts, ties=share) if share < 1 else None,
        }  # fmt: skip
    adjusted = holm({name: found[command.test].p_value for name, found in tests.items()})
    for name, p in adjusted.items():
        metrics[name]["p_holm"] = p
    counts = {"pairings": len(rows_a), "left_out": {"a": len(a.keys) - len(rows_a), "b": len(b.keys) - len(rows_b)}}
    return {"a": command.a, "b": command.b, "by": list(command.by), **counts, "test": command.test, "metrics": metrics}


def as_text(found: dict[str, Any]) -> str:
    """The table that is printed."""
    header = ("metric", "win rate of A", "won/tied/lost", f"p ({found['test']}, Holm)", "mean difference", "median difference")
    lines = [header]
    for name, row in found["metrics"].items():
        p = "< 0.0001" if row["p_holm"] < 1e-4 else f"{row['p_holm']:.4f}"
        rate = "{:.3f} [{:.3f}, {:.3f}]".format(row["win_rate"], *row["win_rate_ci"])
        gaps = ["{:+.4g} [{:+.4g}, {:+.4g}]".format(row[kind], *row[f"{kind}_ci"]) for kind in ("mean_difference", "median_difference")]
        lines.append((name, rate, f"{row['wins']}/{row['ties']}/{row['losses']}", p, *gaps))
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    first = next(iter(found["metrics"].values()))
    left = found["left_out"]
    told = [f"A: {found['a']}", f"B: {found['b']}", _counts(found, first)]
    if left["a"] or left["b"]:
        told.append(f"left out, not in the other table: {left['a']} of A, {left['b']} of B")
    if dropped := {name: row["without_score"] for name, row in found["metrics"].items() if row["without_score"]}:
        told.append("left out, no score: " + ", ".join(f"{count} of {name}" for name, count in dropped.items()))
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*told, "", *table])


def _counts(found: dict[str, Any], first: dict[str, Any]) -> str:
    many = f"{found['pairings']} pairings of {first['n_prompts']} prompts"
    return f"{many}; ties: {first['ties_as']}; intervals of {100 * first['confidence']:g} %: {first['interval']}, over prompts"


def _metrics(command: CompareCommand, a: ScoreTable, b: ScoreTable) -> list[str]:
    both = [name for name in a.scores if name in b.scores]
    if command.metrics is None:
        if not both:
            raise ConfigError(f"no reward is in both tables: {', '.join(a.scores)} in {command.a}; {', '.join(b.scores)} in {command.b}")
        return both
    for name in command.metrics:
        if name not in both:
            raise ConfigError(f"metrics asks for {name!r}, which is not in both tables; in both are {', '.join(both) or 'none'}")
    if not command.metrics or len(set(command.metrics)) < len(command.metrics):
        raise ConfigError(f"metrics must name rewards, each once: got {' '.join(command.metrics) or 'none'}")
    return command.metrics


def _kept(command: CompareCommand, name: str, scores_a, scores_b, keys) -> np.ndarray:
    """(N,) bool: pairings with a finite score on both sides."""
    kept = np.isfinite(scores_a) & np.isfinite(scores_b)
    if not kept.any():
        raise ConfigError(f"no pairing has a score of {name} on both sides")
    if not kept.all() and command.missing == "refuse":
        first = told(command.by, keys[int(np.argmin(kept))])
        lacking = f"{int((~kept).sum())} of {len(kept)} pairings lack a score of {name}, first {first}"
        raise ConfigError(f"{lacking}; score it, or --missing drop")
    return kept
