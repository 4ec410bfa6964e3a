r"""What a row of the table of objectives is."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from diffalign.objectives.objective import Objective


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
    """One named objective.

    Args:
        name, title, formula, paper: for people; `formula` in the notation of table.py.
        options: what `objectives.get` may be given.
        build: all options, and `all_reduce` where given -> the objective.
        takes: "pairs" (Comparison), "labels" (Labels), "rankings" (Rankings) or "scores" (Scores).
        needs: fields of the evidence it reads besides `policy`, at default options: "reference", "size", "extra:NAME".
        refuses: option of other rows -> why this one does not have it.
        unverified: what of the formula could not be checked against its source.
        couples: "" where the loss of a unit does not depend on the other units of a call; "ranks" where it depends on statistics of the
            call that are summed over all ranks; "call" where it depends on what one call of one rank holds.
    """

    name: str
    title: str
    formula: str
    paper: str
    options: Mapping[str, Option]
    build: Callable[..., Objective]
    takes: str = "pairs"
    needs: frozenset[str] = frozenset({"reference"})
    refuses: Mapping[str, str] = field(default_factory=dict)
    unverified: str = ""
    couples: str = ""

    @property
    def defaults(self) -> dict[str, float]:
        """The options that may be left out, and what they are then."""
        return {name: option.default for name, option in self.options.items() if option.default is not None}

    def lacks(self, given: Collection[str]) -> dict[str, str]:
        """The options that have to be given and are not among those `given`, each with the sentence that says so."""
        return {
            name: f"{self.name} needs {name} ({what.unit}), and no value suits all evidence. Published: {what.published}"
            for name, what in self.options.items()
            if what.default is None and name not in given
        }
