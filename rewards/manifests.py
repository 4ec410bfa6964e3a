"""What is to be scored: files, folders, globs and tables as one list of items, each with the prompt it is judged against."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from diffalign.rewards import manifests_layouts as layouts
from diffalign.rewards.manifests_items import Item, Sample, image_files
from diffalign.rewards.manifests_tables import TABLES, prompt_table, table_items

__all__ = ["LAYOUTS", "Item", "Sample", "collect"]

FOLDERS = {"folder": layouts.folder, "imagefolder": layouts.imagefolder, "sidecar": layouts.sidecar, "geneval": layouts.geneval}
BENCHMARKS = {"hpsv2": layouts.hpsv2, "unigenbench": layouts.unigenbench, "imagereward": layouts.imagereward}  # these need --prompts
LAYOUTS = ("auto", *FOLDERS, *BENCHMARKS)


def collect(
    sources: Sequence[str | Path],
    *,
    prompt: str | None = None,
    prompts: str | Path | None = None,
    layout: str = "auto",
    columns: Mapping[str, str] | None = None,
    modality: str = "image",
) -> list[Item]:
    """The items of all sources, in their order; those of a folder sorted by path.

    Args:
        sources: each a sample's file, a folder, a glob, or a table (.jsonl, .json, .csv, .parquet) whose paths are relative to its folder.
        prompt: of every item that brings none of its own.
        prompts: a file (.txt with one a line; .json, .jsonl, .csv, .parquet), for items that bring none of their own: by the stem of the
            sample's file where it has ids, in order where it has not. A benchmark's layout matches them in its own way.
        layout: of folders; see ``manifests_layouts``. ``auto`` knows those that need no further file.
        columns: {ours: theirs} of tables, for image, prompt, prompt_id, seed and model.
        modality: image, audio or lidar: which files of a folder count.

    A row without a file or a prompt is an item with an error, so that nothing is lost silently. Raises ValueError for a source that is
    not there, an unreadable table, prompts that do not match, and nothing at all.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}; allowed are {', '.join(LAYOUTS)}")
    if prompt is not None and prompts is not None:
        raise ValueError("give one prompt for all (--prompt) or a file of them (--prompts), not both")
    if layout in BENCHMARKS and prompts is None:
        raise ValueError(f"the layout {layout} numbers its prompts and does not hold them: name the benchmark's prompts (--prompts)")
    found = [item for source in sources for item in _source(source, layout, prompts, dict(columns or {}), modality)]
    if not found:
        raise ValueError(f"nothing to score in {', '.join(map(str, sources)) or 'no source'}: no file of {modality}s was found")
    if prompts is not None and layout not in BENCHMARKS:
        return _with_prompts(found, Path(prompts))
    return found if prompt is None else [item if item.prompt else item.with_prompt(prompt) for item in found]


def _source(source: str | Path, layout: str, prompts: str | Path | None, columns: dict[str, str], modality: str) -> Iterable[Item]:
    path = Path(source)
    if path.is_dir():
        if layout in BENCHMARKS:
            return BENCHMARKS[layout](path, Path(prompts))
        if layout == "auto":
            return layouts.recognised(path)(path, modality)
        return FOLDERS[layout](path, modality)
    if layout != "auto" and (path.is_file() or not glob.has_magic(str(source))):
        raise ValueError(f"{source}: the layout {layout} is that of a folder, and this is none")
    if path.is_file():
        return table_items(path, columns) if path.suffix.lower() in TABLES else [Item(str(source), Sample(path))]
    if glob.has_magic(str(source)):
        matches = sorted(glob.glob(str(source), recursive=True))
        kept = [match for match in matches if Path(match).is_dir() or image_files([Path(match)], modality)]
        if not kept:
            raise ValueError(f"{source}: no file of {modality}s matches")
        return [item for match in kept for item in _source(match, layout, prompts, columns, modality)]
    raise ValueError(f"{source}: there is no such file or folder")


def _with_prompts(items: list[Item], path: Path) -> list[Item]:
    """The prompts of a file given to the items that have none."""
    table = prompt_table(path)
    if table.has_ids:
        return [item if item.prompt else layouts.prompted(item, table, item.sample.path.stem) for item in items]
    without = [i for i, item in enumerate(items) if not item.prompt]
    if len(table.prompts) != len(without):
        raise ValueError(
            f"{path} has {len(table.prompts)} prompts and {len(without)} samples have none of their own: give as many, in the samples' "
            "order, or prompts with an id, the stem of the sample's file"
        )
    chosen = dict(zip(without, table.prompts.values(), strict=True))
    return [item.with_prompt(chosen[i]) if i in chosen else item for i, item in enumerate(items)]
