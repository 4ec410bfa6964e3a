"""How often the intervals of ``diffalign.eval.stats.compare`` hold the truth, by simulation.

    python -m bench.coverage [--replications 4000] [--output docs/runs/coverage.json]

An experiment draws outcomes (win, tie, loss) of G prompts with k images each: thresholds of a normal variable whose part of variance
``correlation`` is shared by the images of a prompt. 95 % intervals, by the functions that ``compare`` calls. Cells: 30, 100 and 400
prompts; 1 image, or 4 with correlations 0 to 0.9; true win rates 0.5, 0.7, 0.95 (a tie one half); ties 0 and 30 % (of a win rate of 0.95 at
most 10 % can tie, so 10 %). Then 30 % ties with those win rates among decided pairings, which are estimated with ties as half and left out.
Beside the default interval the percentile bootstrap, with fewer replications, and intervals of the mean and median difference of normal
and of skewed scores.
"""

import argparse
import json
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np

from diffalign.eval.stats.intervals import bootstrap_interval, median_interval, share_interval

PROMPTS, WIN_RATES = (30, 100, 400), (0.5, 0.7, 0.95)
IMAGES = ((1, 0.0), (4, 0.0), (4, 0.3), (4, 0.6), (4, 0.9))  # images of a prompt, correlation
BOUND = 0.93  # no cell of the default interval may cover less
CHUNK = 1000  # experiments at a time


@dataclass(frozen=True)
class Cell:
    """One setting. win, tie: probabilities of an image. ties_as: how the estimate counts ties: half or excluded."""

    prompts: int
    images: int
    correlation: float
    win: float
    tie: float
    ties_as: str = "half"

    @property
    def truth(self) -> float:
        return self.win / (1 - self.tie) if self.ties_as == "excluded" else self.win + self.tie / 2


def cells() -> list[Cell]:
    found = []
    for prompts in PROMPTS:
        for images, correlation in IMAGES:
            for rate in WIN_RATES:
                tie = min(0.3, round(2 * (1 - rate), 12))
                mixes = [(rate, 0.0, "half"), (rate - tie / 2, tie, "half")]
                mixes += [(0.7 * rate, 0.3, "half")] * (rate != 0.5) + [(0.7 * rate, 0.3, "excluded")]
                found += [Cell(prompts, images, correlation, *mix) for mix in mixes]
    return found


def outcomes(rng, cell: Cell, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(wins, ties), each (count, prompts, images) bool."""
    shared = rng.standard_normal((count, cell.prompts, 1))
    own = rng.standard_normal((count, cell.prompts, cell.images))
    latent = np.sqrt(cell.correlation) * shared + np.sqrt(1 - cell.correlation) * own
    lost = 1 - cell.win - cell.tie
    ends = [NormalDist().inv_cdf(share) if share > 1e-9 else -np.inf for share in (lost, lost + cell.tie)]
    return latent > ends[1], (latent > ends[0]) & (latent <= ends[1])


def coverage(cell: Cell, replications: int, seed: int = 0, method: str = "agresti-coull", resamples: int = 1000) -> tuple[float, float]:
    """(share of intervals that hold the truth, their mean width). An experiment without a decided pairing counts as a miss."""
    rng, held, width = np.random.default_rng([seed, *np.frombuffer(repr(cell).encode(), np.uint8)]), 0, 0.0
    for start in range(0, replications, CHUNK):
        count = min(CHUNK, replications - start)
        wins, ties = outcomes(rng, cell, count)
        if cell.ties_as == "excluded":
            sums, sizes = wins.sum(-1), (~ties).sum(-1)
        else:
            sums, sizes = (wins + 0.5 * ties).sum(-1), np.full((count, cell.prompts), cell.images)
        if method == "agresti-coull":
            usable = sizes.sum(-1) > 0
            low, high = share_interval(sums[usable], sizes[usable])
        else:
            low, high = bootstrap_interval(sums, sizes[0], resamples=resamples, seed=start, method=method)
        held += int(((low <= cell.truth + 1e-12) & (high >= cell.truth - 1e-12)).sum())
        width += float((high - low).sum())
    return held / replications, width / replications


def differences(prompts: int, images: int, skewed: bool, replications: int, seed: int = 0) -> dict[str, float]:
    """Coverage of the intervals of the mean (percentile bootstrap) and the median difference; half of the variance is a prompt's."""
    rng = np.random.default_rng([seed, prompts, images, skewed])
    shape = (replications, prompts, 1)
    normal = (rng.standard_normal(shape) + rng.standard_normal((*shape[:2], images))) / np.sqrt(2)
    values = np.exp(normal) if skewed else normal
    low, high = bootstrap_interval(values.sum(-1), np.full(prompts, images), resamples=1000, seed=seed)
    mean, median = (np.exp(0.5), 1.0) if skewed else (0.0, 0.0)
    cluster = np.repeat(np.arange(prompts), images)
    ends = np.array([median_interval(row.ravel(), cluster) for row in values])
    return {
        "prompts": prompts, "images": images, "scores": "log-normal" if skewed else "normal",
        "mean_difference": float(((low <= mean) & (mean <= high)).mean()),
        "median_difference": float(((ends[:, 0] <= median) & (median <= ends[:, 1])).mean()),
    }  # fmt: skip


def simulate(replications: int, bootstrap_replications: int, seed: int = 0) -> dict:
    started, rows = time.time(), []
    for cell in cells():
        row = {**asdict(cell), "truth": round(cell.truth, 12)}
        row["coverage"], row["width"] = coverage(cell, replications, seed)
        if cell.ties_as == "half" and bootstrap_replications:
            row["percentile_coverage"], row["percentile_width"] = coverage(cell, bootstrap_replications, seed, "percentile")
        rows.append(row)
    scores = [
        differences(prompts, images, skewed, min(replications, 2000), seed)
        for prompts in PROMPTS for images in (1, 4) for skewed in (False, True)
    ]  # fmt: skip
    return {
        "what": "coverage of 95 % intervals of a win rate over prompts; python -m bench.coverage",
        "replications": replications, "percentile_replications": bootstrap_replications, "percentile_resamples": 1000, "seed": seed,
        "standard_error_at_0.95": float(np.sqrt(0.95 * 0.05 / replications)), "bound": BOUND,
        "lowest": min(row["coverage"] for row in rows), "below_bound": sum(row["coverage"] < BOUND for row in rows),
        "percentile_lowest": min((row["percentile_coverage"] for row in rows if "percentile_coverage" in row), default=None),
        "above_0.98": sum(row["coverage"] > 0.98 for row in rows), "cells": rows, "differences": scores,
        "numpy": np.__version__, "python": platform.python_version(), "seconds": round(time.time() - started, 1),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--replications", type=int, default=4000)
    parser.add_argument("--bootstrap-replications", type=int, default=1000, help="of the percentile bootstrap; 0 leaves it out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("docs/runs/coverage.json"))
    args = parser.parse_args()
    found = simulate(args.replications, args.bootstrap_replications, args.seed)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(found, indent=1) + "\n")
    low = f"lowest coverage {found['lowest']:.4f}, {found['below_bound']} below {BOUND}"
    print(f"{args.output}  ({len(found['cells'])} cells, {low}, {found['seconds']:.0f} s)")
    return 1 if found["below_bound"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
