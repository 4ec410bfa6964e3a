"""The command line: which command, and what is said when it fails. The commands themselves live beside what they do."""

from __future__ import annotations

import difflib
import os
import sys

from diffalign import listings

USAGE = """diffalign: align generative models with preferences

  diffalign demo [--modality text]       align an embedded model and see what it brings (three minutes on a CPU)
  diffalign train [CONFIG.yaml] [--preset NAME] --model MODEL --data DATA [...]
                                         fine-tune a model on preference pairs (a language model: --modality text)
  diffalign check [CONFIG.yaml] [options of train]
                                         try a run before it runs: configuration, data, model, one step, memory and time
  diffalign cache [CONFIG.yaml] [options of train]
                                         only encode the pictures and captions of a run, which diffalign train then finds
  diffalign train-reward --data DATA --model CLIP [...]
                                         a reward of your own from preference pairs, in PickScore's format
  diffalign generate --model MODEL --prompts SET --output-dir DIR [...]
                                         pictures of a list of prompts by a model, an adapter or a training run
  diffalign export RUN --format kohya --output FILE
                                         a run's adapter for diffusers, kohya and A1111, or ComfyUI; or the model with it folded in
  diffalign score IMAGES... --reward ID... [...]
                                         images on disk by published rewards or functions of your own, as a table
  diffalign compare A B [--metrics ...] [...]
                                         two such tables: who wins by each reward, and how sure that is
  diffalign eval --models A B... [--baseline BASE] [--prompts LIST] [--rewards ...] [...]
                                         draw, score, compare and check models: who wins, how sure that is, as a page
  diffalign self-play [--model MODEL --data DATA] [...]
                                         rounds of SPIN-Diffusion or SePPO: the data's pictures against the model's own
  diffalign bench-methods [--modality text]
                                         every method on an embedded model, with the same tuning budget (an hour or more on a CPU)
  diffalign presets                      the named runs
  diffalign methods                      what can be trained today
  diffalign objectives                   every loss: formula, source, what it reads, options, what is not verified
  diffalign doctor                       versions, devices and extras of this installation

diffalign COMMAND --help shows the options of a command."""

ONE_PROCESS = ("demo", "train-reward", "self-play", "bench-methods")  # the others read only, or share what there is to do


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 2 for a mistake in the call, 1 for a run that failed, 130 when interrupted."""
    command, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if command in ("--help", "-h", "help"):
        print(USAGE)
        return 0
    if command == "--version":
        from diffalign import __version__

        print(__version__)
        return 0
    if command in ONE_PROCESS and (started := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        return _fail(f"diffalign {command} runs in one process, and {started} were started: call it without a launcher", 2)
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        return _fail(f"unknown command {command!r}; " + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(COMMANDS)}"), 2)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return _run(COMMANDS[command], rest)


def _run(command, argv: list[str]) -> int:
    """The command's exit code; its errors as one line."""
    from diffalign.train.errors import ConfigError, Elsewhere

    try:
        return command(argv)
    except SystemExit as stop:  # tyro: --help, or a flag it cannot read, of which it has told
        return stop.code
    except BrokenPipeError:  # the reader of our output has gone, as in `diffalign train --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Elsewhere as stop:  # another process of the run says why
        return stop.code
    except KeyboardInterrupt:
        return _fail("interrupted; diffalign train goes on from its last checkpoint when the same command is given again", 130)
    except Exception as error:  # the user sees one line; the traceback on request
        if os.environ.get("DIFFALIGN_TRACEBACK"):
            raise
        if isinstance(error, ConfigError):
            return _fail(str(error), 2)
        known = isinstance(error, ValueError | OSError | RuntimeError | ImportError) and str(error)
        return _fail(f"{error if known else repr(error)}\n(DIFFALIGN_TRACEBACK=1 shows where)", 1)


def _fail(text: str, code: int) -> int:
    print("diffalign: error: " + text.replace("\n", "\n  "), file=sys.stderr)
    return code


def _train(argv: list[str]) -> int:
    from diffalign.train import command

    if command.asked_modality(argv) == "text":
        from diffalign.llm.command import TEXT

        return command.run(argv, TEXT)
    return command.run(argv)


def _demo(argv: list[str]) -> int:
    import tyro

    from diffalign.train.command import asked_modality

    if asked_modality(argv) == "text":
        return _demo_text(argv)
    from diffalign.pipelines.demo import DemoConfig, demo

    config = tyro.cli(DemoConfig, args=argv, prog="diffalign demo")
    summary = demo(config)
    low, high = summary["win_rate_ci"]
    print(
        f"win rate {summary['win_rate']:.3f} [{low:.3f}, {high:.3f}] over {summary['n_prompts']} unseen prompts; "
        f"score {summary['score_base']:.3f} -> {summary['score_aligned']:.3f} of {summary['score_ceiling']:.3f} "
        f"({100 * summary['gap_closed']:.0f} % of the gap), {summary['seconds']:.0f} s"
    )
    if config.reward == "learned":
        labels = summary["labels"]
        print(f"labels by the learned reward: {labels['pairs']} pairs, of which the judge agrees with {100 * labels['judge_agrees']:.0f} %")
    for name, control in summary["controls"].items():
        low, high = control["win_rate_ci"]
        print(f"control, {name}: {control['win_rate']:.3f} [{low:.3f}, {high:.3f}]")
    print(f"{config.output_dir}/report.html  {config.output_dir}/summary.json  {summary['training']['aligned']['result']}")
    return 0


