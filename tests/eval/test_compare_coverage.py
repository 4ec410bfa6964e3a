"""The 95 % interval of a win rate holds the truth, by a small part of ``bench.coverage``'s simulation: its hardest cells.

2000 experiments have a standard error of 0.005. The bound is the issue's 93 %; the percentile bootstrap is far below it in the first two.
"""

import numpy as np
import pytest

from bench.coverage import BOUND, Cell, cells, coverage, outcomes

HARD = [
    Cell(30, 1, 0.0, win=0.95, tie=0.0),
    Cell(30, 4, 0.9, win=0.95, tie=0.0),
    Cell(30, 1, 0.0, win=0.9, tie=0.1),
    Cell(100, 1, 0.0, win=0.02, tie=0.98),
    Cell(100, 4, 0.9, win=0.95, tie=0.0),
    Cell(30, 4, 0.6, win=0.35, tie=0.3),
    Cell(30, 4, 0.3, win=0.665, tie=0.3, ties_as="excluded"),
]


@pytest.mark.parametrize("cell", HARD, ids=str)
def test_the_interval_covers_the_truth(cell):
    assert coverage(cell, 2000)[0] >= BOUND


@pytest.mark.parametrize("cell", HARD[:2], ids=str)
def test_the_percentile_bootstrap_would_be_caught(cell):
    assert coverage(cell, 1000, method="percentile", resamples=400)[0] < BOUND - 0.05


def test_the_interval_is_no_wider_than_it_must_be():
    """400 prompts: as the normal interval at one half, and less than twice too wide where images hardly depend on each other."""
    held, width = coverage(Cell(400, 1, 0.0, win=0.5, tie=0.0), 2000)
    assert held <= 0.97 and width == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.02)
    independent, together = (coverage(Cell(400, 4, correlation, win=0.7, tie=0.0), 1000)[1] for correlation in (0.0, 0.9))
    assert independent == pytest.approx(2 * 1.96 * (0.21 / 1600) ** 0.5, rel=0.05) and together > 1.7 * independent


def test_the_simulation_draws_what_a_cell_says():
    wins, ties = outcomes(np.random.default_rng(0), Cell(100, 4, 0.6, win=0.55, tie=0.3), 500)
    assert (wins.mean(), ties.mean()) == (pytest.approx(0.55, abs=0.01), pytest.approx(0.3, abs=0.01)) and not (wins & ties).any()
    within = np.corrcoef(wins[..., 0].ravel(), wins[..., 1].ravel())[0, 1]
    assert 0.3 < within < 0.5  # of the outcomes: below the 0.6 of the normal variable behind them


def test_the_cells_are_those_of_the_issue():
    asked = {(cell.prompts, round(cell.truth, 9), cell.images) for cell in cells() if cell.ties_as == "half"}
    assert {(prompts, rate, images) for prompts in (30, 100, 400) for rate in (0.5, 0.7, 0.95) for images in (1, 4)} <= asked
    assert {cell.tie for cell in cells()} == {0.0, 0.1, 0.3}
