"""One page that says who wins and shows it: verdict, pictures before and after, intervals, curves, where it all came from.

    write_report("report.html", title=..., verdict=..., lead=..., facts=[...], intervals=[...], grids=[...], curves=[...], provenance={...})
    contact_sheet(grids, "grid.png")

The page is one file without scripts or outside resources, so it opens from a disk, in a mail or years later.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from diffalign.eval.pages import markup, svg
from diffalign.eval.pages.content import Comparison, Curve, Grid, Interval, Picture
from diffalign.eval.pages.markup import TINY, note
from diffalign.eval.pages.sheet import contact_sheet
from diffalign.eval.pages.style import CSS

__all__ = ["Comparison", "Curve", "Grid", "Interval", "Picture", "contact_sheet", "write_report"]

LARGEST = 256  # pixels: larger pictures are embedded no larger than this
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # the browser itself refuses anything from outside


def write_report(
    path: str | Path,
    *,
    title: str,
    verdict: str,
    lead: str,
    facts: Sequence[tuple[str, object, str]] = (),
    intervals: Sequence[Interval] = (),
    grids: Sequence[Grid] = (),
    curves: Sequence[Curve] = (),
    provenance: Mapping[str, object] | None = None,
) -> Path:
    """Write the page, whole or not at all; parts that are empty are left out.

    Args:
        path: of the HTML file; its folder is made where missing.
        title: what was compared, for the browser's tab and the line above the verdict.
        verdict: the sentence a reader should keep: who wins, by how much. lead: how sure that is, and on what.
        facts: (name, value, note) of the few numbers that matter; values are shown as ``str`` gives them.
        intervals: win rates and controls, drawn on one axis. curves: line plots.
        grids: before and after; the first is the one a reader sees first, so let it be the random sample.
        provenance: name -> text, number, or anything JSON can hold: settings, seeds, versions, the command.

    Returns:
        The path written.
    """
    grids_shown = "".join(_grid(grid) for grid in grids if grid.rows)
    body = [
        markup.header(title, verdict, lead, facts),
        f'<section class="grids">{grids_shown}</section>' if grids_shown else "",
        _intervals(intervals),
        markup.curves(curves),
        markup.provenance(provenance or {}),
    ]
    return markup.write_document(path, title, CSS, "\n".join(body), POLICY)


def _grid(grid: Grid) -> str:
    first, others = grid.rows[: grid.shown], grid.rows[grid.shown :]
    more = f"<details><summary>Show {len(others)} more</summary>{_pairs(others)}</details>" if others else ""
    return f'<section><div><h2>{escape(grid.title)}</h2>{note("p", grid.note)}</div>{_pairs(first)}<div>{more}</div></section>'


def _pairs(rows: Sequence[Comparison]) -> str:
    cells = []
    for row in rows:
        sides = zip(("before", "after"), (row.before, row.after), row.score_texts(), strict=True)
        two = "".join(_side(picture, picture.caption or side, score, row.winner == side, row.prompt) for side, picture, score in sides)
        cells.append(f'<figure class="pair"><div class="two">{two}</div><figcaption>{escape(row.prompt)}</figcaption></figure>')
    large = any(max(picture.image.size) > TINY for row in rows for picture in (row.before, row.after))
    return f'<div class="pairs{" large" if large else ""}">{"".join(cells)}</div>'


def _side(picture: Picture, caption: str, score: str, wins: bool, prompt: str) -> str:
    spoken = '<span class="unseen"> (better)</span>' if wins else ""
    image = markup.tag("img", markup.embedded(picture.image, LARGEST) | {"alt": f"{caption}: {prompt}"})
    return (
        f'<div class="{"wins" if wins else "side"}">{image}'
        f'<p class="under"><span>{escape(caption)}{spoken}</span><b>{score}</b></p></div>'
    )


def _intervals(intervals: Sequence[Interval]) -> str:
    if not intervals:
        return ""
    axis, rows = svg.interval_ticks(list(intervals)), []
    for interval in intervals:
        state, word = {True: ("holds", "holds"), False: ("fails", "does not hold"), None: ("open", "")}[interval.ok]
        check = f'<p class="check">{word}</p>' if word else ""
        rows.append(
            f'<li class="{state}"><div><p class="name">{escape(interval.name)}</p>{note("p", interval.note)}</div>'
            f'{svg.interval_track(interval, axis)}<div class="value"><b>{interval.value:.3f}</b> '
            f"<span>{interval.low:.3f} to {interval.high:.3f}</span>{check}</div></li>"
        )
    rows.append(f'<li class="scale"><div></div>{svg.interval_axis(axis)}<div></div></li>')
    legend = "Dot: share of pairings won, a tie counting one half. Whisker: its interval. Dashed line: 0.5, neither side wins."
    return f'<section><h2>How sure</h2>{note("p", legend)}<ul class="intervals">{"".join(rows)}</ul></section>'
