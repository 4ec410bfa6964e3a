"""A folder of pictures for a list of prompts: each from a seed of its own, resumable, in shards, with its facts beside it.

    metadata.jsonl     one line a picture that is there: file_name, prompt, prompt_id, category, index, seed, all_black
    generation.json    what the pictures depend on (``settings``), and where all came from (``about``)

Pictures are drawn in batches that depend on the list and the batch size alone: a batch of which one is missing is drawn whole, and a
shard takes every N-th batch. So a run that was interrupted, and shards together, leave the same bytes as one that was not, on one kind of
machine. Another batch size changes a picture by rounding only (1/255 at most where that was measured).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from diffalign.eval.pictures import layouts
from diffalign.eval.pictures.generate import draw, seed_of
from diffalign.eval.pictures.generate_model import Drawer
from diffalign.eval.pictures.prompts import Prompt, PromptSet
from diffalign.eval.pictures.sets import METADATA, RECORD, ImageSet, is_black
from diffalign.train.validate import quiet_libraries

REPEATED = 1_000_000  # index that the pictures of a prompt start from when the list has its text once before
VERSIONS = ("diffalign", "torch", "diffusers", "transformers", "peft", "pillow")


@dataclass(frozen=True)
class Generated:
    """images: all that are in the folder, other shards' too. drawn, kept: by this call, and its own that were there; missing: of others."""

    images: ImageSet
    drawn: int
    kept: int
    missing: int


@dataclass(frozen=True)
class Job:
    prompt: Prompt
    index: int
    seed: int
    file_name: str


def seed_for(prompt: Prompt, index: int, seed: int, same_noise: bool = False) -> int:
    """The seed of the generator that a prompt's ``index``-th picture starts from.

    ``generate.seed_of`` of the text and index; a text that the list has before, for the n-th time, counts its pictures from n * 1,000,000,
    so that equal prompts get different pictures whatever number of pictures each has. ``same_noise``: seed + index, for all prompts alike,
    as works have it that seed anew for every prompt.
    """
    return seed + index if same_noise else seed_of(prompt.text, prompt.occurrence * REPEATED + index, seed)


def generate_set(
    drawer: Drawer, prompts: PromptSet, folder: str | Path, *, images_per_prompt: int | None = None, seed: int = 0,
    height: int | None = None, width: int | None = None, num_inference_steps: int | None = None, guidance_scale: float | None = None,
    batch_size: int | None = None, layout: str = "plain", shard: tuple[int, int] = (0, 1), same_noise: bool = False, quiet: bool = False,
) -> Generated:
    """Draw what is missing of a folder.

    Args:
        images_per_prompt: default: the layout's (4 of GenEval, UniGenBench and DPG-Bench, else 1).
        height, width: in pixels; default: what the model was trained for.
        num_inference_steps, guidance_scale, batch_size: default: the drawer's.
        layout: see ``layouts``. shard: (i, N): every N-th batch, from the i-th on; all write into one folder, at once if they like.
        same_noise: see ``seed_for``.

    Raises:
        ValueError: the folder holds pictures of other settings (the difference is shown), or of nobody knows what; prompts that do not
            suit layout or model; numbers out of range.
    """
    folder, images = Path(folder), layouts.get(layout).images if images_per_prompt is None else images_per_prompt
    batch_size = drawer.batch_size if batch_size is None else batch_size
    if images < 1 or batch_size < 1 or not 0 <= shard[0] < shard[1]:
        raise ValueError(f"images_per_prompt {images} and batch_size {batch_size} must be at least 1, and shard {shard} (i, N) with i < N")
    if num_inference_steps is not None and num_inference_steps < 1:
        raise ValueError(f"num_inference_steps is {num_inference_steps}; it must be at least 1")
    if not prompts.prompts:
        raise ValueError(f"prompts '{prompts.name}' hold none: nothing can be drawn")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: pictures go into a folder, use another --output-dir")
    layouts.check(layout, prompts.prompts, images)
    side, model = drawer.model.default_resolution, drawer.model
    size = {"height": side if height is None else height, "width": side if width is None else width}
    model.latent_shape(**size)
    steps, scale = (asked if asked is not None else drawer.defaults[key] for asked, key in (
        (num_inference_steps, "num_inference_steps"), (guidance_scale, model.guidance_argument)))  # fmt: skip
    for prompt in prompts.prompts:
        model.sampling_arguments(prompt.text, **size)
    jobs = _plan(prompts, images, seed, layout, same_noise)
    settings = {
        "model": drawer.identity, "prompts": {"name": prompts.name, "count": len(prompts), "digest": prompts.digest},
        "images_per_prompt": images, "seed": seed, "same_noise": same_noise, **size, "num_inference_steps": steps,
        model.guidance_argument: scale, "layout": layout,
    }  # fmt: skip
    versions = {name: metadata.version(name) for name in VERSIONS}
    about = {**drawer.about, "batch_size": batch_size, "prompts": prompts.about, "versions": versions}
    _claim(folder, {"model": drawer.name, "settings": settings, "about": about}, jobs)

    batches = [jobs[start : start + batch_size] for start in range(0, len(jobs), batch_size)][shard[0] :: shard[1]]
    todo = [batch for batch in batches if not all((folder / job.file_name).is_file() for job in batch)]
    black, drawn = _known_black(folder), 0
    with quiet_libraries(errors_only=True):
        for batch in tqdm(todo, desc=f"draw {drawer.name}", unit="batch", disable=quiet):
            arguments = drawer.arguments([job.prompt.text for job in batch], **size)
            sampling = {"num_inference_steps": steps, model.guidance_argument: scale}
            pictures = eight_bit(draw(drawer.pipeline, [job.seed for job in batch], **arguments, **sampling))
            for job, picture in zip(batch, pictures, strict=True):
                if not (folder / job.file_name).is_file():
                    black[job.file_name] = not picture.any()
                    layouts.save(Image.fromarray(picture.numpy()), folder / job.file_name)
                    drawn += 1
    _write_metadata(folder, jobs, black)
    layouts.get(layout).beside(folder, prompts.prompts)
    found = ImageSet.read(folder)
    return Generated(found, drawn, sum(map(len, batches)) - drawn, len(jobs) - len(found))


