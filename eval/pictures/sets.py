"""Folders of pictures that were drawn for prompts: what is in them, which of two folders belong together, and which are all black."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

METADATA, RECORD = "metadata.jsonl", "generation.json"  # what lies beside the pictures
SHOWN = 5  # ids that an error lists


@dataclass(frozen=True)
class Drawn:
    """One picture.

    index: its number among the prompt's pictures. seed: of the generator its starting noise is from; None where the folder does not say.
    all_black: whether every pixel is 0; None where nobody has looked.
    """

    prompt_id: str
    prompt: str
    category: str
    index: int
    seed: int | None
    path: Path
    all_black: bool | None = None


@dataclass(frozen=True)
class ImageSet:
    """The pictures of one model. ``settings``: the content of ``generation.json``, {} where there is none."""

    model: str
    folder: Path
    items: tuple[Drawn, ...]
    settings: dict[str, Any]

    def __len__(self) -> int:
        return len(self.items)

    @classmethod
    def read(cls, folder: str | Path) -> ImageSet:
        """The pictures of a folder: one that ``diffalign generate`` wrote, or any that ``diffalign score`` knows without options.

        Of the latter a picture's number is its place among the prompt's, and its seed is not known, whatever the folder calls so.
        Raises ValueError for a folder that is none, has no pictures, lacks one that its table names, or does not tell a prompt.
        """
        folder = Path(folder).expanduser()
        if not folder.is_dir():
            raise ValueError(f"{folder}: there is no such folder of pictures; diffalign generate --output-dir {folder} draws one")
        record = folder / RECORD
        settings = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
        if settings and not (folder / METADATA).is_file():
            raise ValueError(f"{folder}: {METADATA} is missing: give the command that drew it again, which finishes it")
        items = tuple(_ours(folder) if settings else _found(folder))
        if missing := [item.path for item in items if not item.path.is_file()]:
            raise ValueError(f"{folder}: {len(missing)} of {len(items)} pictures are missing: {_some(missing)}")
        return cls(settings.get("model", folder.name), folder, items, settings)

    @property
    def prompts(self) -> list[str]:
        return [item.prompt for item in self.items]

    @property
    def paths(self) -> list[Path]:
        return [item.path for item in self.items]

    @property
    def groups(self) -> list[str]:
        """The prompt's id of each picture: the clusters of a bootstrap."""
        return [item.prompt_id for item in self.items]

    def black(self) -> tuple[Drawn, ...]:
        """The pictures of which every pixel is 0, as a safety checker leaves them, or a VAE that overflowed."""
        return tuple(item for item in self.items if (is_black(item.path) if item.all_black is None else item.all_black))


@dataclass(frozen=True)
class Pairing:
    """Pictures of two sets that belong together: scores_a[a] and scores_b[b] are aligned.

    a, b: (M,) int64 rows of the two sets, in the order of the first. groups, categories: of the M pairs, prompt ids and categories.
    """

    a: np.ndarray
    b: np.ndarray
    groups: tuple[str, ...]
    categories: tuple[str, ...]


