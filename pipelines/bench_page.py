"""What ``diffalign bench-methods`` writes: the table as Markdown and as a page, its intervals as one picture, drawings as another."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from diffalign.eval import report
from diffalign.eval.forest import forest


def write(folder: Path, facts: Mapping[str, object], rows: list[dict], strips: Mapping[str, Image.Image]) -> None:
    """``methods.json`` (facts and rows), ``methods.md``, ``methods.svg``, ``methods.html``; ``pictures.png`` of strips, name -> image."""
    (folder / "methods.json").write_text(json.dumps({**facts, "rows": rows}, indent=1))
    rows = sorted(rows, key=lambda row: -row["win_rate"])
    (folder / "methods.md").write_text(markdown(rows))
    intervals = [
        report.Interval(row["method"], row["win_rate"], *row["win_rate_ci"], "above one half", row["win_rate_ci"][0] > 0.5) for row in rows
    ]
    (folder / "methods.svg").write_text(forest(intervals, "Win rate against the base on unseen prompts, 95 % intervals"))
    stacked({name: strips[name] for name in ["base", *(row["method"] for row in rows)]}).save(folder / "pictures.png", optimize=True)
    best, beat, config = rows[0], sum(interval.ok for interval in intervals), facts["config"]
    report.write_report(
        folder / "methods.html", title=f"diffalign bench-methods on {facts['training']['model']}",
        verdict=f"{beat} of {len(rows)} methods beat the base; {best['method']} most often, {100 * best['win_rate']:.0f} % of the time.",
        lead=f"{config['seeds']} seeds of {config['prompts']} unseen prompts each; three settings a method, chosen on other prompts.",
        intervals=intervals,
        provenance={"settings": {row["method"]: row["settings"] for row in rows}, "bench": config},
    )  # fmt: skip


def markdown(rows: list[dict]) -> str:
    """The table, and every setting that was tried with what it changed on dev prompts; the chosen one in bold."""
    lines = ["| method | win rate | score | gap closed | winner's error | loser's error | seconds |", "|---|---|---|---|---|---|---|"]
    tried = ["| method | settings: change of the score on dev prompts |", "|---|---|"]
    for row in rows:
        low, high = row["win_rate_ci"]
        errors = " | ".join("none" if row[name] is None else f"{row[name]:+.4f}" for name in ("winner_error", "loser_error"))
        lines.append(
            f"| {row['method']} | {row['win_rate']:.3f} [{low:.3f}, {high:.3f}] | {row['score_base']:.3f} -> {row['score']:.3f} "
            f"| {100 * row['gap_closed']:.0f} % | {errors} | {row['seconds']:.0f} |"
        )
        each = [f"{_said(trial['settings'])}: {trial['score_change']:+.3f}" for trial in row["tried"]]
        chosen = [trial["settings"] for trial in row["tried"]].index(row["settings"])
        each[chosen] = f"**{each[chosen]}**"
        tried.append(f"| {row['method']} | {'; '.join(each)} |")
    return "\n".join([*lines, "", *tried]) + "\n"


def stacked(strips: Mapping[str, Image.Image]) -> Image.Image:
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


def _said(settings: Mapping[str, object]) -> str:
    """``lr 0.001, beta 500, inversion steps 4``"""
    said = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            said += [f"{name} {inner} {number}" for inner, number in value.items()]
        else:
            said.append(f"{name.replace('learning_rate', 'lr')} {value:g}")
    return ", ".join(said)
