"""Prompts as the files of benchmarks and users hold them: lines, tables and lists, each prompt with an id that stays.

Text is taken without the white space around it; lists without ids of their own are numbered by their rows, from 00000.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffalign.rewards.manifests_tables import NAMES, rows

SUFFIXES = (".txt", ".tsv", ".csv", ".json", ".jsonl", ".parquet")
COLUMNS = {"id": (*NAMES["prompt_id"], "item_id"), "text": NAMES["prompt"], "category": ("category", "tag", "style")}  # in any case
HPDV2_STYLES = ("anime", "concept-art", "paintings", "photo")


@dataclass(frozen=True)
class Prompt:
    """One prompt of a list.

    facts: what the list says of it beside its category (GenEval's objects and counts, PartiPrompts' challenge, ...), as JSON holds it.
    occurrence: how many prompts before it in the whole list have the same text. It makes their pictures differ (``generate_set.seed_for``).
    """

    id: str
    text: str
    category: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    occurrence: int = 0


def lines(path: Path, category: str = "") -> list[Prompt]:
    """One prompt a line; empty lines are passed over and still count, so that ids are line numbers. ``category`` stands before the ids."""
    texts = path.read_text(encoding="utf-8-sig").splitlines()
    prefix = f"{category}-" if category else ""
    return [Prompt(f"{prefix}{i:05d}", text.strip(), category) for i, text in enumerate(texts) if text.strip()]


def table(path: Path, category: str = "") -> list[Prompt]:
    """Rows of a .tsv (without quoting, as PartiPrompts'), .csv, .json, .jsonl or .parquet file, or a .json list of texts.

    Columns are known by the names in ``COLUMNS``; what else a row holds goes into ``facts``. ValueError, which names the place, where there
    is no column of prompts, a prompt is empty or an id comes twice.
    """
    if path.suffix.lower() == ".json" and (texts := _texts(path)) is not None:
        return [Prompt(f"{i:05d}", text.strip(), category) for i, text in enumerate(texts)]
    found: dict[str, Prompt] = {}
    for i, (where, row) in enumerate(_tsv(path) if path.suffix.lower() == ".tsv" else rows(path)):
        names = {ours: next((name for name in row if name.lower() in known), None) for ours, known in COLUMNS.items()}
        if names["text"] is None:
            raise ValueError(f"{where}: columns found are {', '.join(row)}; needed is one of {', '.join(COLUMNS['text'])}")
        text = str(row[names["text"]] or "").strip()
        key = f"{i:05d}" if names["id"] is None else str(row[names["id"]]).strip()
        if not text or not key:
            raise ValueError(f"{where}: the {'id' if text else 'prompt'} is empty")
        if key in found:
            raise ValueError(f"{where}: a second prompt with the id {key!r}")
        facts = {name: value for name, value in row.items() if name not in names.values() and value not in ("", None, {}, [])}
        found[key] = Prompt(key, text, str(row[names["category"]] or "") if names["category"] else category, facts)
    return list(found.values())


def hpdv2(path: Path, category: str = "") -> list[Prompt]:
    """3200 rows in the order of the four styles, or the benchmark's own folder of anime.json, concept-art.json, paintings.json, photo.json.

    The one file (AIDC-AI/Diffusion-SDPO's) has no styles: that its order is the benchmark's is presumed, not verified.
    """
    if path.is_dir():
        by_style = {style: table(path / f"{style}.json") for style in HPDV2_STYLES if (path / f"{style}.json").is_file()}
        if not by_style:
            raise ValueError(f"{path}: a folder of HPDv2's prompts holds {', '.join(f'{style}.json' for style in HPDV2_STYLES)}")
    else:
        prompts = table(path)
        if len(prompts) % len(HPDV2_STYLES):
            raise ValueError(f"{path}: {len(prompts)} prompts are no four styles of equal size: pass the list as --prompts FILE")
        size = len(prompts) // len(HPDV2_STYLES)
        by_style = {style: prompts[n * size : (n + 1) * size] for n, style in enumerate(HPDV2_STYLES)}
    return [Prompt(f"{style}-{i:05d}", p.text, style) for style, prompts in by_style.items() for i, p in enumerate(prompts)]


def dpg(path: Path, category: str = "") -> list[Prompt]:
    """DPG-Bench: its csv with a row a question (columns item_id and text), or its folder of ``{item_id}.txt``.

    Upstream draws from the folder and asks from the csv; their texts are said to differ in punctuation for a few prompts (not verified).
    """
    if path.is_dir():
        texts = {file.stem: file.read_text(encoding="utf-8-sig").strip() for file in sorted(path.glob("*.txt"))}
    else:
        texts = {}
        for where, row in rows(path):
            if "item_id" not in row or "text" not in row:
                raise ValueError(f"{where}: columns found are {', '.join(row)}; DPG-Bench's csv has item_id and text")
            texts.setdefault(row["item_id"].strip(), row["text"].strip())
    return [Prompt(key, text) for key, text in texts.items()]


def unigenbench(path: Path, category: str = "") -> list[Prompt]:
    """UniGenBench's csv: index, prompt_en, and in sub_dims_en a JSON object whose primary category is the prompt's."""
    found = []
    for prompt in table(path):
        facts = json.loads(prompt.facts.get("sub_dims_en", "{}"))
        found.append(Prompt(prompt.id, prompt.text, facts.get("Primary Categories", ""), facts))
    return found


READERS = {"lines": lines, "table": table, "hpdv2": hpdv2, "dpg": dpg, "unigenbench": unigenbench}


def read_file(path: Path) -> list[Prompt]:
    """The prompts of a user's file. ValueError for one that is none."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"prompts: {path} is none of {', '.join(SUFFIXES)}")
    return lines(path) if path.suffix.lower() == ".txt" else table(path)


def with_occurrences(prompts: Iterable[Prompt]) -> tuple[Prompt, ...]:
    """The same prompts, each with the number of those before it that have its text."""
    seen: dict[str, int] = {}
    found = []
    for p in prompts:
        found.append(Prompt(p.id, p.text, p.category, p.facts, seen.get(p.text, 0)))
        seen[p.text] = found[-1].occurrence + 1
    return tuple(found)


def _tsv(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        for number, row in enumerate(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE), 1):
            if None in row or None in row.values():
                raise ValueError(f"{path}: row {number} has more or fewer fields than the header")
            yield f"{path}: row {number}", row


def _texts(path: Path) -> list[str] | None:
    """The content of a .json file that is a list of texts, else None."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    return found if isinstance(found, list) and found and all(isinstance(text, str) for text in found) else None
