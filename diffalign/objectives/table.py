r"""The table of named objectives. A row is a formula, its paper, its options and how to build it from the components.

    objectives.get("dpo", beta=5000.0)(evidence, comparison) -> Terms

In the formulas  z = beta * scale * (r_chosen - r_rejected) - margin,  and p is the label's probability (1 for a plain label).
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from diffalign.objectives.components import Hinge, Logistic, LogRatio, Squared
from diffalign.objectives.pairwise import PairObjective


@dataclass(frozen=True)
class Option:
    """One option of a row.

    Args:
        unit: what the number means and its units.
        published: settings in print, for the reader and for error messages.
        default: its value if not given; None if it must be given.
    """

    unit: str
    published: str
    default: float | None = None


@dataclass(frozen=True)
class Row:
    """One named objective."""

    name: str
    title: str
    formula: str
    paper: str
    options: Mapping[str, Option]
    build: Callable[..., PairObjective]
    needs: frozenset[str] = frozenset({"reference"})  # fields of the evidence it reads besides `policy`: "reference", "size"

    @property
    def defaults(self) -> dict[str, float]:
        """The options that may be left out, and what they are then."""
        return {name: option.default for name, option in self.options.items() if option.default is not None}


# Evidence has no common scale, so beta has no default: an image's 5000 would saturate a text, a text's 0.1 teach an image nothing.
BETA = Option(
    unit="strength; multiplies the reward margin once: per nat for text, per unit of 1/2 x mean squared error for diffusion",
    published="5000 for SDXL, 2000 to 5000 for SD 1.5 (arXiv:2311.12908; diffusers' SD script calls 5000 2500); 0.01 to 0.1 for text",
)
SMOOTHING = Option(unit="share of labels taken to be wrong, in [0, 0.5)", published="0.1; HALOs 0.2", default=0.1)

TABLE: dict[str, Row] = {
    row.name: row
    for row in (
        Row(
            name="dpo",
            title="Direct preference optimisation",
            formula="-p log sigma(z) - (1 - p) log sigma(-z),  r = policy - reference",
            paper="arXiv:2305.18290, eq. 7; for diffusion arXiv:2311.12908, eq. 14",
            options={"beta": BETA},
            build=lambda beta: PairObjective(LogRatio(), Logistic(), beta),
        ),
        Row(
            name="cdpo",
            title="Conservative DPO: labels smoothed",
            formula="-q log sigma(z) - (1 - q) log sigma(-z),  q = p (1 - eps) + (1 - p) eps,  eps = label_smoothing,  r as in dpo",
            paper="Mitchell 2023, A note on DPO with noisy preferences and relationship to IPO",
            options={"beta": BETA, "label_smoothing": SMOOTHING},
            build=lambda beta, label_smoothing: PairObjective(LogRatio(), Logistic(label_smoothing), beta),
        ),
        Row(
            name="ipo",
            title="Identity preference optimisation, on sums",
            formula="(h - (p - 1/2)/beta)^2,  h = z/beta,  r = policy - reference (a sum over tokens, not a mean: TRL's is the mean)",
            paper="arXiv:2310.12036",
            options={"beta": BETA},
            build=lambda beta: PairObjective(LogRatio(), Squared(beta), beta),
        ),
        Row(
            name="hinge",
            title="Hinge on the DPO margin",
            formula="p max(0, 1 - z) + (1 - p) max(0, 1 + z),  r = policy - reference",
            paper="arXiv:2309.06657 (its hinge loss); the shape is SLiC's, arXiv:2305.10425",
            options={"beta": BETA},
            build=lambda beta: PairObjective(LogRatio(), Hinge(), beta),
        ),
    )
}


def names() -> list[str]:
    """The names of all rows, in the order of the table."""
    return list(TABLE)


def get(name: str, **options: float) -> PairObjective:
    """The objective of a row.

    Raises:
        ValueError: for an unknown row, an option the row does not use, an option missing, or a value out of range.
    """
    if name not in TABLE:
        raise unknown("objective", name, TABLE)
    row = TABLE[name]
    for option in options:
        if option not in row.options:
            users = [other.name for other in TABLE.values() if option in other.options]
            raise unknown(f"option of {name}", option, row.options, f" ({option} belongs to {', '.join(users)})" if users else "")
    for option, what in row.options.items():
        if option not in options and what.default is None:
            raise ValueError(f"{name} needs {option} ({what.unit}), and no value suits all evidence. Published: {what.published}")
    return row.build(**{**row.defaults, **options})


def unknown(what: str, given: str, allowed: Iterable[str], note: str = "") -> ValueError:
    """The error for a name that is not in a table: names it, suggests the nearest, lists what is allowed."""
    near = difflib.get_close_matches(given, list(allowed), n=1)
    suggestion = f"; did you mean {near[0]!r}?" if near else "."
    return ValueError(f"unknown {what} {given!r}{note}{suggestion} Allowed: {', '.join(allowed) or 'none'}")