def _demo_text(argv: list[str]) -> int:
    import tyro

    from diffalign.pipelines.demo_text import TextDemoConfig, demo_text

    config = tyro.cli(TextDemoConfig, args=argv, prog="diffalign demo")
    summary = demo_text(config)
    rates = {name: f"{found['rate']:.3f} [{found['ci'][0]:.3f}, {found['ci'][1]:.3f}]" for name, found in summary["success"].items()}
    print(f"right answers to {summary['n_problems']} unseen problems: {rates['base']} -> {rates['aligned']}, {summary['seconds']:.0f} s")
    likeliest = summary["success_greedy"]
    print(f"taking the likeliest tokens: {likeliest['base']['rate']:.3f} -> {likeliest['aligned']['rate']:.3f}")
    for name in summary["controls"]:
        print(f"control, {name}: {rates[name]}")
    print(f"{config.output_dir}/report.md  {config.output_dir}/summary.json  {summary['training']['aligned']['result']}")
    return 0


def _check(argv: list[str]) -> int:
    from diffalign.pipelines import check

    return check.run(argv)


def _cache(argv: list[str]) -> int:
    from diffalign.pipelines import check

    return check.run_cache(argv)


def _train_reward(argv: list[str]) -> int:
    from diffalign.train import reward

    return reward.run(argv)


def _generate(argv: list[str]) -> int:
    from diffalign.eval import generate_command

    return generate_command.run(argv)


def _export(argv: list[str]) -> int:
    from diffalign.train import export_command

    return export_command.run(argv)


def _score(argv: list[str]) -> int:
    from diffalign.rewards import command

    try:
        return command.run(argv)
    except command.CallError as error:
        return _fail(str(error), 2)


def _eval(argv: list[str]) -> int:
    from diffalign.eval import eval_command

    return eval_command.run(argv)


def _compare(argv: list[str]) -> int:
    from diffalign.eval import compare_command

    return compare_command.run(argv)


def _plain(show):
    """A command without options, which still knows --help and refuses what it does not know."""

    def command(argv: list[str]) -> int:
        import tyro

        tyro.cli(show, args=argv, prog=f"diffalign {show.__name__}")
        return 0

    return command


def _bench_methods(argv: list[str]) -> int:
    import tyro

    from diffalign.train.command import asked_modality

    if asked_modality(argv) == "text":
        from diffalign.pipelines.bench_text import TextBenchConfig as Config
        from diffalign.pipelines.bench_text import bench_text as bench
    else:
        from diffalign.pipelines.bench_methods import BenchConfig as Config
        from diffalign.pipelines.bench_methods import bench_methods as bench
    config = tyro.cli(Config, args=argv, prog="diffalign bench-methods")
    bench(config)
    print(f"{config.output_dir}/methods.md  {config.output_dir}/methods.html  {config.output_dir}/methods.json")
    return 0


def _self_play(argv: list[str]) -> int:
    import tyro

    from diffalign.pipelines.selfplay import self_play
    from diffalign.pipelines.selfplay_config import SelfPlayConfig, default_for

    config = tyro.cli(SelfPlayConfig, args=argv, default=default_for(argv), prog="diffalign self-play")
    summary = self_play(config)
    for row in summary["judged"]:
        low, high = row["win_rate_ci"]
        print(f"round {row['round']}: win rate {row['win_rate']:.3f} [{low:.3f}, {high:.3f}] over {row['n_prompts']} unseen prompts; "
              f"score {row['mean_b']:.3f} -> {row['mean_a']:.3f}")  # fmt: skip
    print(f"{summary['result']}  {config.output_dir}/self_play.json  ({summary['seconds']:.0f} s)")
    return 0


COMMANDS = {
    "demo": _demo,
    "train": _train,
    "check": _check,
    "cache": _cache,
    "train-reward": _train_reward,
    "generate": _generate,
    "export": _export,
    "score": _score,
    "compare": _compare,
    "eval": _eval,
    "self-play": _self_play,
    "bench-methods": _bench_methods,
    "presets": _plain(listings.presets),
    "methods": _plain(listings.methods),
    "objectives": _plain(listings.objectives),
    "doctor": _plain(listings.doctor),
}
