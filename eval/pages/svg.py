"""Small inline drawings for the report: whiskers on a common axis, and line plots. Colours are the page's CSS variables."""

import math
from html import escape

from diffalign.eval.pages.content import Curve, Interval

WIDTH, HEIGHT = 380, 230  # of a plot, in its own units: near one CSS pixel each, so that its text is as large on a phone as on a desk
TOP, RIGHT, BOTTOM = 14, 14, 42
DASHES = ("none", "7 4", "2 4", "9 3 2 3")


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers (1, 2 or 5 times a power of ten apart); the first is <= low, the last >= high."""
    if high <= low:
        spread = abs(low) * 0.1 or 1.0
        low, high = low - spread, high + spread
    rough = (high - low) / max(1, count - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def interval_ticks(intervals: list[Interval]) -> list[float]:
    """The common axis of all intervals; one half, where neither side wins, is always on it."""
    low, high = min([0.5] + [interval.low for interval in intervals]), max([0.5] + [interval.high for interval in intervals])
    return ticks(low - 0.02, high + 0.02, count=6)


def interval_track(interval: Interval, axis: list[float]) -> str:
    """One whisker with its dot, as wide as the page gives it (all positions in per cent), and the line at one half."""
    label = f"{interval.name}: {interval.value:.3f}, from {interval.low:.3f} to {interval.high:.3f}"
    return track(interval.value, (interval.low, interval.high), axis, mark=0.5, label=label)


def track(value: float, ends: tuple[float, float] | None, axis: list[float], *, mark: float, label: str) -> str:
    """A dot, its whisker where there are ends, and a dashed line at ``mark``, on an axis of ticks."""
    dot, half = _percent(value, axis), _percent(mark, axis)
    whisker = ""
    if ends is not None:
        low, high = (_percent(end, axis) for end in ends)
        caps = "".join(f'<line class="whisker" x1="{x}" x2="{x}" y1="-5" y2="5"/>' for x in (low, high))
        whisker = f'<line class="whisker" x1="{low}" x2="{high}" y1="0" y2="0"/>{caps}'
    return (
        f'<svg class="track" width="100%" height="44" role="img" aria-label="{escape(label)}">{_rules(axis)}'
        f'<line class="half" x1="{half}" x2="{half}" y1="0" y2="100%"/><svg y="50%" width="100%" height="1" overflow="visible">'
        f'{whisker}<circle class="dot" cx="{dot}" cy="0" r="5.5"/></svg></svg>'
    )


def interval_axis(axis: list[float]) -> str:
    """The numbers under the whiskers."""
    inner = axis[1:-1] if len(axis) > 3 else axis
    named = zip(inner, _labels(inner), strict=True)
    texts = "".join(f'<text x="{_percent(tick, axis)}" y="16" text-anchor="middle">{label}</text>' for tick, label in named)
    return f'<svg class="axis" width="100%" height="22" aria-hidden="true">{texts}</svg>'


def plot(curve: Curve) -> str:
    """A line plot with round ticks; horizontal marks carry their names at the right end."""
    drawn = {name: curve.points(name) for name in curve.series}
    xs, ys = zip(*(point for points in drawn.values() for point in points), strict=True)
    heights = [*ys, *curve.lines.values()]
    y_ticks = ticks(min(heights), max(heights))
    x_ticks = ticks(min(xs), max(xs))
    x_low, x_high = (min(xs), max(xs)) if max(xs) > min(xs) else (x_ticks[0], x_ticks[-1])
    x_ticks = [tick for tick in x_ticks if x_low <= tick <= x_high]
    left = 14 + 6.6 * max(map(len, _labels(y_ticks)))

    def at_x(x):
        return left + (x - x_low) / (x_high - x_low) * (WIDTH - RIGHT - left)

    def at_y(y):
        return HEIGHT - BOTTOM - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (HEIGHT - BOTTOM - TOP)

    parts = []
    for tick, label in zip(y_ticks, _labels(y_ticks), strict=True):
        parts.append(f'<line class="rule" x1="{left:.1f}" x2="{WIDTH - RIGHT}" y1="{at_y(tick):.1f}" y2="{at_y(tick):.1f}"/>')
        parts.append(f'<text x="{left - 8:.1f}" y="{at_y(tick) + 4:.1f}" text-anchor="end">{label}</text>')
    for tick, label in zip(x_ticks, _labels(x_ticks), strict=True):
        parts.append(f'<text x="{at_x(tick):.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{label}</text>')
    parts.append(f'<text x="{(left + WIDTH - RIGHT) / 2:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(curve.x_label)}</text>')
    for y in curve.lines.values():
        parts.append(f'<line class="mark" x1="{left:.1f}" x2="{WIDTH - RIGHT}" y1="{at_y(y):.1f}" y2="{at_y(y):.1f}"/>')
    for index, points in enumerate(drawn.values()):
        parts.append(_line([(at_x(x), at_y(y)) for x, y in points], index))
    for name, y in _apart({name: at_y(y) - 5 for name, y in curve.lines.items()}):
        parts.append(f'<text class="name" x="{WIDTH - RIGHT}" y="{y:.1f}" text-anchor="end">{escape(name)}</text>')
    return f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(curve.title)}">{"".join(parts)}</svg>'


def swatch(index: int) -> str:
    """The legend's piece of line of the ``index``-th series."""
    return f'<svg width="26" height="10" aria-hidden="true">{_line([(1, 5), (25, 5)], index)}</svg>'


def _labels(numbers: list[float]) -> list[str]:
    """All with as many decimals as the one that needs most; very small numbers as powers of ten."""
    texts = [f"{number:g}" for number in numbers]
    if any("e" in text for text in texts):
        return texts
    digits = max(len(text.partition(".")[2]) for text in texts)
    return [f"{number:.{digits}f}" for number in numbers]


def _line(points: list[tuple[float, float]], index: int) -> str:
    if len(points) == 1:
        return f'<circle class="point s{index % 4}" cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="3.5"/>'
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="line s{index % 4}" stroke-dasharray="{DASHES[index % 4]}" points="{path}"/>'


def _apart(heights: dict[str, float], gap: float = 14) -> list[tuple[str, float]]:
    """Labels from top to bottom, each at least ``gap`` under the one before."""
    placed: list[tuple[str, float]] = []
    for name, y in sorted(heights.items(), key=lambda item: item[1]):
        placed.append((name, max(y, placed[-1][1] + gap) if placed else max(y, TOP)))
    return placed


def _rules(axis: list[float]) -> str:
    return "".join(f'<line class="rule" x1="{_percent(t, axis)}" x2="{_percent(t, axis)}" y1="0" y2="100%"/>' for t in axis[1:-1])


def _percent(x: float, axis: list[float]) -> str:
    return f"{100 * (x - axis[0]) / (axis[-1] - axis[0]):.2f}%"
