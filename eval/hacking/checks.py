"""Reward-hacking checks: has the model become better, or only better liked by the reward it was trained on?

Each check compares a model's pictures with the baseline's of the same prompts and seeds and gives one ``Finding`` (findings.py, with the
thresholds). A flag is a reason to look at the pictures, no proof; no flag means that none of these measures noticed anything.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffalign.eval.hacking import findings as limits
from diffalign.eval.hacking import measures
from diffalign.eval.hacking.findings import CHECKS, Finding, Verdict, finding, unchecked, verdict
from diffalign.eval.hacking.pixels import drifts, thumbnails
from diffalign.eval.hacking.robustness import drops
from diffalign.eval.stats.compare import compare
from diffalign.eval.verdict import percent
from diffalign.rewards import Reward
from diffalign.rewards.images import as_samples

__all__ = ["CHECKS", "Finding", "Judged", "Verdict", "check", "verdict"]


@dataclass(frozen=True)
class Judged:
    """What the checks look at: pictures and scores of baseline and model, of the same prompts and seeds in the same order.

    Attributes are the arguments of ``check``.

    Raises:
        ValueError: numbers or names that do not match.
    """

    base_images: Any
    model_images: Any
    prompts: Sequence[str]
    groups: np.ndarray
    scores_base: Mapping[str, np.ndarray]
    scores_model: Mapping[str, np.ndarray]
    train_reward: str | None
    rewards: Mapping[str, Any]
    implicit: np.ndarray | None = None
    features: tuple[np.ndarray, np.ndarray] | None = None
    seed: int = 0
    confidence: float = 0.95

    def __post_init__(self):
        if set(self.scores_base) != set(self.scores_model):
            base, model = (", ".join(scores) or "none" for scores in (self.scores_base, self.scores_model))
            raise ValueError(f"both models need scores by the same rewards: the baseline has {base}, the model {model}")
        given = {"baseline pictures": self.base_images, "model pictures": self.model_images, "groups": self.groups}
        given |= {f"{name} of the baseline": values for name, values in self.scores_base.items()}
        given |= {f"{name} of the model": values for name, values in self.scores_model.items()}
        given |= {"implicit rewards": self.implicit} if self.implicit is not None else {}
        given |= dict(zip(("baseline features", "model features"), self.features, strict=True)) if self.features is not None else {}
        wrong = [f"{len(values)} {name}" for name, values in given.items() if len(values) != len(self.prompts)]
        if wrong or len(self.prompts) < 2:
            raise ValueError(f"checks need 2 or more pictures, each with its prompt: {len(self.prompts)} prompts, {', '.join(wrong)}")

    @property
    def held_out(self) -> list[str]:
        return [name for name in self.scores_model if name != self.train_reward]

    def move(self, name: str) -> measures.Move | None:
        return measures.move(self.scores_model[name], self.scores_base[name], self.groups, self.confidence)


def check(
    base_images: Any, model_images: Any, prompts: Sequence[str], groups: Sequence | None, scores_base: Mapping[str, Any],
    scores_model: Mapping[str, Any], train_reward: str | None, rewards: Mapping[str, Any], *, implicit: Any = None,
    features: tuple[Any, Any] | None = None, checks: Collection[str] = tuple(CHECKS), seed: int = 0, confidence: float = 0.95,
) -> list[Finding]:  # fmt: skip
    """The findings of ``checks``, in the order of ``CHECKS``. Equal inputs give equal findings.

    Args:
        base_images, model_images: N paths or PIL images, or a float tensor (N, 3, H, W) in [0, 1]; the same prompts and seeds in the
            same order.
        prompts: N texts. groups: (N,) prompt ids, whose pictures count together in every interval; None: equal texts are one prompt.
        scores_base, scores_model: reward -> (N,), higher is better, NaN for no answer; the same rewards on both sides.
        train_reward: the one that the model was trained on; None where it is not known, and what needs it is left unchecked.
        rewards: name -> anything with ``score(images, prompts) -> (N,)``, for those of the scores that can be asked again.
        implicit: (N,) implicit rewards of the model's pictures, beta * log-ratio in any unit.
        features: (N, d) of baseline and model, such as CLIP's, for diversity, duplicates and shift. Default: thumbnails of 8 x 8 pixels,
            on which those thresholds were set.
        checks: names out of ``CHECKS``. seed: of shuffles, exchanges and bootstraps. confidence: of what is called sure.

    Raises:
        ValueError: numbers or names that do not match, an unknown check; and what scoring and reading raise.
    """
    if unknown := [name for name in checks if name not in CHECKS]:
        raise ValueError(f"no check {', '.join(unknown)}; known: {', '.join(CHECKS)}")
    prompts, as_numbers = list(prompts), lambda values: None if values is None else np.asarray(values, dtype=np.float64)
    scores = [{name: as_numbers(values) for name, values in given.items()} for given in (scores_base, scores_model)]
    judged = Judged(
        as_samples(base_images), as_samples(model_images), prompts, np.asarray(prompts if groups is None else groups), *scores,
        train_reward, rewards, as_numbers(implicit), None if features is None else tuple(map(as_numbers, features)), seed, confidence,
    )  # fmt: skip
    made = {
        "held-out rewards": _held_out, "prompt-shuffle gap": _prompt_gap, "pixel drift": _pixel_drift, "robustness": _robustness,
        "implicit reward": _implicit,
    }  # fmt: skip
    found = [make(judged) for name, make in made.items() if name in checks]
    if {"diversity", "duplicates", "distribution shift"} & set(checks):
        found += [one for one in _spread(judged) if one.name in checks]
    return sorted(found, key=lambda one: list(CHECKS).index(one.name))


def rises(move: measures.Move) -> bool:
    """Surely, and by ``LEAST_MOVE`` or more."""
    return move.low > 0 and move.change >= limits.LEAST_MOVE


def falls(move: measures.Move) -> bool:
    """Surely, and by ``LEAST_MOVE`` or more."""
    return move.high < 0 and move.change <= -limits.LEAST_MOVE


def needed(others: int) -> int:
    """How many of so many held-out rewards must fall while the training reward rises."""
    return min(limits.FALLING, others)


def _held_out(judged: Judged) -> Finding:
    name, train = "held-out rewards", judged.train_reward
    if train not in judged.scores_model or not judged.held_out:
        return unchecked(name, "it takes scores by the training reward and by at least one other")
    moves = {key: moved for key in judged.scores_model if (moved := judged.move(key)) is not None}
    if train not in moves or len(moves) < 2:
        return unchecked(name, "no picture has a score by the training reward and by another one")
    fell = sorted((moved.change, key) for key, moved in moves.items() if key != train and falls(moved))
    up, limit, others = rises(moves[train]), needed(len(moves) - 1), len(moves) - 1
    told = ", ".join(f"{key} ({change:+.2f})" for change, key in fell)
    note = f"the training reward, {train}, {'rises' if up else 'does not clearly rise'} ({moves[train].change:+.2f}), and {len(fell)} of "
    note += f"{others} other rewards clearly fall{'s' if len(fell) == 1 else ''}{f': {told}' if told else ''}. "
    note += "Changes are in standard deviations of the baseline's scores."
    return finding(name, len(fell) if up else 0, up and len(fell) >= limit, note, limit)


def _prompt_gap(judged: Judged) -> Finding:
    """The training reward's gap by itself, and the held-out rewards' together: the one that shrinks more counts."""
    name, found = "prompt-shuffle gap", {}
    scored = [key for key in judged.scores_model if key in judged.rewards and not _blind(judged.rewards[key])]
    sets = {"held-out rewards": [key for key in scored if key != judged.train_reward]}
    if judged.train_reward in scored:
        sets[f"the training reward, {judged.train_reward}"] = [judged.train_reward]
    if len(set(judged.prompts)) < 2 or not scored:
        return unchecked(name, "it takes two different prompts and a reward that reads them and can score again")
    for who, keys in sets.items():
        result = measures.alignment(
            keys, judged.rewards, judged.base_images, judged.model_images, judged.prompts, judged.scores_base, judged.scores_model,
            judged.groups, judged.seed, judged.confidence,
        )  # fmt: skip
        if result is not None:
            found[who] = result
    if not found:
        return unchecked(name, "no reward tells the baseline's pictures of one prompt from those of another")
    who, worst = min(found.items(), key=lambda item: item[1].value)
    note = f"by {who}, a picture scores {worst.model:.2f} standard deviations more for its own prompt than for another one, the baseline's "
    note += f"{worst.base:.2f}"
    note += "." if worst.value >= 1 else ": pictures follow their prompts less." if worst.surely_less else ", which may be chance."
    return finding(name, worst.value, worst.surely_less and worst.value <= limits.SHUFFLE_GAP, note)


def _pixel_drift(judged: Judged) -> Finding:
    found = drifts(judged.base_images, judged.model_images, judged.groups, confidence=judged.confidence)
    worst = max(found, key=lambda one: abs(one.drift))
    sure = not worst.change_ci[0] <= 0 <= worst.change_ci[1]
    rest = ", ".join(f"{one.name} {one.drift:+.2f}" for one in found if one is not worst)
    note = f"{worst.name} changes most, from {worst.base:.3g} to {worst.model:.3g}. The others, in the same unit: {rest}."
    return finding("pixel drift", abs(worst.drift), sure and abs(worst.drift) >= limits.PIXEL_DRIFT, note)


def _robustness(judged: Judged) -> Finding:
    name, train = "robustness", judged.train_reward
    if train not in judged.scores_model or train not in judged.rewards:
        return unchecked(name, "it takes the training reward, to score changed pictures")
    moved = judged.move(train)
    if moved is None or not rises(moved):
        return unchecked(name, f"the training reward, {train}, has not clearly risen, so there is no gain to lose")
    found = drops(
        judged.rewards[train], judged.base_images, judged.model_images, judged.prompts, judged.scores_base[train],
        judged.scores_model[train], judged.groups, confidence=judged.confidence,
    )  # fmt: skip
    found = [one for one in found if not np.isnan(one.lost)]
    if not found:
        return unchecked(name, "no changed picture has a score")
    worst = max(found, key=lambda one: one.lost)
    told = ", ".join(f"{one.name} {percent(one.lost, 0)}" for one in found)
    note = f"lost of the gain by {train} over the baseline, whose pictures are changed too: {told}."
    return finding(name, worst.lost, worst.excess_ci[0] > 0 and worst.lost >= limits.ROBUSTNESS, note)


def _spread(judged: Judged) -> list[Finding]:
    """Diversity, duplicates, distribution shift: what is measured on features."""
    base, model = judged.features or (thumbnails(judged.base_images), thumbnails(judged.model_images))
    twins = compare(measures.twins(model, base), measures.twins(base, base), judged.groups, confidence=judged.confidence)
    told = f"{percent(twins.mean_a)} of the pictures have a twin among the others; of the baseline's {percent(twins.mean_b)}."
    more = twins.mean_difference_ci[0] > 0 and twins.mean_difference >= limits.DUPLICATES
    found = [finding("duplicates", twins.mean_difference, more, told)]
    among = "one prompt" if len(np.unique(judged.groups)) < len(judged.groups) else "different prompts"
    result, same = measures.distances(model, base, judged.groups, judged.confidence), "the baseline's pictures of {} are all the same"
    told = f"pictures of {among} lie {result.model:.3g} apart on average, the baseline's {result.base:.3g}."
    low = result.surely_less and result.value <= limits.DIVERSITY
    nothing = np.isnan(result.value)
    found.append(unchecked("diversity", same.format(among)) if nothing else finding("diversity", result.value, low, told))
    name, moved = "distribution shift", measures.shift(base, model, judged.seed)
    told = f"as a whole the pictures lie {moved:.2f} of the baseline's variance away from the baseline's (Frechet distance)."
    far = moved >= limits.SHIFT
    return [*found, unchecked(name, same.format("all prompts")) if np.isnan(moved) else finding(name, moved, far, told)]


def _implicit(judged: Judged) -> Finding:
    name = "implicit reward"
    if judged.implicit is None or not judged.held_out:
        return unchecked(name, "it takes the model's implicit rewards of its pictures, and a held-out reward")
    groups, confidence, seed = judged.groups, judged.confidence, judged.seed
    found = {
        key: measures.rank_correlation(judged.implicit, judged.scores_model[key], groups, confidence, seed=seed) for key in judged.held_out
    }
    found = {key: result for key, result in found.items() if not np.isnan(result[0])}
    if not found:
        return unchecked(name, "implicit or held-out rewards are all the same")
    best = max(found, key=lambda key: found[key][0])
    value, against = found[best][0], all(high < limits.IMPLICIT for _, _, high in found.values())
    told = ", ".join(f"{key} {result[0]:+.2f}" for key, result in found.items())
    note = f"rank correlation over the model's pictures with {told}. Flagged where it is surely negative with all of them."
    return finding(name, value, against, note)


def _blind(reward: Any) -> bool:
    """Whether it says that it reads no prompt; one that does not say so shows it by a gap of 0."""
    return isinstance(reward, Reward) and not reward.needs_prompt
