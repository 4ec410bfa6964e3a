"""Signs in a run's log that it optimised its objective further than that did good (over-optimisation, arXiv:2410.11677)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from diffalign.eval.hacking.findings import Finding
from diffalign.train.health import SATURATED, WINNER_RISE

# Own choices, not tuned on any run:
ACCURACY_FALL = 0.02  # of held-out accuracy below its best, or more
LOSS_SHARE = 0.25  # of what the held-out loss had gained, given back, or more
TOP_K_FALL = 0.1  # of the top-k entropy and of the top-k mass, or more
LAST = 0.2  # share of the training log's lines that its end is the mean of

History = Sequence[dict[str, float]]


def over_optimisation(history: History, *, held_out_pairs: int | None = None, drift: str | None = None) -> list[Finding]:
    """The signs that a log allows to look for; one that lacks its curves is left out. No single one is a verdict.

    held-out accuracy   best ``held_out/accuracies`` minus the last
    held-out loss       last ``held_out/loss`` minus its least, against a quarter of what it had gained by then
    chosen reward       change of ``held_out/chosen`` since the accuracy's best; flagged where it and the accuracy have fallen while
                        ``held_out/margins`` rose (by itself it falls in most healthy runs as well)
    drift               growth of the curve ``drift`` since the accuracy's best, as a share; flagged where the accuracy has fallen
    winner's error      rise at the end, as a share of the reference's, against the trainer's ``WINNER_RISE``
    saturation          share of pairs at the end that give hardly any gradient, against the trainer's ``SATURATED``
    top-k entropy, top-k mass   relative falls of ``top_k/entropy`` and ``top_k/mass`` (see ``top_k``); flagged where both fell

    The paper names the last two; the others are the usual reading of such curves. The thresholds are ours and were not tuned.

    Args:
        history: the lines of ``metrics.jsonl``, in their order, each with ``step``.
        held_out_pairs: how many pairs the validations measured; then a fall of the accuracy must also exceed 1.96 standard errors of the
            difference of two such accuracies, as if they were independent (they share their pairs, so this is cautious).
        drift: name of a logged curve that grows with the distance from the reference, such as a KL.

    Raises:
        ValueError: an empty history, a line without a step, or a ``drift`` that is not in it.
    """
    if not history or any("step" not in row for row in history):
        raise ValueError(f"the history has {len(history)} lines; it needs one at least, each with its step: read metrics.jsonl as it is")
    if drift is not None and not _curve(history, drift):
        raise ValueError(f"no line of the history has {drift!r}; logged are {', '.join(sorted({name for row in history for name in row}))}")
    return _held_out(history, held_out_pairs, drift) + _of_the_end(history)


def top_k(logits: Tensor, k: int = 10) -> tuple[Tensor, Tensor]:
    """Entropy (nats) over the k most probable tokens, renormalised, and their summed probability, a place each: (...,) float32 both.

    Source: arXiv:2410.11677 through the project's notes (k about 10; both falling together go with declining quality), not checked.

    Args:
        logits: (..., V), logits or log-probabilities. Average the results over response tokens and log them as ``top_k/entropy`` and
            ``top_k/mass``.

    Raises:
        ValueError: k outside 1 .. V.
    """
    if not 1 <= k <= logits.shape[-1]:
        raise ValueError(f"k is {k}; it must be from 1 to the {logits.shape[-1]} tokens of the vocabulary")
    logits = logits.float()
    top = logits.topk(k, dim=-1).values
    logp = top.log_softmax(-1)
    return -(logp.exp() * logp).sum(-1), (torch.logsumexp(top, -1) - torch.logsumexp(logits, -1)).exp()


def _held_out(history: History, pairs: int | None, drift: str | None) -> list[Finding]:
    """Signs in the validations' curves, the later ones counted from the best held-out accuracy."""
    found = []
    loss = _curve(history, "held_out/loss")
    if len(loss) > 1:
        least = min(loss, key=lambda step: (loss[step], -step))
        first, last = _first(loss), _last(loss)
        rise, threshold = last - loss[least], LOSS_SHARE * (first - loss[least])
        note = f"{first:.4g} at first, {loss[least]:.4g} at its least (step {least}), {last:.4g} at the end"
        found.append(Finding("held-out loss", "its rise since its least", rise, threshold, rise > threshold, note))
    accuracy = _curve(history, "held_out/accuracies")
    if len(accuracy) < 2:
        return found
    best = max(accuracy, key=lambda step: (accuracy[step], step))  # the latest of equals
    peak, last = accuracy[best], _last(accuracy)
    threshold = max(ACCURACY_FALL, 0.0 if pairs is None else 1.96 * math.sqrt(2 * peak * (1 - peak) / pairs))
    fallen = peak - last > threshold
    note = f"{peak:.3f} at its best (step {best}), {last:.3f} at the end"
    found.append(Finding("held-out accuracy", "its fall since its best", peak - last, threshold, fallen, note))
    chosen, margins = _curve(history, "held_out/chosen"), _curve(history, "held_out/margins")
    if best in chosen and best in margins:
        change, wider = _last(chosen) - chosen[best], _last(margins) - margins[best]
        note = f"since the best held-out accuracy (step {best}); the margin changed by {wider:.4g}"
        found.append(Finding("chosen reward", "its change", change, 0.0, fallen and change < 0 < wider, note))
    if drift is not None:
        values = _curve(history, drift)
        start = values[min(values, key=lambda step: abs(step - best))]
        growth = _last(values) / start - 1 if start else math.nan
        note = f"since the best held-out accuracy (step {best})"
        found.append(Finding("drift", f"growth of {drift}, as a share", growth, 0.0, fallen and growth > 0, note))
    return found


def _of_the_end(history: History) -> list[Finding]:
    """Signs in the training log's last lines."""
    found = []
    rise, reference = _end(history, "error/chosen_change"), _end(history, "error/reference_chosen")
    if rise is not None and reference:
        what, value = "rise above the reference's, as a share of it", rise / reference
        found.append(Finding("winner's error", what, value, WINNER_RISE, value > WINNER_RISE, "mean over the log's last fifth"))
    saturation = _end(history, "saturation")
    if saturation is not None:
        what = "share of pairs that give hardly any gradient"
        found.append(Finding("saturation", what, saturation, SATURATED, saturation > SATURATED, "mean over the log's last fifth"))
    curves = {name: _curve(history, f"top_k/{name}") for name in ("entropy", "mass")}
    falls = {name: 1 - _end(history, f"top_k/{name}") / _first(curve) for name, curve in curves.items() if len(curve) > 1 and _first(curve)}
    both = len(falls) == 2 and min(falls.values()) > TOP_K_FALL
    note = "since the log's first line; flagged where entropy and mass both fell"
    return found + [Finding(f"top-k {name}", "its fall, as a share", fall, TOP_K_FALL, both, note) for name, fall in falls.items()]


def _curve(history: History, name: str) -> dict[int, float]:
    """step -> value of the lines that have it, in order."""
    return {int(row["step"]): float(row[name]) for row in history if name in row}


def _first(curve: dict[int, float]) -> float:
    return next(iter(curve.values()))


def _last(curve: dict[int, float]) -> float:
    return next(reversed(curve.values()))


def _end(history: History, name: str) -> float | None:
    """Mean over the last fifth of the lines that have it."""
    values = list(_curve(history, name).values())
    last = values[-max(1, int(LAST * len(values))) :]
    return sum(last) / len(last) if values else None
