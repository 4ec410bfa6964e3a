"""The standing picture of intervals."""

import xml.etree.ElementTree as ElementTree

import pytest

from diffalign.eval.pages.forest import LEFT, RIGHT, WIDTH, forest
from diffalign.eval.pages.report import Interval

SVG = "{http://www.w3.org/2000/svg}"


def test_what_is_drawn_is_where_the_numbers_are():
    """Axis 0.4 to 0.9 (ticks a tenth apart); a value of 0.65 then lies in its middle."""
    rows = [Interval("<a & b>", 0.65, 0.6, 0.7, ok=True), Interval("c", 0.5, 0.45, 0.85)]
    page = ElementTree.fromstring(forest(rows, 'of "models"'))
    assert page.get("aria-label") == 'of "models"' and "<a & b>" in "".join(page.itertext())
    dots = [float(dot.get("cx")) for dot in page.iter(f"{SVG}circle")]
    assert dots[0] == pytest.approx((LEFT + WIDTH - RIGHT) / 2, abs=0.1)
    (half,) = (float(line.get("x1")) for line in page.iter(f"{SVG}line") if line.get("class") == "half")
    assert dots[1] == half
    ends = [(float(line.get("x1")), float(line.get("x2"))) for line in page.iter(f"{SVG}line") if line.get("class") == "whisker"]
    assert all(LEFT <= low < dot < high <= WIDTH - RIGHT for (low, high), dot in zip(ends, dots, strict=True))
    assert [group.get("class") for group in page.iter(f"{SVG}g")] == ["good", "plain"]


def test_nothing_to_draw_is_said():
    with pytest.raises(ValueError, match="at least one"):
        forest([], "t")
