"""The tables of the evaluation page: checks, win rates, rankings, categories and measures, each a section or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from diffalign.eval.evaluation import Evaluation
from diffalign.eval.pages import svg
from diffalign.eval.pages.content import Interval
from diffalign.eval.pages.markup import note
from diffalign.eval.results import Ranking
from diffalign.eval.verdict import counted, p_text, percent

DRAWN = '<th scope="col" class="drawn"><span class="unseen">Drawn</span></th>'  # the head of the column of whiskers
AT_ONCE = 6  # flagged checks that are there unfolded


def checks(evaluation: Evaluation) -> str:
    """The flagged reward-hacking checks at once, those that pass folded away."""
    found = [(model, item) for model in evaluation.others for item in evaluation.findings.get(model, [])]
    if not found:
        text = "These models were not checked for reward hacking."
        return f'<section class="checks quiet" id="checks"><p>{text}</p></section>' if evaluation.comparisons else ""
    _, checked = counted([item for _, item in found])
    flagged, passed = evaluation.flagged(), [pair for pair in found if not pair[1]["flagged"]]
    folded = f"<details><summary>Show {len(passed)} not flagged</summary>{_findings(passed)}</details>" if passed else ""
    if flagged[AT_ONCE:]:
        folded = f"<details><summary>Show {len(flagged) - AT_ONCE} more flagged</summary>{_findings(flagged[AT_ONCE:])}</details>{folded}"
    if not flagged:
        text = f"None of {checked} checks for reward hacking is flagged."
        return f'<section class="checks quiet" id="checks"><h2>Checks</h2><p>{text}</p>{folded}</section>'
    count = f"{len(flagged)} of {checked} checks for reward hacking {'is' if len(flagged) == 1 else 'are'} flagged"
    return f'<section class="checks alarm" id="checks"><h2>{count}</h2>{_findings(flagged[:AT_ONCE])}{folded}</section>'


def _findings(pairs: Sequence[tuple[str, Mapping]]) -> str:
    several, rows = len({model for model, _ in pairs}) > 1, []
    for model, item in pairs:
        value, threshold = item["value"], item.get("threshold")
        limit = "" if threshold is None or value is None else f" <span>threshold {number(threshold)}</span>"
        name = f"{item['name']} ({model})" if several else item["name"]
        rows.append(
            f'<li><p class="name">{escape(name)}</p><p class="value"><b>{"not checked" if value is None else number(value)}</b>{limit}</p>'
            f"<div>{escape(item.get('what', ''))}{note('p', item.get('note', ''))}</div></li>"
        )
    return f'<ul class="findings">{"".join(rows)}</ul>'


@dataclass(frozen=True)
class Row:
    """One line of a table of win rates. ``cells``: (column's name, text) to the right of the drawing."""

    name: str
    interval: Interval
    outcome: str
    counts: str
    cells: Sequence[tuple[str, str]] = ()
    mark: str = ""


def win_rates(evaluation: Evaluation) -> str:
    """Every model by every reward, with its interval drawn."""
    if not evaluation.comparisons:
        return ""
    baseline, trained = evaluation.baseline, {model.name: model.trained_on for model in evaluation.models}
    groups = []
    for model in evaluation.others:
        rows = sorted((row for row in evaluation.comparisons if row.model == model), key=lambda row: row.reward != evaluation.reward)
        lines = []
        for row in rows:
            cells = [(f"Mean, {baseline} → model", f"{number(row.baseline_mean)} → {number(row.mean)}")]
            cells.append((f"Median, {baseline} → model", f"{number(row.baseline_median)} → {number(row.median)}"))
            cells.append(("p, Holm", "" if row.p_adjusted is None else p_text(row.p_adjusted)))
            interval = Interval(f"{model} by {row.reward}", row.win_rate, *row.interval)
            counts = f"{row.wins} / {row.ties} / {row.losses}"
            lines.append(Row(row.reward, interval, row.outcome, counts, cells, "trained on" if row.reward in trained[model] else ""))
        groups.append((model, lines))
    tests = sorted({row.test for row in evaluation.comparisons if row.p_adjusted is not None and row.test})
    legend = f"Dot: share of pairings won, a tie counting one half. Whisker: its {percent(evaluation.confidence, 0)} interval."
    legend += f" p: {' and '.join(tests)}, adjusted over all comparisons (Holm)." if tests else ""
    return _section("rates", f"Win rates against {baseline}", legend, _rate_table("Reward", groups))


def categories(evaluation: Evaluation) -> str:
    """The verdict's reward by category of prompt; other rewards folded away."""
    if not evaluation.categories:
        return ""
    shown, folded = "", ""
    for reward in dict.fromkeys([evaluation.reward, *(row.reward for row in evaluation.categories)]):
        groups = []
        for model in evaluation.others:
            lines = []
            for row in evaluation.categories:
                if (row.model, row.reward) == (model, reward):
                    low, high = row.interval or (row.win_rate, row.win_rate)
                    interval = Interval(f"{model} by {reward}, {row.category}", row.win_rate, low, high)
                    counts = f"{row.wins} / {row.ties} / {row.losses}"
                    lines.append(Row(row.category or "no category", interval, row.outcome, counts))
            groups += [(model, lines)] if lines else []
        if groups and reward == evaluation.reward:
            shown = _rate_table("Category", groups)
        elif groups:
            folded += f"<details><summary>By {escape(reward)}</summary>{_rate_table('Category', groups)}</details>"
    text = f"By {evaluation.reward}. Intervals of single categories are wide, and not adjusted for being many."
    return _section("categories", "By category of prompt", text, shown + folded)


def _rate_table(first: str, groups: Sequence[tuple[str, Sequence[Row]]]) -> str:
    """Rows under the heading of their model, where there are several, on one axis."""
    intervals = [row.interval for _, rows in groups for row in rows]
    axis, cells = svg.interval_ticks(intervals), [name for name, _ in groups[0][1][0].cells]
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in ["Wins / ties / losses", *cells])
    bodies = []
    for model, rows in groups:
        heading = f'<tr class="group"><th scope="rowgroup" colspan="{4 + len(cells)}">{escape(model)}</th></tr>' if len(groups) > 1 else ""
        bodies.append(f"<tbody>{heading}{''.join(_rate_row(row, axis) for row in rows)}</tbody>")
    scale = f'<tfoot><tr><td></td><td class="drawn">{svg.interval_axis(axis)}</td><td colspan="{2 + len(cells)}"></td></tr></tfoot>'
    return (
        f'<table class="rates"><thead><tr><th scope="col">{escape(first)}</th>{DRAWN}<th scope="col">Win rate</th>{heads}</tr></thead>'
        f"{''.join(bodies)}{scale}</table>"
    )


