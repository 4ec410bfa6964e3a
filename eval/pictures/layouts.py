"""How pictures of prompts lie in a folder: as we like it, and as benchmarks want it.

    plain         {id}/0000.png
    geneval       00000/samples/0000.png, and the prompt's facts in 00000/metadata.jsonl (djghosh13/geneval)
    hpsv2         {style}/00000.jpg, one picture a prompt (tgxs002/HPSv2)
    unigenbench   {index}_{k}.png (CodeGoat24/UniGenBench)
    dpg           grids/{id}.png, two by two of four pictures, left to right, then down (TencentQQGYLab/ELLA); the four as in plain

All have our ``metadata.jsonl`` on top, by which ``diffalign score FOLDER`` reads them without options. hpsv2 and unigenbench also get
their prompts as a file, so that ``diffalign score FOLDER --layout hpsv2 --prompts FOLDER/prompts`` (``--layout unigenbench --prompts
FOLDER/prompts.csv``) reads them as the benchmark does.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from diffalign.eval.pictures.prompts_read import HPDV2_STYLES, Prompt

LONGEST = 100  # characters of a file's name from a prompt's id
JPEG_QUALITY = 95  # of hpsv2's pictures: the benchmark asks for .jpg and does not say how much is lost (not verified)


@dataclass(frozen=True)
class Layout:
    """path: of a prompt's k-th picture. images: pictures a prompt unless told; ``only`` means no other number.

    refuses: why a prompt has no place in it, or "". beside: writes what else the benchmark wants, from the pictures that are there.
    """

    path: Callable[[Prompt, int], str]
    images: int = 1
    only: bool = False
    refuses: Callable[[Prompt], str] = lambda prompt: ""
    beside: Callable[[Path, Sequence[Prompt]], None] = lambda folder, prompts: None


def get(name: str) -> Layout:
    """The layout of a name; ValueError for another."""
    if name not in LAYOUTS:
        raise ValueError(f"layout is {name!r}; allowed are {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def check(name: str, prompts: Sequence[Prompt], images: int) -> None:
    """Raises ValueError for a prompt that has no place in the layout, and for another number of pictures than its only one."""
    layout = get(name)
    if layout.only and images != layout.images:
        raise ValueError(f"the layout {name} has {layout.images} pictures a prompt, got {images}: leave images_per_prompt out")
    for prompt in prompts:
        if why := layout.refuses(prompt):
            raise ValueError(f"the layout {name} {why}: use the layout plain, or the benchmark's own prompts")


def place(prompt_id: str) -> str:
    """The id as a name of a file: itself where it can be one, else what of it can and a hash."""
    if len(prompt_id) <= LONGEST and re.fullmatch(r"\w[\w.\- ]*(?<![. ])", prompt_id):
        return prompt_id
    digest = hashlib.sha256(prompt_id.encode()).hexdigest()[:8]
    return re.sub(r"[^\w-]+", "-", prompt_id)[: LONGEST - 9].strip("-") + "-" + digest


def save(image: Image.Image, path: Path) -> None:
    """The whole picture or nothing: .png exactly, .jpg with ``JPEG_QUALITY``."""
    held = io.BytesIO()
    if path.suffix == ".jpg":
        image.save(held, format="JPEG", quality=JPEG_QUALITY)
    else:
        image.save(held, format="PNG")
    write(path, held.getvalue())


def write(path: Path, content: str | bytes) -> None:
    """The whole file or nothing, also where several processes write the same one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with open(part, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def _plain(prompt: Prompt, k: int) -> str:
    return f"{place(prompt.id)}/{k:04d}.png"


def _numbered(prompt: Prompt) -> str:
    return "" if re.fullmatch("[0-9]+", prompt.id) else f"numbers its prompts, and the id {prompt.id!r} is no number"


def _geneval(prompt: Prompt, k: int) -> str:
    return f"{int(prompt.id):05d}/samples/{k:04d}.png"


def _geneval_beside(folder: Path, prompts: Sequence[Prompt]) -> None:
    """GenEval's own line of each prompt: tag, include, exclude, prompt."""
    for prompt in prompts:
        row = {"tag": prompt.category, **prompt.facts, "prompt": prompt.text}
        write(folder / f"{int(prompt.id):05d}" / "metadata.jsonl", json.dumps(row, ensure_ascii=False))


def _style(prompt: Prompt) -> tuple[str, int]:
    """"concept-art-00012" -> ("concept-art", 12)."""
    style, _, number = prompt.id.rpartition("-")
    return style, int(number)


def _hpsv2(prompt: Prompt, k: int) -> str:
    style, number = _style(prompt)
    return f"{style}/{number:05d}.jpg"


def _styled(prompt: Prompt) -> str:
    known = re.fullmatch(f"({'|'.join(HPDV2_STYLES)})-[0-9]+", prompt.id)
    return "" if known else f"is of HPDv2's four styles, and the id {prompt.id!r} is of none"


def _hpsv2_beside(folder: Path, prompts: Sequence[Prompt]) -> None:
    by_style: dict[str, list[dict[str, str]]] = {}
    for prompt in prompts:
        style, number = _style(prompt)
        by_style.setdefault(style, []).append({"id": str(number), "prompt": prompt.text})
    for style, rows in by_style.items():
        write(folder / "prompts" / f"{style}.json", json.dumps(rows, indent=1, ensure_ascii=False))


def _unigenbench_beside(folder: Path, prompts: Sequence[Prompt]) -> None:
    held = io.StringIO()
    writer = csv.writer(held, lineterminator="\n")
    writer.writerows([("index", "prompt_en"), *((prompt.id, prompt.text) for prompt in prompts)])
    write(folder / "prompts.csv", held.getvalue())


def _dpg_beside(folder: Path, prompts: Sequence[Prompt]) -> None:
    """The grid of each prompt whose four pictures are there."""
    for prompt in prompts:
        paths = [folder / _plain(prompt, k) for k in range(4)]
        grid = folder / "grids" / f"{place(prompt.id)}.png"
        if grid.is_file() or not all(path.is_file() for path in paths):
            continue
        images = [Image.open(path) for path in paths]
        width, height = images[0].size
        whole = Image.new("RGB", (2 * width, 2 * height))
        for k, image in enumerate(images):
            whole.paste(image, (k % 2 * width, k // 2 * height))
        save(whole, grid)


LAYOUTS = {
    "plain": Layout(_plain),
    "geneval": Layout(_geneval, images=4, refuses=_numbered, beside=_geneval_beside),
    "hpsv2": Layout(_hpsv2, only=True, refuses=_styled, beside=_hpsv2_beside),
    "unigenbench": Layout(lambda prompt, k: f"{prompt.id}_{k}.png", images=4, refuses=_numbered, beside=_unigenbench_beside),
    "dpg": Layout(_plain, images=4, only=True, beside=_dpg_beside),
}
