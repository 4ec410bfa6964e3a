"""Folders as image generators and benchmarks leave them.

    folder        any images, below it at any depth; ``name.txt`` beside ``name.png`` is its prompt
    sidecar       the same, and an image without its text is an error
    imagefolder   ``metadata.jsonl`` or ``metadata.csv`` with file_name and prompt (or caption, text), as Hugging Face has it
    geneval       ``00000/samples/0000.png`` with the prompt in ``00000/metadata.jsonl`` (djghosh13/geneval)
    hpsv2         ``[model/]style/00000.jpg``, prompts in PROMPTS/style.json, a list; or ``00000.jpg`` and PROMPTS a file (tgxs002/HPSv2)
    unigenbench   ``{index}_{k}.png``, prompts in a .csv with index and prompt (CodeGoat24/UniGenBench)
    imagereward   ``model/{id}_{k}.png``, prompts in a .json with id and prompt (THUDM/ImageReward)

A prompt of a benchmark without its image is an item with an error: upstream skips it with a message, or takes the next image's score.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from diffalign.rewards.manifests_items import Item, Sample, image_files
from diffalign.rewards.manifests_tables import PromptTable, prompt_table, table_items

METADATA = ("metadata.jsonl", "metadata.csv")


def recognised(root: Path) -> Callable[[Path, str], Iterator[Item]]:
    """The layout of a folder that needs no further file."""
    if any((root / name).is_file() for name in METADATA):
        return imagefolder
    return geneval if next(root.glob("*/samples"), None) is not None and next(root.glob("*/metadata.jsonl"), None) is not None else folder


def folder(root: Path, modality: str = "image") -> Iterator[Item]:
    for path in image_files(root.rglob("*"), modality):
        beside = path.with_suffix(".txt")
        yield Item(str(path), Sample(path), _line(beside) if beside.is_file() else None)


def sidecar(root: Path, modality: str = "image") -> Iterator[Item]:
    for item in folder(root, modality):
        beside = item.sample.path.with_suffix(".txt")
        error = None if item.prompt else f"{beside} is empty" if beside.is_file() else f"there is no {beside}"
        yield dataclasses.replace(item, error=error)


def imagefolder(root: Path, modality: str = "image") -> Iterator[Item]:
    found = [root / name for name in METADATA if (root / name).is_file()]
    if not found:
        raise ValueError(f"{root}: an image folder has a {' or '.join(METADATA)}, and this has none")
    for item in table_items(found[0]):
        yield dataclasses.replace(item, image=str(item.sample.path))


def geneval(root: Path, modality: str = "image") -> Iterator[Item]:
    subjects = sorted(path.parent for path in root.glob("*/metadata.jsonl") if path.parent.name.isdigit())
    if not subjects:
        raise ValueError(f"{root}: GenEval's layout is 00000/metadata.jsonl and 00000/samples/0000.png, and this has none")
    for subject in subjects:
        about = json.loads((subject / "metadata.jsonl").read_text(encoding="utf-8"))
        files = image_files((subject / "samples").glob("*"), modality)
        yield from (Item(str(path), Sample(path), about["prompt"], prompt_id=subject.name, seed=path.stem) for path in files)
        if not files:
            yield _missing(subject / "samples", about["prompt"], subject.name)


def hpsv2(root: Path, prompts: Path) -> Iterator[Item]:
    """Styles are the names of the .json files; each folder of that name, here or one below (a model's), holds images of it."""
    tables = {path.stem: path for path in sorted(prompts.glob("*.json"))} if prompts.is_dir() else {}
    if not tables and not prompts.is_file():
        raise ValueError(f"{prompts}: needed is the folder with anime.json, paintings.json, ... or one file of prompts")
    found = [(root / style, style, None) for style in tables if (root / style).is_dir()]
    models = sorted(path for path in root.iterdir() if path.is_dir() and path.name not in tables)
    found += [(model / style, style, model.name) for model in models for style in tables if (model / style).is_dir()]
    if not tables:
        found, tables = [(root, prompts.stem, None)], {prompts.stem: prompts}
    if not found:
        raise ValueError(f"{root}: none of the styles {', '.join(tables)} is a folder of it, or of a model's folder in it")
    for place, style, model in found:
        for key, prompt in prompt_table(tables[style]).prompts.items():
            named = [place / f"{int(key):05d}{suffix}" for suffix in (".jpg", ".png")] if key.isdigit() else []
            path = next((path for path in named if path.is_file()), None)
            about = {"prompt_id": f"{style}/{key}", "model": model}
            yield Item(str(path), Sample(path), prompt, **about) if path else _missing(place / f"{key:0>5}.jpg", prompt, **about)


def unigenbench(root: Path, prompts: Path) -> Iterator[Item]:
    yield from _numbered(root, prompt_table(prompts), None)


def imagereward(root: Path, prompts: Path) -> Iterator[Item]:
    table = prompt_table(prompts)
    models = sorted(path for path in root.iterdir() if path.is_dir() and image_files(path.iterdir()))
    for place in models or [root]:
        yield from _numbered(place, table, place.name if models else None)


def _numbered(place: Path, table: PromptTable, model: str | None) -> Iterator[Item]:
    """``{id}_{k}.png`` of every prompt, and an error for a prompt without any."""
    by_id: dict[str, list[Path]] = {}
    for path in image_files(place.iterdir()):
        by_id.setdefault(path.stem.rpartition("_")[0], []).append(path)
    if not by_id.keys() & table.prompts.keys():
        raise ValueError(f"{place}: no image is called id_number.png with an id of {table.path}")
    for key, prompt in table.prompts.items():
        files = by_id.pop(key, [])
        yield from (Item(str(f), Sample(f), prompt, prompt_id=key, seed=f.stem.rpartition("_")[2], model=model) for f in files)
        if not files:
            yield _missing(place / f"{key}_0.png", prompt, key, model)
    for strange in (path for paths in by_id.values() for path in paths):
        yield Item(str(strange), Sample(strange), model=model, error=f"{table.path} has no prompt with the id of {strange.name}")


def prompted(item: Item, table: PromptTable, key: str) -> Item:
    """The item with the prompt of an id, or with an error."""
    if key in table.prompts:
        return dataclasses.replace(item, prompt=table.prompts[key], prompt_id=item.prompt_id or key)
    return dataclasses.replace(item, error=item.error or f"{table.path} has no prompt with the id {key!r}")


def _missing(path: Path, prompt: str, prompt_id: str, model: str | None = None) -> Item:
    return Item(str(path), Sample(path), prompt, prompt_id=prompt_id, model=model, error=f"there is no {path}")


def _line(path: Path) -> str | None:
    return path.read_text(encoding="utf-8-sig").strip() or None
