"""A picture of intervals that stands alone: one row an interval, one axis, the line at one half. For documents, as ``.svg``."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from diffalign.eval.pages import svg
from diffalign.eval.pages.content import Interval

WIDTH, ROW, TOP = 760, 26, 40
LEFT, RIGHT = 190, 190  # room for the names, and for the numbers
CSS = """text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; fill: #1b1f23; }
.page { fill: #fff; } .quiet { fill: #59636d; } .rule { stroke: #eceef0; } .half { stroke: #59636d; stroke-dasharray: 3 3; }
.whisker { stroke: #59636d; stroke-width: 2; } .dot { fill: #59636d; } .good .whisker { stroke: #0a6b63; } .good .dot { fill: #0a6b63; }
@media (prefers-color-scheme: dark) { text { fill: #e6e9eb; } .page { fill: #14171a; } .quiet { fill: #9da7b0; } .rule { stroke: #262b30; }
.half, .whisker { stroke: #9da7b0; } .dot { fill: #9da7b0; } .good .whisker { stroke: #63c7b8; } .good .dot { fill: #63c7b8; } }"""


def forest(intervals: Sequence[Interval], title: str) -> str:
    """An SVG document. Rows in the order given; those with ``ok`` true are in the accent colour.

    Errors: ValueError where there is nothing to draw.
    """
    if not intervals:
        raise ValueError("a picture of intervals needs at least one")
    axis = svg.interval_ticks(list(intervals))
    bottom = TOP + ROW * len(intervals)

    def at(value: float) -> str:
        return f"{LEFT + (WIDTH - LEFT - RIGHT) * (value - axis[0]) / (axis[-1] - axis[0]):.1f}"

    parts = [f'<rect class="page" width="{WIDTH}" height="{bottom + 34}"/>', f'<text x="12" y="22">{escape(title)}</text>']
    for tick in axis:
        parts.append(f'<line class="rule" x1="{at(tick)}" x2="{at(tick)}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(f'<text class="quiet" x="{at(tick)}" y="{bottom + 18}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<line class="half" x1="{at(0.5)}" x2="{at(0.5)}" y1="{TOP}" y2="{bottom}"/>')
    for i, interval in enumerate(intervals):
        y = TOP + ROW * (i + 0.5)
        name = f'<text x="{LEFT - 14}" y="{y + 4.5}" text-anchor="end">{escape(interval.name)}</text>'
        parts.append(
            f'<g class="{"good" if interval.ok else "plain"}">{name}'
            f'<line class="whisker" x1="{at(interval.low)}" x2="{at(interval.high)}" y1="{y}" y2="{y}"/>'
            f'<circle class="dot" cx="{at(interval.value)}" cy="{y}" r="4.5"/>'
            f'<text x="{WIDTH - RIGHT + 24}" y="{y + 4.5}">{interval.value:.3f} '
            f'<tspan class="quiet">[{interval.low:.3f}, {interval.high:.3f}]</tspan></text></g>'
        )
    size = f'width="{WIDTH}" height="{bottom + 34}" viewBox="0 0 {WIDTH} {bottom + 34}"'
    start = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(title)}">'
    return f"{start}<style>{CSS}</style>{''.join(parts)}</svg>\n"
