r"""The table of named objectives. A row is a formula, its paper, its options and how to build it from the components.

    objectives.get("dpo", beta=5000.0)(evidence, comparison) -> Terms

In the formulas  z = beta * scale * (r_chosen - r_rejected) - margin,  p is the label's probability (1 for a plain label), and
l = -2 * policy the mean squared denoising error of the policy, l^w of the chosen and l^l of the rejected side. Where a row gives no r it is
policy - reference. a, b are the log-ratios of the two sides, lp and rf log-probabilities of policy and reference, lr_t a token's log-ratio.
"""

import difflib
import warnings
from collections.abc import Iterable, Iterator, Mapping

from diffalign.objectives import rows, rows_free, rows_links, rows_lists, rows_points, rows_samples, rows_text
from diffalign.objectives.aliases import ALIASES
from diffalign.objectives.objective import AllReduce, Objective
from diffalign.objectives.row import Row

ROWS = (
    *rows.PAIRS, *rows_links.ROWS, *rows_points.ROWS, *rows_free.ROWS, *rows_text.ROWS,
    *rows.OTHERS, *rows_samples.ROWS, *rows_lists.ROWS,
)  # fmt: skip


class Table(Mapping[str, Row]):
    """Rows by their canonical names, over which it iterates; a look-up knows aliases of one row as well."""

    def __init__(self, rows: Iterable[Row]):
        self.rows = {row.name: row for row in rows}

    def __getitem__(self, name: str) -> Row:
        spelt = name.replace("_", "-")
        if spelt in ALIASES and len(ALIASES[spelt].rows) == 1:
            spelt = ALIASES[spelt].rows[0]
        if spelt not in self.rows:
            raise KeyError(name)
        return self.rows[spelt]

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


TABLE = Table(ROWS)


def names() -> list[str]:
    """The canonical names of all rows, in the order of the table."""
    return list(TABLE)


def get(name: str, *, all_reduce: AllReduce | None = None, **options: float) -> Objective:
    """The objective of a row.

    Args:
        name: of the row, or an alias of it (then a warning says what is meant).
        all_reduce: tensor -> its sum over all ranks, for rows that read the whole batch (their `couples` is "ranks") and for
            `adaptive_beta`. None: one rank.
        options: of the row.

    Raises:
        ValueError: for an unknown row, a name of several, an option the row does not use, an option missing, or a value out of range.
    """
    alias = ALIASES.get(name.replace("_", "-"))
    if alias is not None and len(alias.rows) > 1:
        raise ValueError(f"objective {name!r} may mean {', '.join(alias.rows)} ({alias.note}): say which")
    if name not in TABLE:
        raise unknown("objective", name, TABLE)
    row = TABLE[name]
    if alias is not None:
        warnings.warn(f"objective {name!r} is {row.name!r}: {alias.note}", stacklevel=2)
    for option in options:
        if option not in row.options:
            users = [other.name for other in TABLE.values() if option in other.options]
            note = row.refuses.get(option, f"{option} belongs to {_some(users)}" if users else "")
            raise unknown(f"option of {row.name}", option, row.options, f" ({note})" if note else "")
    for why in row.lacks(options).values():
        raise ValueError(why)
    ranks = {} if all_reduce is None else {"all_reduce": all_reduce}
    return row.build(**{**row.defaults, **options}, **ranks)


def _some(users: list[str], most: int = 8) -> str:
    return ", ".join(users[:most]) + (f" and {len(users) - most} more (diffalign objectives lists all)" if len(users) > most else "")


def unknown(what: str, given: str, allowed: Iterable[str], note: str = "") -> ValueError:
    """The error for a name that is not in a table: names it, suggests the nearest, lists what is allowed, of many the first."""
    near = difflib.get_close_matches(given, list(allowed), n=1)
    suggestion = f"; did you mean {near[0]!r}?" if near else "."
    return ValueError(f"unknown {what} {given!r}{note}{suggestion} Allowed: {_some(list(allowed), 30) or 'none'}")
