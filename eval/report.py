"""One page that says who wins and shows it: verdict, pictures before and after, intervals, curves, where it all came from.

    write_report("report.html", title=..., verdict=..., lead=..., facts=[...], intervals=[...], grids=[...], curves=[...], provenance={...})
    contact_sheet(grids, "grid.png")

The page is one file without scripts or outside resources, so it opens from a disk, in a mail or years later.
"""

import base64
import io
import json
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from PIL import Image

from diffalign.eval import svg
from diffalign.eval.content import Comparison, Curve, Grid, Interval, Picture
from diffalign.eval.sheet import contact_sheet
from diffalign.eval.style import CSS

__all__ = ["Comparison", "Curve", "Grid", "Interval", "Picture", "contact_sheet", "write_report"]

TINY = 64  # pixels: pictures up to this side are embedded as they are and enlarged crisply by the browser
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
    path = Path(path)
    body = "\n".join(
        [
            _header(title, verdict, lead, facts),
            _wrap("grids", [_grid(grid) for grid in grids if grid.rows]),
            _intervals(intervals),
            _curves(curves),
            _provenance(provenance or {}),
        ]
    )
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(page, encoding="utf-8")
    os.replace(partial, path)
    return path


def _header(title, verdict, lead, facts) -> str:
    cells = "".join(
        f'<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>{_text("dd", note)}</div>' for name, value, note in facts
    )
    return (
        f'<header><p class="title">{escape(title)}</p><h1>{escape(verdict)}</h1>'
        + (f'<p class="lead">{escape(lead)}</p>' if lead else "")
        + (f'<dl class="facts">{cells}</dl>' if cells else "")
        + "</header>"
    )


def _grid(grid: Grid) -> str:
    first, others = grid.rows[: grid.shown], grid.rows[grid.shown :]
    more = f"<details><summary>Show {len(others)} more</summary>{_pairs(others)}</details>" if others else ""
    return f'<section><div><h2>{escape(grid.title)}</h2>{_text("p", grid.note)}</div>{_pairs(first)}<div>{more}</div></section>'


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
    return (
        f'<div class="{"wins" if wins else "side"}">{_image(picture.image, f"{caption}: {prompt}")}'
        f'<p class="under"><span>{escape(caption)}{spoken}</span><b>{score}</b></p></div>'
    )


def _image(image: Image.Image, alt: str) -> str:
    """A tiny picture as PNG, pixel for pixel; a larger one as JPEG of at most 256 pixels, a tenth of its PNG."""
    image, data = image.convert("RGB"), io.BytesIO()
    tiny = max(image.size) <= TINY
    if tiny:
        image.save(data, "PNG", optimize=True)
    else:
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
        image.save(data, "JPEG", quality=85, optimize=True)
    source = f"data:image/{'png' if tiny else 'jpeg'};base64,{base64.b64encode(data.getvalue()).decode()}"
    width, height = image.size
    return f'<img class="{"pixels" if tiny else "photo"}" src="{source}" width="{width}" height="{height}" alt="{escape(alt)}">'


def _intervals(intervals: Sequence[Interval]) -> str:
    if not intervals:
        return ""
    axis, rows = svg.interval_ticks(list(intervals)), []
    for interval in intervals:
        state, word = {True: ("holds", "holds"), False: ("fails", "does not hold"), None: ("open", "")}[interval.ok]
        check = f'<p class="check">{word}</p>' if word else ""
        rows.append(
            f'<li class="{state}"><div><p class="name">{escape(interval.name)}</p>{_text("p", interval.note)}</div>'
            f'{svg.interval_track(interval, axis)}<div class="value"><b>{interval.value:.3f}</b> '
            f"<span>{interval.low:.3f} to {interval.high:.3f}</span>{check}</div></li>"
        )
    rows.append(f'<li class="scale"><div></div>{svg.interval_axis(axis)}<div></div></li>')
    note = "Dot: share of pairings won, a tie counting one half. Whisker: its interval. Dashed line: 0.5, neither side wins."
    return f'<section><h2>How sure</h2>{_text("p", note)}<ul class="intervals">{"".join(rows)}</ul></section>'


def _curves(curves: Sequence[Curve]) -> str:
    figures = []
    for curve in curves:
        names = "".join(f"<span>{svg.swatch(index)}{escape(name)}</span>" for index, name in enumerate(curve.series))
        missing = f"Not finite, so not drawn: {curve.left_out} of the points." if curve.left_out else ""
        figures.append(
            f"<figure><div><h3>{escape(curve.title)}</h3>{_text('p', curve.note)}</div>{svg.plot(curve)}"
            f'<figcaption><p class="legend">{names}</p>{_text("p", missing)}</figcaption></figure>'
        )
    return f"<section>{_wrap('curves', figures)}</section>" if figures else ""


def _provenance(provenance: Mapping[str, object]) -> str:
    def show(value):
        if isinstance(value, Mapping | list | tuple):
            text = json.dumps(value, default=str, ensure_ascii=False)
            if len(text) > 100:
                text = json.dumps(value, default=str, ensure_ascii=False, indent=2)
            return f"<pre>{escape(text)}</pre>"
        return escape(str(value))

    if not provenance:
        return ""
    entries = "".join(f"<dt>{escape(str(name))}</dt><dd>{show(value)}</dd>" for name, value in provenance.items())
    return f'<section class="provenance"><details><summary>Where this comes from</summary><dl>{entries}</dl></details></section>'


def _text(tag: str, text: str) -> str:
    """A quiet line, or nothing."""
    return f'<{tag} class="note">{escape(text)}</{tag}>' if text else ""


def _wrap(name: str, parts: Sequence[str]) -> str:
    tag = "section" if name == "grids" else "div"
    return f'<{tag} class="{name}">{"".join(parts)}</{tag}>' if parts else ""
