"""``diffalign generate``: a model and prompts in; a folder of pictures out, with what they depend on beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import tyro

from diffalign.eval.pictures.generate_model import load_drawer
from diffalign.eval.pictures.generate_set import generate_set
from diffalign.eval.pictures.prompts import load_prompts
from diffalign.eval.pictures.sets import black_report
from diffalign.rewards.command import parse_shard
from diffalign.train.errors import ConfigError

Layout = Literal["plain", "geneval", "hpsv2", "unigenbench", "dpg"]


@dataclass(frozen=True)
class GenerateCommand:
    """Draw pictures of a list of prompts, each from a seed of its own, so that any of them can be drawn again alone.

    The same command in the same folder draws what is missing. diffalign score FOLDER scores them.
    """

    model: str
    """Hub id, folder, .safetensors checkpoint or builtin:shapes; or the folder of a training run or of its adapter."""
    output_dir: str
    """Where the pictures go, with metadata.jsonl and generation.json."""
    prompts: str
    """diffalign (64 of ours), parti, hpdv2, pickapic-v2-test, drawbench, geneval, t2i-compbench (or one of its parts, such as
    t2i-compbench/color), dpg-bench, unigenbench, builtin:shapes; or a file: .txt with one a line, or a table with prompt, id, category."""
    prompts_file: str | None = None
    """A local copy of a named list's file, where it cannot be downloaded."""
    count: int | None = None
    """This many of the prompts, chosen by the hash of their ids."""
    prompts_seed: int = 0
    """Which prompts count takes."""
    adapter: str | None = None
    """A LoRA for the model: a run, its folder lora, or a .safetensors file."""
    base: str | None = None
    """The model of an adapter given as --model, where no config.yaml of a run beside it says so."""
    images_per_prompt: int | None = None
    """Default: 1; 4 in the layouts geneval, unigenbench and dpg."""
    seed: int = 0
    """Of the noise: a picture's seed is a hash of this, its number and its prompt."""
    same_noise: bool = False
    """Start all prompts from the same noise, seed plus the picture's number, as some papers do."""
    guidance_scale: float | None = None
    """As diffusers counts it. Default: the pipeline's; of the embedded models their own."""
    num_inference_steps: int | None = None
    """Default: the pipeline's; of the embedded models their own."""
    height: int | None = None
    """In pixels; default: what the model was trained for."""
    width: int | None = None
    """In pixels; default: what the model was trained for."""
    batch_size: int | None = None
    """Pictures a call; default 4, of the embedded models 64. Changes pictures by rounding only."""
    layout: Layout = "plain"
    """How the folder is laid out: {id}/0000.png, or as a benchmark wants it (eval/pictures/layouts.py)."""
    shard: str | None = None
    """i/N: only every N-th batch, from the i-th on, 0 to N - 1; all shards share the output folder and the batch size."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the networks."""
    device: str = "auto"
    """auto takes the GPU where there is one; else as torch names it, such as cpu or cuda:1."""
    model_config: str | None = None
    """Folder with the pipeline's configs, for a single-file checkpoint where the hub cannot be reached."""
    vae: str | None = None
    """Another VAE: folder, hub id or .safetensors file."""
    variant: str | None = None
    """Weight variant of a diffusers model, such as fp16."""
    revision: str | None = None
    """Branch, tag or commit of a model on the hub."""
    max_sequence_length: int | None = None
    """Tokens of a prompt, for families whose pipeline asks; default: what the run was trained with, else the pipeline's."""


def run(argv: list[str]) -> int:
    """The whole command; the exit code: 0.

    Raises:
        ConfigError: a mistake in the call, or a folder of other settings. OSError: prompts that are not here and could not be fetched.
    """
    command = tyro.cli(GenerateCommand, args=argv, prog="diffalign generate")
    try:
        shard = (0, 1) if command.shard is None else parse_shard(command.shard)
        prompts = load_prompts(command.prompts, command.count, command.prompts_seed, command.prompts_file)
        device = ("cuda" if torch.cuda.is_available() else "cpu") if command.device == "auto" else command.device
        drawer = load_drawer(
            command.model, adapter=command.adapter, base=command.base, dtype=getattr(torch, command.dtype), device=device,
            config=command.model_config, vae=command.vae, variant=command.variant, revision=command.revision,
            max_sequence_length=command.max_sequence_length,
        )  # fmt: skip
        found = generate_set(
            drawer, prompts, command.output_dir, images_per_prompt=command.images_per_prompt, seed=command.seed, height=command.height,
            width=command.width, num_inference_steps=command.num_inference_steps, guidance_scale=command.guidance_scale,
            batch_size=command.batch_size, layout=command.layout, shard=shard, same_noise=command.same_noise,
        )  # fmt: skip
    except ValueError as error:
        raise ConfigError(str(error)) from error
    for note in filter(None, [prompts.about["note"], *black_report([found.images])]):
        print(f"note: {note}")
    rest = f"; {found.missing} are for other shards" if found.missing else ""
    print(f"{len(found.images)} pictures of {len(prompts)} prompts ({found.drawn} drawn, {found.kept} were there{rest})")
    print(f"{command.output_dir}/metadata.jsonl  {command.output_dir}/generation.json")
    return 0
