"""Whether a run is well: the numbers that the loss alone hides, and a warning when they turn.

A preference loss falls when the rejected error rises faster than the chosen one, also when both rise and the pictures fall apart. So
what is watched is each side's error against the reference, per timestep bin, with the share of pairs that no longer give a gradient.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from torch import Tensor

from diffalign import data, objectives
from diffalign.objectives import BatchMean, Metrics, Objective, SampleObjective
from diffalign.train.errors import TrainingError

BINS = 5
WINDOW = 50  # optimizer steps the warnings look at; a shorter run gets none
WINNER_RISE = 0.02  # of the reference's error: a mean rise of the winner's error above this, with the loss below its start, is warned of
SATURATED = 0.5  # share of pairs with hardly any gradient left above which is warned
START_TOLERANCE = 0.05  # of the first loss's closed value. On a CPU the two are equal; a GPU may take other kernels without gradients


def cautions(name: str, objective: Objective, records: Sequence[data.Record], batch_size: int) -> list[str]:
    """Lines about a run that can start and will learn less than it seems: what the data or the batches leave the objective nothing of.

    Args:
        name: of the objective's row. records: to train on. batch_size: of them in one forward pass; accumulation does not add to it.
    """
    found = []
    if objective.takes == "rankings" and all(len(set(data.relevance(record))) == 1 for record in records):
        found.append(f"every one of the {len(records)} rankings is a tie: none of them says which of its samples is the better one")
    if batch_size == 1 and isinstance(objective, SampleObjective) and isinstance(objective.baseline, BatchMean):
        found.append(
            f"{name} measures a reward against max(0, the mean of its batch), and train_batch_size is 1, so that a sample is its own "
            "baseline: what lies above the reference counts as undecided for ever. Use 2 or more (accumulation does not help)"
        )
    if batch_size == 1 and objectives.TABLE[name].couples == "call":
        found.append(f"{name} sorts within a batch, and train_batch_size is 1, so that there is nothing to sort: use more")
    return [f"WARNING {text}" for text in found]


def error_changes(policy_error: Tensor, reference_error: Tensor, t: Tensor, sides: dict[str, Tensor], num_timesteps: int) -> Metrics:
    """Policy error minus reference error of each side, whole and per bin of the timestep, as (sum, count): bins add up to the whole.

    Args:
        policy_error, reference_error: (N,) mean squared errors. t: (N,) timesteps. sides: chosen and rejected -> their rows.
        num_timesteps: upper end of the timesteps; the bins are equal parts of it.
    """
    policy_error, reference_error = policy_error.detach().double().cpu(), reference_error.double().cpu()
    which = (t.double().cpu() * BINS / num_timesteps).long().clamp(0, BINS - 1)
    edges = [b * num_timesteps // BINS for b in range(BINS + 1)]
    sums: Metrics = {}
    for name, rows in sides.items():
        rows = rows.cpu()
        change = (policy_error - reference_error)[rows]
        sums[f"error/{name}"] = (policy_error[rows].sum(), len(rows))
        sums[f"error/{name}_change"] = (change.sum(), len(rows))
        for b in which[rows].unique().tolist():
            inside = which[rows] == b
            sums[f"t_bin/{edges[b]:04d}-{edges[b + 1]:04d}/{name}_change"] = (change[inside].sum(), int(inside.sum()))
    sums["error/reference_chosen"] = (reference_error[sides["chosen"].cpu()].sum(), len(sides["chosen"]))
    return sums


def check_start(measured: float, expected: float | None) -> str:
    """Where policy and reference hold equal weights the first loss has a closed value (ln 2 for DPO). Returns the line for the log.

    Args:
        expected: the closed value for the labels of the first step; None where there is none.

    Raises:
        TrainingError: the loss is another one, which is a bug, such as an active dropout.
    """
    if expected is None:
        return "step-0 identity: not applicable (policy and reference differ at the start, or there is no reference)"
    if not math.isclose(measured, expected, rel_tol=START_TOLERANCE, abs_tol=1e-12):
        raise TrainingError(
            f"the first loss is {measured:.6g}, but policy and reference are equal and it must be {expected:.6g}: "
            "is a dropout active in the denoiser, or was the reference loaded in another precision?"
        )
    return f"step-0 identity: loss {measured:.6f}, expected {expected:.6f}"


class Health:
    """Watches one run. Every kind of warning is said once."""

    def __init__(self):
        self.recent: deque[dict[str, float]] = deque(maxlen=WINDOW)
        self.said: set[str] = set()

    def warnings(self, step: int, metrics: dict[str, float]) -> list[str]:
        """The new warnings after a step, from the means over the last ``WINDOW`` steps.

        Args:
            metrics: of the step. Read are, where the objective has them, ``saturation``, and ``loss``, ``loss_at_start`` (what these pairs
                cost while policy and reference are equal), ``error/chosen_change`` and ``error/reference_chosen``.
        """
        self.recent.append(metrics)
        if len(self.recent) < WINDOW:
            return []
        found = {}
        if all({"loss_at_start", "error/chosen_change", "error/reference_chosen"} <= set(row) for row in self.recent):
            loss, start, rise, reference = map(self._mean, ("loss", "loss_at_start", "error/chosen_change", "error/reference_chosen"))
            if loss < start and rise > WINNER_RISE * reference:
                found["winner"] = (
                    f"step {step}: the winner's error is {100 * rise / reference:.1f} % above the reference's while the loss has fallen "
                    f"from {start:.3f} to {loss:.3f}: the model gets worse at what people chose and only faster at what they rejected. "
                    "Lower learning_rate, raise beta, or stop here"
                )
        if all("saturation" in row for row in self.recent) and (saturated := self._mean("saturation")) > SATURATED:
            found["saturation"] = (
                f"step {step}: {100 * saturated:.0f} % of the pairs give hardly any gradient (saturated margins). "
                "More steps on them change little: stop, lower beta, or bring fresh pairs"
            )
        new = [text for name, text in found.items() if name not in self.said]
        self.said |= set(found)
        return new

    def _mean(self, name: str) -> float:
        return sum(row[name] for row in self.recent) / len(self.recent)

    def state_dict(self) -> dict:
        return {"recent": list(self.recent), "said": sorted(self.said)}

    def load_state_dict(self, state: dict) -> None:
        self.recent = deque(state["recent"], maxlen=WINDOW)
        self.said = set(state["said"])
