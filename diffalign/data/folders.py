"""Pairs that lie in a folder as image files, without a table.

    pairs/chosen/0001.png  pairs/rejected/0001.png     prompt in pairs/chosen/0001.txt
    pairs/0001_w.png       pairs/0001_l.png            prompt in pairs/0001.txt

and, of pairs with a mask, pairs/mask/0001.png or pairs/0001_mask.png;

or every prompt in one file of that folder: ``prompts.txt`` (``stem<TAB>prompt``, or one prompt a line in the sorted order of the stems),
``prompts.csv``, ``prompts.jsonl`` or ``metadata.jsonl`` (``file_name`` or ``stem``; ``prompt``, ``caption`` or ``text``; and any optional
column of a pair).
"""

from collections.abc import Iterator
from pathlib import Path

from diffalign.data import tables

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
NAME_COLUMNS = ("file_name", "stem", "name")
PROMPT_COLUMNS = ("prompt", "caption", "text")


def is_pair_folder(folder: Path) -> bool:
    return _has_sides(folder) or any(image.stem.endswith(("_w", "_l")) for image in _images(folder))


def folder_rows(folder: Path) -> Iterator[tuple[str, dict]]:
    """(where, row) for every stem found on either side, sorted by stem. A side without a file is None: a bad row, for the reader to judge.

    Raises ValueError when two files have the same stem on one side, when a mask is of no pair, or when a prompt file cannot be matched to
    the stems.
    """
    if _has_sides(folder):
        chosen, rejected = _by_stem(folder / "chosen"), _by_stem(folder / "rejected")
        masks = _by_stem(folder / "mask") if (folder / "mask").is_dir() else {}
        text_folder = folder / "chosen"
    else:
        chosen, rejected = _by_stem(folder, "_w"), _by_stem(folder, "_l")
        masks = _by_stem(folder, "_mask")
        text_folder = folder
    stems = sorted(chosen.keys() | rejected.keys())
    if lost := sorted(masks.keys() - set(stems)):
        raise ValueError(f"{folder}: the mask {masks[lost[0]].name} is of no pair. Give it the stem of one, or remove it.")
    table = _prompt_table(folder, stems)
    for stem in stems:
        row = {"prompt": None} | table.get(stem, {}) | {"chosen": chosen.get(stem), "rejected": rejected.get(stem)}
        row |= {"mask": masks[stem]} if stem in masks else {}
        beside = text_folder / f"{stem}.txt"
        if beside.is_file():
            row["prompt"] = beside.read_text(encoding="utf-8-sig").strip()
        yield f"{folder}: {stem}", row


def _has_sides(folder: Path) -> bool:
    return (folder / "chosen").is_dir() and (folder / "rejected").is_dir()


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)


def _by_stem(folder: Path, ending: str = "") -> dict[str, Path]:
    """{stem without ending: path} of the images of one side; images with another ending are no part of a pair."""
    images: dict[str, Path] = {}
    for path in _images(folder):
        if not path.stem.endswith(ending):
            continue
        stem = path.stem.removesuffix(ending)
        if stem in images:
            raise ValueError(f"{folder}: {images[stem].name} and {path.name} have the same stem. Remove or rename one.")
        images[stem] = path.absolute()
    return images


def _prompt_table(folder: Path, stems: list[str]) -> dict[str, dict]:
    """{stem: {"prompt": ..., optional columns}} from the first prompt file that exists; {} without one."""
    for path in (folder / "prompts.txt", folder / "prompts.csv", folder / "prompts.jsonl", folder / "metadata.jsonl"):
        if not path.is_file():
            continue
        if path.suffix == ".txt":
            return _from_lines(path, path.read_text(encoding="utf-8-sig").splitlines(), stems)
        rows = tables.csv_rows(path) if path.suffix == ".csv" else tables.jsonl_rows(path)
        return _from_rows(path, [row for _, row in rows])
    return {}


def _from_lines(path: Path, lines: list[str], stems: list[str]) -> dict[str, dict]:
    while lines and not lines[-1].strip():
        lines.pop()
    if lines and all("\t" in line for line in lines):
        return {stem.strip(): {"prompt": prompt.strip()} for stem, prompt in (line.split("\t", 1) for line in lines)}
    if len(lines) != len(stems):
        advice = "Write one prompt a line in the order of the sorted stems, or stem<TAB>prompt."
        raise ValueError(f"{path}: {len(lines)} lines for {len(stems)} pairs. {advice}")
    return {stem: {"prompt": line.strip()} for stem, line in zip(stems, lines, strict=True)}


def _from_rows(path: Path, rows: list[dict]) -> dict[str, dict]:
    table = {}
    for row in rows:
        name = next((column for column in NAME_COLUMNS if column in row), None)
        prompt = next((column for column in PROMPT_COLUMNS if column in row), None)
        if name is None or prompt is None:
            raise ValueError(f"{path}: columns found are {', '.join(row)}; needed are one of {NAME_COLUMNS} and one of {PROMPT_COLUMNS}.")
        stem = Path(row[name]).stem.removesuffix("_w").removesuffix("_l") if name == "file_name" else row[name]
        table[stem] = {key: value for key, value in row.items() if key not in (name, prompt)} | {"prompt": row[prompt]}
    return table
