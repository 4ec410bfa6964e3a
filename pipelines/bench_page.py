"""What ``diffalign bench-methods`` writes: the table as Markdown and as a page, its intervals as one picture, drawings as another."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from diffalign.eval.pages import report
from diffalign.eval.pages.forest import forest


@dataclass(frozen=True)
class Words:
    """How a modality's comparison is told.

    columns: a heading of the table -> what stands under it of a row. unit: what is judged on, in the plural, and the name of the option
    that says how many. score: what is compared. best: what is said of the best row after its name.
    """

    columns: Mapping[str, Callable[[dict], str]]
    unit: str
    score: str
    best: Callable[[dict], str]


def between(low: float, high: float, form: str = ".3f") -> str:
    return f"[{low:{form}}, {high:{form}}]"


def maybe(value: float | None, form: str) -> str:
    return "none" if value is None else f"{value:{form}}"


IMAGES = Words(
    columns={
        "method": lambda row: row["method"],
        "win rate": lambda row: f"{row['win_rate']:.3f} {between(*row['win_rate_ci'])}",
        "score": lambda row: f"{row['score_base']:.3f} -> {row['score']:.3f}",
        "gap closed": lambda row: f"{100 * row['gap_closed']:.0f} %",
        "winner's error": lambda row: maybe(row["winner_error"], "+.4f"),
        "loser's error": lambda row: maybe(row["loser_error"], "+.4f"),
        "seconds": lambda row: f"{row['seconds']:.0f}",
    },
    unit="prompts",
    score="score",
    best=lambda row: f"most often, {100 * row['win_rate']:.0f} % of the time",
)
TEXT = Words(
    columns={
        "objective": lambda row: row["method"],
        "right answers": lambda row: f"{row['score']:.3f} {between(*row['score_ci'])}",
        "change": lambda row: f"{row['change']:+.3f} {between(*row['change_ci'], '+.3f')}",
        "right, likeliest tokens": lambda row: f"{row['greedy']:.3f} {between(*row['greedy_ci'])}",
        "held-out accuracy": lambda row: maybe(row["held_out_accuracy"], ".3f"),
        "chosen": lambda row: maybe(row["chosen_change"], "+.2f"),
        "rejected": lambda row: maybe(row["rejected_change"], "+.2f"),
        "seconds": lambda row: f"{row['seconds']:.0f}",
    },
    unit="problems",
    score="share of right answers",
    best=lambda row: f"by most, {row['score_base']:.2f} -> {row['score']:.2f}",
)


Strips = Mapping[str, Image.Image]  # "base" and every method -> drawings side by side


def write(folder: Path, facts: Mapping[str, object], rows: list[dict], words: Words, strips: Strips | None = None) -> None:
    """``methods.json`` (facts and rows), ``methods.md``, ``methods.svg``, ``methods.html``; of strips also ``pictures.png``.

    Rows with ``control`` true are controls: in the table, but no methods.
    """
    (folder / "methods.json").write_text(json.dumps({**facts, "rows": rows}, indent=1))
    rows = sorted(rows, key=lambda row: -row["win_rate"])
    (folder / "methods.md").write_text(markdown(rows, words))
    intervals = [
        report.Interval(row["method"], row["win_rate"], *row["win_rate_ci"], "above one half", row["win_rate_ci"][0] > 0.5) for row in rows
    ]
    (folder / "methods.svg").write_text(forest(intervals, f"Win rate against the base on unseen {words.unit}, 95 % intervals"))
    if strips is not None:
        stacked({name: strips[name] for name in ["base", *(row["method"] for row in rows)]}).save(folder / "pictures.png", optimize=True)
    methods, config, unit = [row for row in rows if not row.get("control")] or rows, facts["config"], words.unit
    beat = sum(row["win_rate_ci"][0] > 0.5 for row in methods)
    report.write_report(
        folder / "methods.html", title=f"diffalign bench-methods on {facts['training']['model']}",
        verdict=f"{beat} of {len(methods)} methods beat the base; {methods[0]['method']} {words.best(methods[0])}.",
        lead=f"{config['seeds']} seeds of {config[unit]} unseen {unit} each; three settings a method, chosen on other {unit}.",
        intervals=intervals,
        provenance={"settings": {row["method"]: row["settings"] for row in rows}, "bench": config},
    )  # fmt: skip


def markdown(rows: list[dict], words: Words) -> str:
    """The table, and every setting that was tried with what it changed on the dev split; the chosen one in bold."""
    first, unit = next(iter(words.columns)), words.unit
    tried = [[row["method"], "; ".join(_tried(trial, trial["settings"] == row["settings"]) for trial in row["tried"])] for row in rows]
    table = _table(words.columns, [[cell(row) for cell in words.columns.values()] for row in rows])
    return "\n".join([*table, "", *_table([first, f"settings: change of the {words.score} on dev {unit}"], tried)]) + "\n"


def stacked(strips: Strips) -> Image.Image:
    """Strips under each other, their names on the left."""
    left, gap = 150, 6
    width, height = max(strip.width for strip in strips.values()), sum(strip.height + gap for strip in strips.values())
    page = Image.new("RGB", (left + width, height), "white")
    draw, font, y = ImageDraw.Draw(page), ImageFont.load_default(16), 0
    for name, strip in strips.items():
        draw.text((8, y + strip.height / 2), name, fill="black", font=font, anchor="lm")
        page.paste(strip, (left, y))
        y += strip.height + gap
    return page


def _table(headings, rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}", *(f"| {' | '.join(cells)} |" for cells in rows)]


def _tried(trial: dict, chosen: bool) -> str:
    change = "failed" if trial["score_change"] is None else f"{trial['score_change']:+.3f}"
    return f"**{_said(trial['settings'])}: {change}**" if chosen else f"{_said(trial['settings'])}: {change}"


def _said(settings: Mapping[str, object]) -> str:
    """``lr 0.001, beta 500, inversion steps 4``"""
    said = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            said += [f"{name} {inner} {number}" for inner, number in value.items()]
        else:
            said.append(f"{name.replace('learning_rate', 'lr')} {value:g}")
    return ", ".join(said)
