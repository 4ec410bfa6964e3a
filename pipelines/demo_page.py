"""The demo's page: verdict, pictures before and after, controls and curves."""

from __future__ import annotations

import json
import random
from pathlib import Path

from diffalign.eval.pages import report
from diffalign.eval.stats.compare import WinRate
from diffalign.pipelines.pairs import to_pil

CURVES = [  # title, note, {label: name in metrics.jsonl}, {label: horizontal line}
    ("Loss", "Starts at ln 2, where policy and reference agree.", {"loss": "loss"}, {"ln 2": 0.6931}),
    (
        "Accuracy",
        "Share of pairs whose margin is positive.",
        {"training": "rewards/accuracies", "held out": "held_out/accuracies"},
        {"chance": 0.5},
    ),
    (
        "Error against the reference",
        "What the loss alone hides: the winner's error should not climb.",
        {"chosen": "error/chosen_change", "rejected": "error/rejected_change"},
        {"reference": 0.0},
    ),
]


def write_page(
    folder: Path, summary: dict, prompts: list[str], images: dict, scores: dict, result: WinRate, controls: dict[str, WinRate]
) -> None:
    """``report.html`` and ``grid.png`` of a finished demo.

    Args:
        images: name -> (N, 3, H, W) in [0, 1]. scores: name -> (N,). result, controls: against the base.
    """

    def row(i):
        before, after = (report.Picture(to_pil(images[name][i]), name, float(scores[name][i])) for name in ("base", "aligned"))
        return report.Comparison(prompts[i], before, after)

    some = random.Random(summary["settings"]["demo"]["seed"]).sample(range(len(prompts)), 16)
    change = scores["aligned"] - scores["base"]
    most = abs(change).argsort()[::-1][:16]
    grids = [
        report.Grid("A random sample", "Same prompt, same noise, before and after.", [row(i) for i in some]),
        report.Grid(
            "Most changed",
            "The largest differences of the judge's score, in either direction.",
            [row(i) for i in most],
        ),
    ]
    low, high = result.win_rate_ci
    intervals = [report.Interval("aligned against base", result.win_rate, low, high, "above one half", low > 0.5)]
    for name, control in controls.items():
        intervals.append(
            report.Interval(
                name, control.win_rate, *control.win_rate_ci, "a control: must not lie above one half", control.win_rate_ci[0] <= 0.5
            )
        )
    curves = [curve for curve in (_curve(folder / "aligned" / "metrics.jsonl", *spec) for spec in CURVES) if curve]
    facts = [
        ("win rate", f"{result.win_rate:.3f}", f"95 % interval {low:.3f} to {high:.3f}, {result.n_prompts} unseen prompts"),
        (
            "score",
            f"{summary['score_base']:.3f} to {summary['score_aligned']:.3f}",
            f"ceiling {summary['score_ceiling']:.3f}: clean drawings through the autoencoder",
        ),
        ("gap closed", f"{100 * summary['gap_closed']:.0f} %", "of the way from the base to that ceiling"),
        (
            "all right",
            f"{100 * summary['all_right']['base']:.0f} % to {100 * summary['all_right']['aligned']:.0f} %",
            "pictures that score above 0.9",
        ),
    ]
    wins = "The aligned model wins" if low > 0.5 else "No clear winner"
    report.write_report(
        folder / "report.html", title="diffalign demo: Diffusion-DPO on builtin:shapes", facts=facts, intervals=intervals,
        grids=grids, curves=curves,
        verdict=f"{wins}: win rate {100 * result.win_rate:.0f} % against the base on unseen prompts.",
        lead=f"95 % interval {100 * low:.0f} to {100 * high:.0f} %: {result.wins} wins, {result.ties} ties, {result.losses} losses, "
        "judged from the pixels.",
        provenance={"settings": summary["settings"], "seconds": summary["seconds"], "warnings": summary["training"]["aligned"]["warnings"]},
    )  # fmt: skip
    report.contact_sheet(grids, folder / "grid.png")


def _curve(path: Path, title: str, note: str, names: dict[str, str], lines: dict[str, float]) -> report.Curve | None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    series = {label: [(row["step"], row[name]) for row in rows if name in row] for label, name in names.items()}
    return report.Curve(title, note, "optimizer step", {k: v for k, v in series.items() if v}, lines) if any(series.values()) else None