def _rate_row(row: Row, axis: list[float]) -> str:
    ends = (row.interval.low, row.interval.high) if row.interval.high > row.interval.low else None
    told = f"{percent(ends[0])} to {percent(ends[1])}" if ends else "no interval"
    drawn = svg.track(row.interval.value, ends, axis, mark=0.5, label=f"{row.interval.name}: {percent(row.interval.value)}, {told}")
    mark = f' <span class="mark">{escape(row.mark)}</span>' if row.mark else ""
    range_text = f"<span>{100 * ends[0]:.1f} to {100 * ends[1]:.1f}</span>" if ends else ""
    named = [("Wins / ties / losses", row.counts), *row.cells]
    cells = "".join(f'<td data-name="{escape(name)}">{escape(text)}</td>' for name, text in named)
    return (
        f'<tr class="{row.outcome}"><th scope="row">{escape(row.name)}{mark}</th><td class="drawn">{drawn}</td>'
        f'<td class="value"><b>{percent(row.interval.value)}</b> {range_text} <em>{row.outcome}</em></td>{cells}</tr>'
    )


def ranking(evaluation: Evaluation) -> str:
    """All models by strength, the baseline marked by the dashed line."""
    return "".join(_one_ranking(item, evaluation.baseline) for item in evaluation.ranking if item.rows)


