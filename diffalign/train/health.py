"""Whether a run is well: the numbers that the loss alone hides, and a warning when they turn.

A preference loss falls when the rejected error rises faster than the chosen one, also when both rise and the pictures fall apart. So
what is watched is each side's error against the reference, per timestep bin, with the share of pairs that no longer give a gradient.
"""

from __future__ import annotations

from collections import deque

BINS = 5
WINDOW = 50  # optimizer steps the warnings look at
WINNER_RISE = 0.02  # of the reference's error: a mean rise of the winner's error above this, with the loss below its start, is warned of
SATURATED = 0.5  # share of pairs with hardly any gradient left above which is warned

Sums = dict[str, tuple[float, float]]


def error_changes(policy_error, reference_error, t, pairs, num_train_timesteps: int) -> Sums:
    """Policy error minus reference error of each side, whole and per bin of the timestep, as (sum, count) that add up over ranks.

    Args:
        policy_error, reference_error: (N,) mean squared errors. t: (N,) timesteps. pairs: (P, 2) rows (chosen, rejected).
        num_train_timesteps: upper end of the timesteps; the bins are equal parts of it.
    """
    change = (policy_error.detach() - reference_error).double()
    sums: Sums = {}
    for side, name in enumerate(("chosen", "rejected")):
        rows = pairs[:, side]
        sums[f"error/{name}"] = (policy_error.detach()[rows].double().sum().item(), len(rows))
        sums[f"error/{name}_change"] = (change[rows].sum().item(), len(rows))
        which = (t[rows].double() * BINS / num_train_timesteps).long().clamp(0, BINS - 1)
        for b in range(BINS):
            if (n := int((which == b).sum())) > 0:
                span = f"{b * num_train_timesteps // BINS:04d}-{(b + 1) * num_train_timesteps // BINS:04d}"
                sums[f"t_bin/{span}/{name}_change"] = (change[rows][which == b].sum().item(), n)
    sums["error/reference_chosen"] = (reference_error[pairs[:, 0]].double().sum().item(), len(pairs))
    return sums


class Health:
    """Watches one run. ``warnings(step, metrics)`` returns new warnings, each once until its condition has passed."""

    def __init__(self, start_loss: float | None):
        self.start_loss = start_loss
        self.recent: deque[dict[str, float]] = deque(maxlen=WINDOW)
        self.standing: set[str] = set()

    def warnings(self, step: int, metrics: dict[str, float]) -> list[str]:
        self.recent.append(metrics)
        if len(self.recent) < WINDOW:
            return []
        found = {}
        if self.start_loss is not None and "error/chosen_change" in metrics:
            loss, rise, reference = (self._mean(name) for name in ("loss", "error/chosen_change", "error/reference_chosen"))
            if loss < self.start_loss and rise > WINNER_RISE * reference:
                found["winner"] = (
                    f"step {step}: the winner's error is {100 * rise / reference:.1f} % above the reference's while the loss has fallen to {loss:.3f}: "
                    "the model gets worse at what people chose and only faster at what they rejected. Lower learning_rate, raise beta, or stop here"
                )
        if (saturated := self._mean("saturation")) > SATURATED:
            found["saturation"] = (
                f"step {step}: {100 * saturated:.0f} % of the pairs give hardly any gradient (saturated margins). "
                "More steps on them change little: stop, lower beta, or bring fresh pairs"
            )
        new = [text for name, text in found.items() if name not in self.standing]
        self.standing = set(found)
        return new

    def _mean(self, name: str) -> float:
        values = [row[name] for row in self.recent if name in row]
        return sum(values) / len(values) if values else 0.0

    def state_dict(self) -> dict:
        return {"recent": list(self.recent), "standing": sorted(self.standing)}

    def load_state_dict(self, state: dict) -> None:
        self.recent = deque(state["recent"], maxlen=WINDOW)
        self.standing = set(state["standing"])

