"""``diffalign score``: images on disk, prompts and rewards in; a table of scores out."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from diffalign.rewards import Reward, load_reward
from diffalign.rewards import score_output as output
from diffalign.rewards.manifests import collect
from diffalign.rewards.manifests_items import Item
from diffalign.rewards.score import WORKERS, Scores, score_items
from diffalign.rewards.score_cache import ScoreCache, default_folder

Layout = Literal["auto", "folder", "sidecar", "imagefolder", "geneval", "hpsv2", "unigenbench", "imagereward"]
SLOWEST_SHARD = timedelta(days=2)  # how long processes that are done wait for the others
ROUNDING = 1e-5  # of a score: the same sample may differ by it from one place in a batch to another


class CallError(ValueError):
    """A mistake in the call: exit code 2."""


@dataclass(frozen=True)
class ScoreCommand:
    """Score images with one or several rewards.

    A run that was stopped goes on where it was when the same command is given again: scores are kept by content.
    """

    sources: tyro.conf.Positional[list[str]]
    """Images, folders, globs, or tables (.jsonl, .json, .csv, .parquet) with columns image and prompt. Write them before the options."""
    reward: list[str]
    """Ids such as pickscore hpsv2.1, or functions of your own as module:attr."""
    prompt: str | None = None
    """The prompt of all images that bring none."""
    prompts: str | None = None
    """A file of prompts: .txt with one a line in the images' order, or a table with ids; of a benchmark, its own (hpsv2: the folder)."""
    layout: Layout = "auto"
    """How folders are laid out (rewards/manifests_layouts.py); auto knows plain folders, .txt beside images, image folders and GenEval."""
    columns: dict[str, str] = field(default_factory=dict)
    """Our column name, then the table's, such as image picture prompt said."""
    weights: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """ID=PATH: a local copy of a reward's weights. May be given again for another."""
    options: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """ID/NAME=VALUE: an option of a reward, such as hpsv2.1/scale=100. May be given again for another."""
    output: str | None = None
    """A .csv, .jsonl or .parquet file; facts of the run go beside it as .json. Default: csv to the screen."""
    wide: bool = False
    """One row an image with a column a reward, instead of one row an image and reward."""
    summary: bool = False
    """Print mean, median, count and NaNs of every reward."""
    strict: bool = False
    """Stop at the first image that cannot be scored (exit code 1), instead of writing its row with an error."""
    batch_size: int | None = None
    """Images a forward pass; default: each reward's own."""
    num_workers: int = WORKERS
    """Threads that decode and prepare images."""
    device: str = "auto"
    """auto takes the GPU where there is one; else as torch names it, such as cpu or cuda:1."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the networks; scores are float32 always."""
    shard: str | None = None
    """i/N: only every N-th image, from the i-th on, 0 to N - 1. Under accelerate launch the processes share the images by themselves."""
    cache: str | None = None
    """Folder where scores are kept, or off: then a run that is stopped starts over. Default: ~/.cache/diffalign."""


def run(argv: list[str]) -> int:
    """The whole command; the exit code: 0, or 1 where some reward could score nothing.

    Raises:
        CallError: a mistake in the call. BadSample: ``strict`` and a sample that cannot be scored. OSError, ImportError: weights or
            packages that are missing.
    """
    command = tyro.cli(ScoreCommand, args=argv, prog="diffalign score")
    try:
        _check(command)
        weights, options = _by_reward(command.weights, command), _options(command)
        group = _Group() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else None
        device = _device(command.device, group)
        loaded = {
            name: load_reward(name, weights.get(name), device=device, dtype=getattr(torch, command.dtype), **options.get(name, {}))
            for name in command.reward
        }
        modality = next(iter(loaded.values())).modality
        items = collect(
            command.sources, prompt=command.prompt, prompts=command.prompts, layout=command.layout, columns=command.columns,
            modality=modality,
        )  # fmt: skip
        _check_prompts(items, loaded)
    except ValueError as error:
        raise CallError(str(error)) from error
    if command.shard:
        index, count = parse_shard(command.shard)
        items = items[index::count]
    mine = items if group is None else items[group.rank :: group.size]
    cache = None if command.cache == "off" else ScoreCache(command.cache or default_folder())
    started = time.time()
    try:
        found = score_items(
            mine, loaded, cache=cache, batch_size=command.batch_size, workers=command.num_workers, strict=command.strict,
            quiet=None if group is None or group.rank == 0 else True,
        )  # fmt: skip
    finally:
        if cache is not None:
            cache.close()
    if group is not None:
        found = group.gathered(found, len(items))
        if found is None:
            return 0
    return _report(command, loaded, items, found, time.time() - started)