def _one_ranking(given: Ranking, baseline: str) -> str:
    placed = sorted((row for row in given.rows if row.rating is not None), key=lambda row: -row.rating)
    ends = [end for row in placed for end in (row.rating, row.low, row.high) if end is not None] or [0.0, 1.0]
    margin = 0.06 * (max(ends) - min(ends))
    axis = svg.ticks(min(ends) - margin, max(ends) + margin, count=6)
    mark = next((row.rating for row in placed if row.model == baseline), axis[0])
    rows = []
    for place, row in enumerate(placed, start=1):
        both = None if row.low is None or row.high is None else (row.low, row.high)
        sides = [] if both else [f"{word} {end:.0f}" for word, end in (("from", row.low), ("up to", row.high)) if end is not None]
        told = f"{row.low:.0f} to {row.high:.0f}" if both else ", ".join(sides)
        drawn = svg.track(row.rating, both, axis, mark=mark, label=f"{row.model}: {row.rating:.0f}, {told or 'no interval'}")
        value = f"<b>{row.rating:.0f}</b> <span>{told}</span>{note('p', row.note)}"
        rows.append((f"{place}. {row.model}", drawn, value))
    rows += [(row.model, "", f"<b>–</b>{note('p', row.note or 'Its games do not say.')}") for row in given.rows if row.rating is None]
    cells = '<tr><th scope="row">{}</th><td class="drawn">{}</td><td class="value">{}</td></tr>'
    lines = "".join(cells.format(escape(name), drawn, value) for name, drawn, value in rows)
    head = f'<tr><th scope="col">Model</th>{DRAWN}<th scope="col">Rating</th></tr>'
    scale = f'<tfoot><tr><td></td><td class="drawn">{svg.interval_axis(axis)}</td><td></td></tr></tfoot>'
    table = f'<table class="rates few"><thead>{head}</thead><tbody>{lines}</tbody>{scale}</table>'
    text = " ".join(part for part in (f"{given.scale}." if given.scale else "", f"Dashed line: {baseline}.", given.note) if part)
    return _section("ranking", f"Ranking by {given.reward}", text, table)


def measures(name: str, title: str, text: str, given: Mapping[str, Mapping[str, Mapping]], models: Sequence[str]) -> str:
    """A table of measures x models; n under each value."""
    rows = dict.fromkeys(measure for model in models for measure in given.get(model, {}))
    columns = [model for model in models if given.get(model)]
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{escape(model)}</th>' for model in columns)
    lines = []
    for measure in rows:
        cells = []
        for model in columns:
            item = given[model].get(measure, {})
            sizes = item.get("n") if isinstance(item.get("n"), list) else [item.get("n")]
            known = list(dict.fromkeys(str(size) for size in sizes if size is not None))
            count = f"<span>n = {', '.join(known)}</span>" if known else ""
            cells.append(f"<td><b>{number(item['value'])}</b> {count}{note('p', item.get('note', ''))}</td>" if item else "<td></td>")
        lines.append(f'<tr><th scope="row">{escape(measure)}</th>{"".join(cells)}</tr>')
    table = f'<table class="measures"><thead><tr><th scope="col">Measure</th>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    return _section(name, title, text, f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(title)}">{table}</div>')


def number(value: float | None) -> str:
    """Four digits that count; a dash where there is none."""
    return "–" if value is None else f"{value:.4g}".replace("-", "−")


def _section(name: str, title: str, text: str, inner: str) -> str:
    return f'<section id="{name}"><h2>{escape(title)}</h2>{note("p", text)}{inner}</section>'