def paired(a: ImageSet, b: ImageSet, *, same_seeds: bool = True) -> Pairing:
    """Which pictures of two sets belong together: those of one (prompt id, index), never of one prompt text, which lists repeat.

    Args:
        same_seeds: refuse pictures that started from different noise too (``False`` for sets that were drawn elsewhere).

    Raises ValueError, which shows the difference, where an id is in one set only, or differs in number of pictures, prompt or seed.
    """
    rows_a, rows_b = _rows(a), _rows(b)
    problems = []
    ids_a, ids_b = (Counter(prompt_id for prompt_id, _ in rows) for rows in (rows_a, rows_b))
    for here, there, one, other in ((ids_a, ids_b, a, b), (ids_b, ids_a, b, a)):
        if lacking := [key for key in here if key not in there]:
            problems.append(f"{len(lacking)} of {len(here)} prompts of {one.folder} are not in {other.folder}: {_some(lacking)}")
    if uneven := [f"{key} ({ids_a[key]} and {ids_b[key]})" for key in ids_a if key in ids_b and ids_a[key] != ids_b[key]]:
        problems.append(f"{len(uneven)} prompts have another number of pictures in each: {_some(uneven)}")
    common = [(rows_a[key], rows_b[key]) for key in rows_a if key in rows_b]
    if ids_a == ids_b and len(common) < len(rows_a):
        problems.append(f"{len(rows_a) - len(common)} pictures have another index in each: {_some(_named(rows_a.keys() - rows_b.keys()))}")
    both = [(a.items[i], b.items[j]) for i, j in common]
    if other := [f"{x.prompt_id}: {x.prompt!r} and {y.prompt!r}" for x, y in both if x.prompt != y.prompt]:
        problems.append(f"{len(other)} prompts of one id differ: {_some(other)}")
    if same_seeds and (other := [f"{x.prompt_id}/{x.index}: {x.seed} and {y.seed}" for x, y in both if x.seed != y.seed]):
        problems.append(f"{len(other)} of {len(both)} pictures started from other noise (seeds): {_some(other)}")
    if problems:
        raise ValueError(f"{a.folder} and {b.folder} do not belong together: " + "; ".join(problems))
    rows = np.array(common, dtype=np.int64).reshape(-1, 2)
    return Pairing(rows[:, 0], rows[:, 1], tuple(x.prompt_id for x, _ in both), tuple(x.category for x, _ in both))


def black_report(sets: Iterable[ImageSet]) -> list[str]:
    """A sentence for each set that holds all-black pictures: they are no work of the model, and pull its scores down."""
    found = []
    for drawn in sets:
        if black := drawn.black():
            which = _some([f"{item.prompt_id}/{item.index}" for item in black])
            found.append(f"{drawn.model}: {len(black)} of {len(drawn)} pictures are all black (a safety checker, or an overflow): {which}")
    return found


def is_black(path: Path) -> bool:
    """Whether every pixel of a picture is 0."""
    with Image.open(path) as image:
        return image.convert("RGB").getextrema() == ((0, 0),) * 3


def _ours(folder: Path) -> Iterable[Drawn]:
    for line in (folder / METADATA).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        place = folder / row["file_name"]
        yield Drawn(row["prompt_id"], row["prompt"], row["category"], row["index"], row["seed"], place, row["all_black"])


def _found(folder: Path) -> Iterable[Drawn]:
    from diffalign.rewards.manifests import collect

    counted: Counter[str] = Counter()
    for item in collect([folder]):
        if item.error or not item.prompt:
            raise ValueError(f"{folder}: {item.error or f'{item.image} has no prompt'}; diffalign score takes prompts from elsewhere")
        key = item.prompt_id or _key(item.prompt)
        yield Drawn(key, item.prompt, "", counted[key], None, item.sample.path)
        counted[key] += 1


def _key(prompt: str) -> str:
    """An id for a prompt that has none: its words."""
    return re.sub(r"[^\w]+", "-", prompt.lower()).strip("-")


def _rows(drawn: ImageSet) -> dict[tuple[str, int], int]:
    """(prompt id, index) -> row of the set."""
    rows = {(item.prompt_id, item.index): i for i, item in enumerate(drawn.items)}
    if len(rows) < len(drawn):
        twice = [key for key, n in Counter((item.prompt_id, item.index) for item in drawn.items).items() if n > 1]
        raise ValueError(f"{drawn.folder}: several pictures have one prompt id and index: {_some(_named(twice))}")
    return rows


def _named(keys: Iterable[tuple[str, int]]) -> list[str]:
    return sorted(f"{prompt_id}/{index}" for prompt_id, index in keys)


def _some(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values[:SHOWN])) + (", ..." if len(values) > SHOWN else "")
