"""What an evaluation says in one sentence: which model wins, by how much, how sure. Never more than the intervals allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from diffalign.eval.results import ComparisonResult, ModelResult


def leader(comparisons: Sequence[ComparisonResult], reward: str) -> ComparisonResult | None:
    """The comparison by ``reward`` with the highest win rate, of those that are surely better where there are any; None: no comparison."""
    led = [row for row in comparisons if row.reward == reward]
    return max(led, key=lambda row: (row.outcome == "better", row.win_rate), default=None)


def verdict(
    baseline: str,
    models: Sequence[ModelResult],
    comparisons: Sequence[ComparisonResult],
    reward: str,
    findings: Mapping[str, Sequence[Mapping]],
    confidence: float,
) -> tuple[str, str]:
    """(sentence, lead) from the comparisons by ``reward``; the other rewards, the checks and what the model was trained on qualify it.

    The sentence names a winner only where the interval of the win rate lies on one side of one half, and says beside it that checks are
    flagged. The lead says how sure that is, on what it rests, and where the reward is one the model was trained on.

    Args:
        findings: model -> findings of its checks (``flagged`` and ``value`` are read). confidence: of the intervals, in (0, 1).
    """
    led, best = [row for row in comparisons if row.reward == reward], leader(comparisons, reward)
    if best is None:
        return f"There is nothing to compare {baseline} with.", f"No model beside {baseline} has scores."
    sentence, lead = _sentence(baseline, best, led), [_sure(best, baseline, confidence)]
    trained = next((model.trained_on for model in models if model.name == best.model), ())
    flagged, checked = counted(findings.get(best.model, ()))
    if flagged and best.outcome != "worse":
        sentence += f", but {flagged} of {checked} checks {'is' if flagged == 1 else 'are'} flagged"
    if reward in trained:
        lead.append(f"{best.model} was trained on {reward}: only the other rewards are evidence that its pictures are better.")
    lead += _others([row for row in comparisons if row.model == best.model and row.reward != reward])
    lead += _runner_up(sorted((row for row in led if row is not best), key=lambda row: -row.win_rate), best)
    return sentence + ".", " ".join(lead)


def _sentence(baseline: str, best: ComparisonResult, led: Sequence[ComparisonResult]) -> str:
    if best.outcome == "better":
        return f"{best.model} wins {percent(best.win_rate)} of pairings against {baseline}"
    if all(row.outcome == "worse" for row in led):
        against = best.model if len(led) == 1 else f"every other model, {best.model} being the best of them:"
        return f"{baseline} wins against {against}{', which' if len(led) == 1 else ' it'} wins only {percent(best.win_rate)} of pairings"
    return f"No difference between {best.model} and {baseline} can be told" if len(led) == 1 else f"No model is sure to beat {baseline}"


def _sure(row: ComparisonResult, baseline: str, confidence: float) -> str:
    low, high = row.interval
    basis = f"by {row.reward}, over {row.prompts} prompts: {row.wins} wins, {row.ties} ties, {row.losses} losses"
    text = f"{100 * confidence:g} % interval {100 * low:.1f} to {100 * high:.1f} % ({basis})"
    if row.outcome == "open":
        text = f"{row.model} wins {percent(row.win_rate)} of pairings against {baseline}; the {text} holds one half."
        if row.minimum_detectable is not None:
            text += f" So many prompts tell a win rate from {percent(row.minimum_detectable)} on, at {percent(row.power, 0)} power."
        return text
    text += "." if row.p_adjusted is None else f"; {p_text(row.p_adjusted)} after Holm."
    if row.outcome == "better" and row.p_adjusted is not None and row.p_adjusted > 1 - confidence:
        text += " Among so many comparisons that may be chance."
    return text


def _others(rows: Sequence[ComparisonResult]) -> list[str]:
    """What each of the other rewards says of the same model, whether it agrees or not."""
    if not rows:
        return []
    said = {word: [row.reward for row in rows if row.outcome == word] for word in ("better", "open", "worse")}
    parts = [f"{word} by {', '.join(names)}" for word, names in said.items() if names]
    return [f"Other rewards: {'; '.join(parts)}."]


def _runner_up(rest: Sequence[ComparisonResult], best: ComparisonResult) -> list[str]:
    if not rest or best.outcome != "better":
        return []
    second, (low, high) = rest[0], rest[0].interval
    open_order = " The two intervals overlap: their order is not settled." if high >= best.interval[0] else ""
    return [f"Next of {len(rest) + 1} models: {second.model}, {percent(second.win_rate)} [{100 * low:.1f}, {100 * high:.1f}].{open_order}"]


def counted(findings: Sequence[Mapping]) -> tuple[int, int]:
    """How many checks are flagged, and how many could be made: one without a value was not."""
    return sum(item["flagged"] for item in findings), sum(item["value"] is not None for item in findings)


def percent(share: float, digits: int = 1) -> str:
    """0.713 -> ``"71.3 %"``."""
    return f"{100 * share:.{digits}f} %"


def p_text(p: float) -> str:
    """``"p = 0.012"``, or ``"p < 0.001"``."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
