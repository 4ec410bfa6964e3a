"""What a report shows, as plain data: pictures in pairs, curves and intervals. ``report.py`` turns them into a page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image


@dataclass(frozen=True)
class Picture:
    """One picture. ``caption``: a word or two under it ("base", "aligned"). ``score``: higher is better; None when nobody scored it.

    Raises:
        ValueError: the image is not a PIL image, or the score is not finite.
    """

    image: Image.Image
    caption: str = ""
    score: float | None = None

    def __post_init__(self):
        if not isinstance(self.image, Image.Image):
            kind = type(self.image).__name__
            raise ValueError(f"a Picture holds a PIL image, not {kind}; torchvision's to_pil_image makes one of a tensor")
        if self.score is not None and not math.isfinite(self.score):
            raise ValueError(f"a Picture's score must be a finite number, or None where nobody scored it: not {self.score}")


@dataclass(frozen=True)
class Comparison:
    """One prompt, before and after."""

    prompt: str
    before: Picture
    after: Picture

    @property
    def winner(self) -> str | None:
        """``"before"`` or ``"after"``, whichever scored higher; None for a tie or where a score is missing."""
        before, after = self.before.score, self.after.score
        if before is None or after is None or before == after:
            return None
        return "after" if after > before else "before"

    def score_texts(self) -> tuple[str, str]:
        """Both scores with two decimals, or with as many more as it takes to tell unequal ones apart; "" where there is none."""
        scores = (self.before.score, self.after.score)
        for digits in (2, 3, 4, 6):
            texts = tuple("" if score is None else f"{score:.{digits}f}" for score in scores)
            if self.winner is None or texts[0] != texts[1]:
                break
        return texts


@dataclass(frozen=True)
class Grid:
    """Rows of before and after. The first ``shown`` are on the page at once, the others one click away."""

    title: str
    note: str
    rows: Sequence[Comparison]
    shown: int = 8


@dataclass(frozen=True)
class Curve:
    """Lines over one x axis. ``series``: name -> [(x, y), ...]; ``lines``: name -> y, horizontal marks such as a ceiling.

    Points that are not finite, or None, are left out of the drawing and counted under it.

    Raises:
        ValueError: there is not one finite point to draw, or a mark is not finite.
    """

    title: str
    note: str
    x_label: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    lines: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self):
        if not any(self.points(name) for name in self.series):
            names = ", ".join(self.series) or "none given"
            raise ValueError(f"the curve {self.title!r} has no finite point in any of its series ({names}); leave the curve out")
        for name, y in self.lines.items():
            if not math.isfinite(y):
                raise ValueError(f"the line {name!r} of the curve {self.title!r} must be a finite number, not {y}")

    def points(self, name: str) -> list[tuple[float, float]]:
        """The finite points of one series."""
        return [(float(x), float(y)) for x, y in self.series[name] if _finite(x) and _finite(y)]

    @property
    def left_out(self) -> int:
        return sum(len(points) - len(self.points(name)) for name, points in self.series.items())


@dataclass(frozen=True)
class Interval:
    """A win rate and its interval. ``ok``: whether it is what ``note`` says it must be; None: nothing is demanded of it.

    Raises:
        ValueError: a number is not finite, or low lies above high.
    """

    name: str
    value: float
    low: float
    high: float
    note: str = ""
    ok: bool | None = None

    def __post_init__(self):
        if not all(math.isfinite(number) for number in (self.value, self.low, self.high)) or self.low > self.high:
            raise ValueError(f"the interval {self.name!r} needs finite numbers with low <= high: {self.value} [{self.low}, {self.high}]")


def _finite(number: float | None) -> bool:
    return number is not None and math.isfinite(number)
