r"""The table for readers: rows as plain facts, and docs/objectives.md, which is made of them by python -m diffalign.objectives.facts."""

from typing import Any

from diffalign.objectives.aliases import ALIASES
from diffalign.objectives.extras import EXTRAS
from diffalign.objectives.row import Row
from diffalign.objectives.table import TABLE

HEAD = """# Objectives

Made from the table in `diffalign/objectives` by `python -m diffalign.objectives.facts`; a test keeps it equal to the table, which
`diffalign objectives` prints.

    objective = objectives.get("dpo", beta=0.1)         # one of the names below
    terms = objective(evidence, labels)                 # evidence of a language model or of a denoiser; labels as the heading says
    loss = objectives.reduce(terms, denominator)        # the units of the whole step, over all ranks

Notation: `policy` and `reference` are sums over response tokens in nats (text) or -1/2 of a mean squared error (denoising), `size` is the
number of tokens (1 for an error). Where a row gives no `r` it is `policy - reference`. `z = beta scale (r_w - r_l) - margin`, with `p`,
`scale` and `margin` of the labels; `a`, `b` are the log-ratios of the two sides, `lp` and `rf` log-probabilities of policy and reference,
`m = policy/size`, `lr_t` a token's log-ratio, `x = beta r` of one side, `l = -2 policy` a denoising error; `sg[]` stops the gradient.

An option without a value has no default: evidence has no common scale. Where a row *couples*, the loss of a unit depends on the other units
of the call: over all ranks ("ranks", by `all_reduce`), or of one call of one rank ("call"). Labels that a row does not read are refused.

What is not here: GRPO and other policy gradients; what a paper does to data, sampling, references or the optimiser (aliases say which).
"""

KNOBS = {"loser_weight": 1.0, "sft_weight": 0.0, "anchor_weight": 0.0, "adaptive_beta": 0.0}  # and where they do nothing
SECTIONS = {
    "pairs": "## Pairs (`Comparison`)",
    "labels": "## Single samples, liked or not (`Labels`)",
    "rankings": "## Lists (`Rankings`)",
    "scores": "## Samples with a number (`Scores`)",
}


def facts(row: Row) -> dict[str, Any]:
    """A row as plain data: strings, numbers and lists."""
    return {
        "name": row.name,
        "title": row.title,
        "formula": row.formula,
        "source": row.paper,
        "unverified": row.unverified,
        "takes": row.takes,
        "needs": sorted(row.needs),
        "couples": row.couples,
        "options": {name: {"unit": what.unit, "published": what.published, "default": what.default} for name, what in row.options.items()},
        "aliases": [name for name, alias in ALIASES.items() if alias.rows == (row.name,)],
    }


def line(row: Row) -> str:
    """What the command line prints of a row."""
    options = ", ".join(name if what.default is None else f"{name} = {what.default:g}" for name, what in row.options.items()) or "none"
    needs = ", ".join(sorted(row.needs)) or "the policy's evidence only"
    text = f"{row.name}: {row.formula}\n  {row.title}; {row.paper}\n  takes {row.takes}; needs {needs}; options {options}"
    return text + (f"\n  not verified: {row.unverified}" if row.unverified else "")


def markdown() -> str:
    """docs/objectives.md."""
    parts = [HEAD]
    for takes, heading in SECTIONS.items():
        parts.append(f"\n{heading}\n\n| name | loss | source | needs | options | not verified |\n|---|---|---|---|---|---|\n")
        parts += [_row(row) for row in TABLE.values() if row.takes == takes]
    parts.append("\n## Other names\n\n| name | is | |\n|---|---|---|\n")
    parts += [f"| `{name}` | {', '.join(f'`{row}`' for row in alias.rows)} | {_cell(alias.note)} |\n" for name, alias in ALIASES.items()]
    parts.append("\nA name of several rows is refused, and says which there are.\n")
    parts.append("\n## What a step measures: `Evidence.extra`\n\n")
    parts.append("| name | shape | unit | what | gradient | at the start |\n|---|---|---|---|---|---|\n")
    for name, extra in EXTRAS.items():
        shape = {"sample": "(N,)", "pair": "(P,)"}[extra.each]
        gradient, start = "yes" if extra.gradient else "no", "0" if extra.starts_at_zero else "the model's"
        parts.append(f"| `{name}` | {shape} | {extra.unit} | {_cell(extra.what)} | {gradient} | {start} |\n")
    return "".join(parts)


def _row(row: Row) -> str:
    knobs = [name for name in KNOBS if name in row.options and row.options[name].default == KNOBS[name]]
    own = [name if what.default is None else f"{name} {what.default:g}" for name, what in row.options.items() if name not in knobs]
    options = ", ".join(own) + (f"; knobs {', '.join(knobs)}" if knobs else "")
    needs = ", ".join(need.removeprefix("extra:") for need in sorted(row.needs, key=lambda need: (need.startswith("extra:"), need))) or "-"
    needs += f"; couples {row.couples}" if row.couples else ""
    cells = (f"`{row.name}`", f"{row.title}<br>`{row.formula}`", row.paper, needs, options.removeprefix("; "), row.unverified or "")
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    from pathlib import Path

    Path(__file__).resolve().parents[2].joinpath("docs/objectives.md").write_text(markdown(), encoding="utf-8")
