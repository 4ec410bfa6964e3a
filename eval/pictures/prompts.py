"""Lists of prompts to evaluate on: published ones by name, a small one of our own, the embedded world's, and files of yours.

    load_prompts("parti")                       from its source, or a local copy; sha256 checked, licence said
    load_prompts("hpdv2", count=400, seed=0)    400 of them, always the same for a seed
    load_prompts("my_prompts.csv")              .txt with one a line; tables with the columns prompt and perhaps id and category
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib.resources
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffalign.eval.pictures.prompts_read import READERS, SUFFIXES, Prompt, read_file, with_occurrences
from diffalign.eval.pictures.prompts_sources import ALIASES, GROUPS, SOURCES, obtain
from diffalign.rewards.base import sha256

__all__ = ["Prompt", "PromptSet", "load_prompts", "names"]

OWN, SHAPES = "diffalign", "builtin:shapes"
SHAPES_COUNT, MOST_SHAPES = 400, 800  # what the demo reports on; near the whole test split


@dataclass(frozen=True)
class PromptSet:
    """``about``: where the prompts come from: source, licence, sha256, verified, note, total (prompts in the list), count and seed."""

    name: str
    prompts: tuple[Prompt, ...]
    about: dict[str, Any]

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def texts(self) -> list[str]:
        return [prompt.text for prompt in self.prompts]

    @property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of ids and texts, in order."""
        return hashlib.sha256(json.dumps([(p.id, p.text) for p in self.prompts]).encode()).hexdigest()[:16]


def names() -> list[str]:
    """What ``load_prompts`` knows by name."""
    return [OWN, SHAPES, *GROUPS, *SOURCES]


def load_prompts(
    name: str | Path, count: int | None = None, seed: int = 0, file: str | Path | None = None, *, cache: Path | None = None,
    quiet: bool = False,
) -> PromptSet:
    """The prompts of a list.

    Args:
        name: one of ``names()``, or a file.
        count: this many of them, those whose sha256 of "seed/id" is smallest, in the list's order: a larger count of the same seed holds a
            smaller one. Of builtin:shapes (400 unless told) the first of the test split's, shuffled by ``seed``, as in ``diffalign demo``.
        file: a local copy of a named list's file. One that is not the published file is taken, and ``about["verified"]`` is False.
        cache: folder of downloads in place of ours.

    Prompts of equal text keep ids of their own, and ``Prompt.occurrence`` tells them apart.

    Raises:
        ValueError: an unknown name, a file that is no list of prompts, a hash that does not fit, a count that the list does not have.
        OSError: the list is not here and could not be fetched; says which file is wanted and how to pass a copy.
    """
    if count is not None and count < 1:
        raise ValueError(f"count is {count}; it must be at least 1")
    name = ALIASES.get(str(name), str(name))
    if file is not None and name not in SOURCES:
        one = " (each of its parts is)" if name in GROUPS else ""
        raise ValueError(f"prompts '{name}' are not read from one published file{one}, so no copy can stand in: pass --prompts FILE")
    if name == SHAPES:
        return _shapes(count, seed)
    prompts, about = _whole(name, file, cache, quiet)
    total = len(prompts)
    if count is not None and count > total:
        raise ValueError(f"count is {count}; '{name}' has {total} prompts")
    chosen = prompts
    if count is not None:
        keep = sorted(range(total), key=lambda i: hashlib.sha256(f"{seed}/{prompts[i].id}".encode()).digest())[:count]
        chosen = tuple(prompts[i] for i in sorted(keep))
    return PromptSet(name, chosen, {**about, "total": total, "count": len(chosen), "seed": None if count is None else seed})


def _whole(name: str, file: str | Path | None, cache: Path | None, quiet: bool) -> tuple[tuple[Prompt, ...], dict[str, Any]]:
    if name in SOURCES:
        return _published(name, file, cache, quiet)
    if name in GROUPS:
        parts = [_published(part, None, cache, quiet) for part in GROUPS[name]]
        about = {key: parts[0][1][key] for key in ("licence", "note")}
        about |= {"source": [part["source"] for _, part in parts], "sha256": [part["sha256"] for _, part in parts]}
        about["verified"] = all(part["verified"] for _, part in parts)
        return with_occurrences(prompt for prompts, _ in parts for prompt in prompts), about
    path = Path(name).expanduser()
    if name == OWN:
        path = Path(str(importlib.resources.files("diffalign.eval.pictures"))) / "data" / "prompts.jsonl"
    elif not path.is_file():
        near = difflib.get_close_matches(name, [*names(), *ALIASES], n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(names())}"
        where = "there is no such file, and " if path.suffix.lower() in SUFFIXES else ""
        raise ValueError(f"prompts '{name}': {where}no list has this name; {hint}")
    about = {"source": OWN if name == OWN else path.name, "licence": "Apache-2.0" if name == OWN else "", "sha256": sha256(path)}
    return with_occurrences(read_file(path)), {**about, "verified": name == OWN, "note": ""}


def _published(name: str, file: str | Path | None, cache: Path | None, quiet: bool) -> tuple[tuple[Prompt, ...], dict[str, Any]]:
    source = SOURCES[name]
    path = obtain(name, source, cache, quiet) if file is None else Path(file).expanduser()
    if not path.exists():
        raise ValueError(f"prompts-file: {path} does not exist; wanted is {source.where} ({source.url})")
    digest = sha256(path) if path.is_file() else None
    prompts = with_occurrences(READERS[source.reader](path, source.category))
    notes = [source.note] if source.note else []
    if len(prompts) != source.count:
        if file is None:
            raise ValueError(f"{path} holds {len(prompts)} prompts, {source.title} has {source.count}: delete it, and it is fetched again")
        notes.append(f"{path.name} holds {len(prompts)} prompts, the published list {source.count}")
    about = {"source": source.where, "licence": source.licence, "sha256": digest}
    return prompts, {**about, "verified": digest is not None and digest == source.sha256, "note": "; ".join(notes)}


def _shapes(count: int | None, seed: int) -> PromptSet:
    """Unseen scenes of ``worlds.shapes``. Ids are the captions' words, so that they stay whatever count and seed."""
    from diffalign.worlds.shapes import scenes

    count = SHAPES_COUNT if count is None else count
    if count > MOST_SHAPES:
        raise ValueError(f"count is {count}; {SHAPES} gives at most {MOST_SHAPES} unseen prompts")
    found = []
    for text in scenes.prompts("test", count, seed=seed):
        scene = scenes.parse(text)
        key = "-".join(word for word in text.split() if word not in ("a", "background"))
        found.append(Prompt(key, text, scene.relation, dataclasses.asdict(scene)))
    about = {"source": "diffalign.worlds.shapes.scenes, test split", "licence": "Apache-2.0", "sha256": None, "verified": True, "note": ""}
    return PromptSet(SHAPES, tuple(found), {**about, "total": MOST_SHAPES, "count": count, "seed": seed})
