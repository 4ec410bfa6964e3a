"""The command around ``evaluate``: presets, files, and what is printed."""

from __future__ import annotations

import shlex
from pathlib import Path

import tyro

from diffalign.eval import presets
from diffalign.eval.eval_config import EvalConfig
from diffalign.eval.evaluate import evaluate
from diffalign.eval.evaluation import Evaluation
from diffalign.eval.pages.page import write_page
from diffalign.eval.verdict import p_text
from diffalign.train.errors import ConfigError

LIST = "--list-presets"


def run(argv: list[str]) -> int:
    """The whole command; the exit code: 0.

    Raises:
        ConfigError: a mistake in the call, or models that cannot be compared. OSError: weights or prompts that are missing.
    """
    if LIST in argv:
        print("\n".join(map(str, presets.PROTOCOLS.values())))
        return 0
    try:
        protocol = _protocol(argv)
        config = tyro.cli(EvalConfig, args=argv, default=_defaults(protocol), prog="diffalign eval")
        command = shlex.join(["diffalign", "eval", *argv])
        evaluation = evaluate(config, command=command)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    folder = Path(config.output_dir)
    evaluation.write(folder / "evaluation.json")
    write_page(folder / "report.html", evaluation, root=folder)
    print(summary(evaluation))
    for quirk in protocol.quirks if protocol else ():
        print(f"note: {protocol.name}: {quirk}")
    print(f"{folder / 'report.html'}  {folder / 'evaluation.json'}")
    return 0


def summary(evaluation: Evaluation) -> str:
    """What the terminal shows: the table, the checks that are flagged, the verdict."""
    lines = []
    for row in evaluation.comparisons:
        low, high = row.interval
        lines.append(
            f"{row.model} by {row.reward}: win rate {row.win_rate:.3f} [{low:.3f}, {high:.3f}] over {row.prompts} prompts "
            f"({row.wins}/{row.ties}/{row.losses}), {p_text(row.p_adjusted)} (sign test, Holm); mean {row.baseline_mean:.4g} -> "
            f"{row.mean:.4g}, median {row.baseline_median:.4g} -> {row.median:.4g}"
        )
    lines += [f"warning: {warning}" for warning in evaluation.warnings]
    lines += [f"flagged: {model}: {item['name']}: {item['note']}" for model, item in evaluation.flagged()]
    return "\n".join([*lines, *evaluation.verdict()])


def _protocol(argv: list[str]) -> presets.Protocol | None:
    """The preset that the call names, read before the rest since it gives the rest's defaults."""
    for place, word in enumerate(argv):
        flag, equals, value = word.partition("=")
        if flag == "--preset":
            name = value if equals else (argv[place + 1] if place + 1 < len(argv) else "")
            return presets.get(name)
    return None


def _defaults(protocol: presets.Protocol | None) -> EvalConfig:
    values = {} if protocol is None else {key: list(value) if isinstance(value, tuple) else value for key, value in protocol.values.items()}
    return EvalConfig(**{"models": tyro.MISSING, **values})