def _report(command: ScoreCommand, rewards: Mapping[str, Reward], items: list[Item], found: Scores, seconds: float) -> int:
    columns, rows = output.table(items, found, command.wide)
    facts = output.summary(found)
    if command.output is None:
        output.write_text(sys.stdout, columns, rows)
    else:
        path = Path(command.output)
        output.write(path, columns, rows)
        counts = {"samples": len(items), "decoded": found.decoded, "measured": found.measured, "from_cache": found.cached}
        states = {name: reward.state() for name, reward in rewards.items()}
        about = {"rewards": states, "summary": facts, **counts, "seconds": round(seconds, 2), "command": dataclasses.asdict(command)}
        output.write_json(path.with_suffix(".json"), about)
        print(f"{path}  {path.with_suffix('.json')}  ({len(items)} samples, {found.failed()} errors, {seconds:.0f} s)")
    if command.summary:
        output.print_summary(facts)
    for name, row in facts.items():
        finite = [score for score in found.scores[name] if score == score]
        if len(items) > 1 and len(finite) > 1 and max(finite) - min(finite) <= ROUNDING * max(map(abs, finite)):
            print(f"diffalign score: all {len(finite)} scores of {name} are equal ({finite[0]:g}): is it loaded well?", file=sys.stderr)
        if row["errors"] == len(items):
            first = next(error for error in found.errors[name] if error)
            print(f"diffalign score: nothing could be scored by {name}; the first error: {first}", file=sys.stderr)
    return 1 if any(row["errors"] == len(items) for row in facts.values()) else 0


class _Group:
    """The processes of ``accelerate launch``."""

    def __init__(self):
        from accelerate import PartialState

        on_cpu = not torch.cuda.is_available()
        self.state = PartialState(cpu=on_cpu, timeout=SLOWEST_SHARD)
        self.rank, self.size = self.state.process_index, self.state.num_processes

    def gathered(self, found: Scores, count: int) -> Scores | None:
        """All scores in the items' order, on the first process; None on the others."""
        from accelerate.utils import gather_object

        parts = gather_object([found])
        if self.rank:
            return None
        whole = Scores.empty(list(found.scores), count)
        for rank, part in enumerate(parts):
            for name in whole.scores:
                whole.scores[name][rank :: self.size] = part.scores[name]
                whole.errors[name][rank :: self.size] = part.errors[name]
            whole.decoded += part.decoded
            whole.measured += part.measured
            whole.cached += part.cached
        return whole


def _device(asked: str, group: _Group | None) -> torch.device:
    if group is not None:
        return group.state.device
    try:
        return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if asked == "auto" else asked)
    except RuntimeError:
        raise CallError(f"device is {asked!r}; it must be auto, or as torch names one, such as cpu or cuda:1") from None


def _check(command: ScoreCommand) -> None:
    """What is wrong whatever the files hold."""
    if not command.reward or not command.sources:
        raise CallError("name something to score, and a reward to score it with: diffalign score IMAGES... --reward ID...")
    if repeated := sorted({name for name in command.reward if command.reward.count(name) > 1}):
        raise CallError(f"reward {', '.join(repeated)} is asked for twice")
    if command.output is not None and Path(command.output).suffix not in output.FORMATS:
        raise CallError(f"output is {command.output!r}; allowed are files that end in {', '.join(output.FORMATS)}")
    for name in ("batch_size", "num_workers"):
        if (value := vars(command)[name]) is not None and value < 1:
            raise CallError(f"{name} is {value}; it must be at least 1")
    if command.shard:
        parse_shard(command.shard)


def parse_shard(text: str) -> tuple[int, int]:
    """"1/4" -> (1, 4)."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise CallError(f"shard is {text!r}; it must be i/N with i from 0 to N - 1, such as 0/4")
    return int(index), int(count)


def _by_reward(given: list[str], command: ScoreCommand) -> dict[str, str]:
    """ID=PATH, for rewards that are asked for."""
    found = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or name not in command.reward:
            raise CallError(f"weights is {text!r}; it must be ID=PATH, with an ID that is asked for: {', '.join(command.reward)}")
        found[name] = path
    return found


def _options(command: ScoreCommand) -> dict[str, dict[str, Any]]:
    """ID/NAME=VALUE; a value is read as JSON where it is some, else it is text."""
    found: dict[str, dict[str, Any]] = {}
    for text in command.options:
        place, equals, value = text.partition("=")
        name, slash, option = place.rpartition("/")
        if not (equals and slash) or name not in command.reward:
            raise CallError(f"options is {text!r}; it must be ID/NAME=VALUE, with an ID that is asked for: {', '.join(command.reward)}")
        try:
            found.setdefault(name, {})[option] = json.loads(value)
        except json.JSONDecodeError:
            found.setdefault(name, {})[option] = value
    return found


def _check_prompts(items: list[Item], rewards: Mapping[str, Reward]) -> None:
    readers = [name for name, reward in rewards.items() if reward.needs_prompt]
    if readers and all(not item.prompt and not item.error for item in items):
        raise CallError(
            f"{', '.join(readers)} judges images against prompts and none has one: give --prompt, --prompts, a table with a column "
            "prompt, or name.txt beside name.png"
        )
