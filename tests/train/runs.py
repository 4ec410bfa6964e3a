"""Tiny runs: pairs drawn with PIL, a configuration that trains in a second, and what a run leaves behind."""

import json
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from diffalign import data
from diffalign.train import TrainConfig, train
from tests import tiny

COLORS, SHAPES = tiny.WORDS[3:6], tiny.WORDS[6:9]


def write_pairs(folder: Path, count: int, size: int = 16, **columns) -> Path:
    """``count`` pairs as PNG files with a metadata.jsonl. Weights are 1, 2, 3 ... unless ``columns`` (name -> list) says otherwise."""
    columns = {"weight": [float(i + 1) for i in range(count)], **columns}
    lines = []
    for i in range(count):
        for side, shade in (("chosen", 230), ("rejected", 20)):
            image = Image.new("RGB", (size, size), (20 * i % 256, shade, 128))
            ImageDraw.Draw(image).ellipse((1 + i % 5, 3, size // 2 + i % 5, size - 5), fill=(shade, 30 * i % 256, 60))
            (folder / side).mkdir(parents=True, exist_ok=True)
            image.save(folder / side / f"{i:03d}.png")
        lines.append({"stem": f"{i:03d}", "prompt": prompt(i), "id": f"pair-{i}", **{name: column[i] for name, column in columns.items()}})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def prompt(i: int) -> str:
    """Pairs 2k and 2k + 1 share a prompt."""
    return f"a {COLORS[i // 2 % 3]} {SHAPES[i // 6 % 3]}"


def config(model, data, output_dir, **changes) -> TrainConfig:
    """Three steps of two pairs on the CPU, nothing held out, nothing drawn, no weight decay: what moves was moved by a gradient."""
    settings = {
        "max_train_steps": 3, "train_batch_size": 2, "learning_rate": 1e-3, "adam_weight_decay": 0.0, "held_out": 0.0, "logging_steps": 1,
        "num_validation_images": 0, "lora_rank": 2, "device": "cpu",
    }  # fmt: skip
    return TrainConfig(**{"model": str(model), "data": str(data), "output_dir": str(output_dir), **settings, **changes})


def run(model, data, output_dir, **changes) -> dict:
    return train(config(model, data, output_dir, **changes), quiet=True)


def result(summary: dict) -> dict[str, torch.Tensor]:
    """The trained tensors: of the adapter, or of the whole UNet."""
    folder = Path(summary["result"])
    folder = folder / "unet" if (folder / "unet").is_dir() else folder
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def metrics(output_dir) -> list[dict]:
    return [json.loads(line) for line in (Path(output_dir) / "metrics.jsonl").read_text().splitlines()]


def steps_of(pairs, batch_size: int) -> list[list[data.Pair]]:
    """The pairs of each step of the first epoch."""
    records, _ = data.read(pairs)
    return [[records[i] for i in row] for row in data.batches([0] * len(records), batch_size, epoch=0, seed=0, drop_last=False)]