def eight_bit(pictures: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W) in [0, 1] -> (N, H, W, 3) uint8 as diffusers' ``numpy_to_pil`` has it: round(255 x), halves to even; not finite is 0."""
    return (pictures.nan_to_num(0.0, 0.0, 0.0) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _plan(prompts: PromptSet, images: int, seed: int, layout: str, same_noise: bool) -> list[Job]:
    path = layouts.get(layout).path
    jobs = [
        Job(prompt, index, seed_for(prompt, index, seed, same_noise), path(prompt, index))
        for prompt in prompts.prompts
        for index in range(images)
    ]
    if len({job.file_name for job in jobs}) < len(jobs):
        raise ValueError(f"prompts '{prompts.name}': two of them would be the same file; give each an id of its own")
    return jobs


def _claim(folder: Path, record: dict[str, Any], jobs: Sequence[Job]) -> None:
    """Write ``generation.json``, or find that the one that is there says the same."""
    path, record = folder / RECORD, json.loads(json.dumps(record))
    if path.is_file():
        before, asked = (_flat(kept["settings"]) for kept in (json.loads(path.read_text(encoding="utf-8")), record))
        differ = [key for key in {**before, **asked} if before.get(key) != asked.get(key)]
        if changed := [f"{key} {before.get(key)!r} there, {asked.get(key)!r} now" for key in differ]:
            raise ValueError(f"{folder} holds pictures of other settings: {'; '.join(changed)}. Choose another --output-dir, or remove it")
        return
    if strange := [job.file_name for job in jobs if (folder / job.file_name).exists()]:
        raise ValueError(
            f"{folder} holds {len(strange)} of these pictures, such as {strange[0]}, and no {RECORD} says how they were drawn: "
            f"choose another --output-dir, or remove it"
        )
    layouts.write(path, json.dumps(record, indent=1, ensure_ascii=False))


def _flat(settings: dict[str, Any], before: str = "") -> dict[str, Any]:
    """{"prompts": {"count": 4}} -> {"prompts.count": 4}"""
    found = {}
    for key, value in settings.items():
        found |= _flat(value, f"{before}{key}.") if isinstance(value, dict) else {before + key: value}
    return found


def _known_black(folder: Path) -> dict[str, bool]:
    """file_name -> whether it is all black, of the pictures that an earlier run has listed."""
    path = folder / METADATA
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    return {row["file_name"]: row["all_black"] for row in rows}


def _write_metadata(folder: Path, jobs: Sequence[Job], black: dict[str, bool]) -> None:
    """List what is there, and again if pictures came meanwhile, so that whichever of several shards is last lists all."""
    listed = None
    while (rows := _rows(folder, jobs, black)) != listed:
        layouts.write(folder / METADATA, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        listed = rows


def _rows(folder: Path, jobs: Sequence[Job], black: dict[str, bool]) -> list[dict[str, Any]]:
    rows = []
    for job in jobs:
        path = folder / job.file_name
        if path.is_file():
            if job.file_name not in black:
                black[job.file_name] = is_black(path)
            rows.append({
                "file_name": job.file_name, "prompt": job.prompt.text, "prompt_id": job.prompt.id, "category": job.prompt.category,
                "index": job.index, "seed": job.seed, "all_black": black[job.file_name],
            })  # fmt: skip
    return rows
