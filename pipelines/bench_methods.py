"""Every diffusion method on the same pairs of the embedded model with the same tuning budget (``tuning``)."""

from __future__ import annotations

import dataclasses
import math
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from diffalign import data
from diffalign.eval.pictures.generate import generate
from diffalign.models import load_model
from diffalign.pipelines import bench_page, tuning
from diffalign.pipelines.demo import TRAINING, through_the_vae
from diffalign.pipelines.pairs import write
from diffalign.pipelines.tuning import Found, Settings, rates
from diffalign.rewards.images import read
from diffalign.train import TrainConfig, train
from diffalign.train.validate import quiet_libraries
from diffalign.worlds import shapes
from diffalign.worlds.shapes import judge, scenes

SHOWN = 10  # prompts in the picture


def dpo_like(beta: float) -> tuple[Settings, ...]:
    """Three settings around a beta: colder, as it is, hotter."""
    return tuple({"learning_rate": rate, "beta": factor * beta} for rate, factor in ((1e-3, 1.0), (2e-3, 1.0), (2e-3, 2.0)))


FEW_STEPS = {"steps": "4"}  # of an inversion; the releases take ten, at more than twice the time
GRID: dict[str, tuple[Settings, ...]] = {  # three settings each; published betas are for other latents, so all are relative to the demo's
    "diffusion-dpo": dpo_like(500.0),
    "mapo": rates(2e-4, 5e-4, 1e-3),
    "mapo-paper": rates(2e-4, 5e-4, 1e-3),
    "smpo": tuple({**settings, "inversion": FEW_STEPS} for settings in dpo_like(250.0)),
    "inpo": tuple({**settings, "inversion": {**FEW_STEPS, "eta": "0.1"}} for settings in dpo_like(500.0)),
    "dcpo": dpo_like(500.0),
    "diffusion-kto": dpo_like(500.0),
    "linear-dpo": dpo_like(250.0),
    "diffusion-sdpo": dpo_like(500.0),
    "dspo": tuple({"learning_rate": rate, "beta": beta} for rate, beta in ((5e-4, 0.5), (1e-3, 0.5), (1e-3, 2.0))),
    "dmpo": dpo_like(500.0),
    "rankdpo": dpo_like(1000.0),
    "capo": dpo_like(100.0),
    "sft": rates(2e-4, 5e-4, 1e-3),
    "inversion-dcpo": dpo_like(500.0),
    "soft-ipo": dpo_like(250.0),
    "inversion-mapo": rates(2e-4, 5e-4, 1e-3),
}
COMBINATIONS: dict[str, Settings] = {  # points that nobody published: what stays the same over their grid
    "inversion-dcpo": {"method": "dcpo", "noising": "ddim-inversion", "inversion": FEW_STEPS},
    "soft-ipo": {"method": "diffusion-dpo", "objective": "ipo"},
    "inversion-mapo": {"method": "mapo-paper", "noising": "ddim-inversion", "inversion": FEW_STEPS},
}
# Errors of a flow are larger than of epsilon, so its beta is smaller; layout, colours and background are decided at high noise.
GRIDS = {
    TRAINING.model: GRID,
    "builtin:shapes-flow": {"diffusion-dpo": tuple({**settings, "timesteps": "logit-normal:0.5:1.2"} for settings in dpo_like(50.0))},
}


@dataclass(frozen=True)
class BenchConfig:
    """Align the embedded model with every method, and compare."""

    output_dir: str = "runs/methods"
    """One folder a model."""
    model: Literal["builtin:shapes", "builtin:shapes-flow"] = TRAINING.model
    """The embedded model, or the same world by flow matching."""
    methods: list[str] = dataclasses.field(default_factory=lambda: list(GRID))
    """Which methods, and which combinations of their parts that nobody published."""
    seeds: int = 3
    """Trainings of the chosen setting, each judged with a seed of its own."""
    max_train_steps: int = 150
    """Optimizer steps of every training."""
    dev_prompts: int = 200
    """Prompts that choose among a method's settings."""
    prompts: int = 400
    """Unseen prompts that judge the chosen one."""


class Bench(tuning.Bench):
    """The embedded model, the pairs in the forms that methods want, and what was judged so far."""

    def __init__(self, config: BenchConfig, quiet: bool):
        super().__init__(config, config.model, quiet)
        self.model = load_model(config.model)
        self.pipeline = self.model.pipeline()
        length = self.model.max_sequence_length
        self.sampling = shapes.SAMPLING[config.model] | ({} if length is None else {"max_sequence_length": length})
        self.training = dataclasses.replace(TRAINING, model=config.model)
        prompts = self.prompts("test", 0)
        self.ceiling = judge.score(through_the_vae(self.model, prompts, 0), prompts).mean().item()

    def train(self, name: str, method: str, settings: Settings, seed: int) -> dict:
        places = {
            "data": str(_pairs(FORMS.get(method, "plain"), self.folder)),
            "output_dir": str(self.folder / name),
            "cache_dir": str(self.folder / "cache"),
        }
        shared = {**self.training.to_dict(), "beta": None, "seed": seed, "max_train_steps": self.config.max_train_steps}
        run = TrainConfig(**{**shared, **places, **COMBINATIONS.get(method, {"method": method}), **settings})
        return train(run, quiet=self.quiet)

    def judge(self, name: str, prompts: list[str], seed: int, trained: str | None) -> list[float]:
        """Of pictures drawn from noise of that seed, with the adapter ``trained`` where there is one."""
        if trained:
            self.pipeline.load_lora_weights(trained)
        images = generate(self.pipeline, prompts, seed=seed, name=name, quiet=self.quiet, **self.sampling)
        self.pipeline.unload_lora_weights()
        return judge.score(images, prompts).tolist()

    def strip(self, name: str, adapter: str | None) -> Image.Image:
        """The first test prompts, drawn side by side from the noise that they were judged from, three times as large."""
        path = self.folder / "strips" / f"{name}.png"
        if not path.exists():
            if adapter:
                self.pipeline.load_lora_weights(adapter)
            images = generate(self.pipeline, self.prompts("test", 0)[:SHOWN], seed=0, quiet=True, **self.sampling)
            self.pipeline.unload_lora_weights()
            path.parent.mkdir(exist_ok=True)
            strip = read(torch.cat(list(images), dim=2))
            strip.resize((3 * strip.width, 3 * strip.height), Image.Resampling.NEAREST).save(path)
        return Image.open(path)

    def row(self, method: str, found: Found) -> dict:
        both = found.compared()
        return {
            "method": method, "combination": COMBINATIONS.get(method),
            "win_rate": both.win_rate, "win_rate_ci": both.win_rate_ci, "by_seed": found.by_seed(),
            "score_base": both.mean_b, "score": both.mean_a, "gap_closed": (both.mean_a - both.mean_b) / (self.ceiling - both.mean_b),
            "winner_error": found.mean("held_out/chosen_change"), "loser_error": found.mean("held_out/rejected_change"),
            "held_out_accuracy": found.mean("held_out/accuracies"), "seconds": float(np.median([run["seconds"] for run in found.runs])),
            "settings": found.settings, "tried": found.tried, "n_prompts": both.n_prompts, "adapter": found.runs[0]["result"],
        }  # fmt: skip

    def line(self, row: dict) -> str:
        low, high = row["win_rate_ci"]
        return f"{row['method']}: win rate {row['win_rate']:.3f} [{low:.3f}, {high:.3f}], {100 * row['gap_closed']:.0f} % of the gap"

    def write(self, rows: list[dict]) -> None:
        strips = {"base": self.strip("base", None)} | {row["method"]: self.strip(row["method"], row["adapter"]) for row in rows}
        facts = {"config": dataclasses.asdict(self.config), "sampling": self.sampling, "training": self.training.to_dict()}
        bench_page.write(self.folder, facts, rows, bench_page.IMAGES, strips)

    def prompts(self, split: str, seed: int) -> list[str]:
        return scenes.prompts(split, self.config.dev_prompts if split == "dev" else self.config.prompts, seed=seed)


@quiet_libraries(errors_only=True)
def bench_methods(config: BenchConfig, *, quiet: bool = False) -> dict:
    """Run it; writes ``methods.json``, ``.md``, ``.html`` and, as pictures, ``methods.svg`` and ``pictures.png`` into ``output_dir`` after
    every method.

    Raises:
        ConfigError: a method without a grid, a count below 1, or a folder with another model's results.
    """
    grid = GRIDS[config.model]
    tuning.check(config, grid)
    return Bench(config, quiet).run(grid)


# What a method reads beside the two images. The judge's scores and the captions' own grammar stand in for a reward and a captioner.
FORMS = {"smpo": "soft", "rankdpo": "soft", "soft-ipo": "soft", "capo": "margins", "dcpo": "captions", "inversion-dcpo": "captions"}


def _pairs(form: str, folder: Path) -> Path:
    """The shipped pairs (``plain``), or with a column more:

    soft       probability = sigmoid((s_chosen - s_rejected)/0.25), s the judge's scores
    margins    margin = 2 probability - 1
    captions   prompt_rejected = the prompt with each statement wrong with probability 0.3
    """
    path = folder / f"pairs_{form}.parquet"
    if not path.exists() and form == "plain":
        shutil.copyfile(shapes.PAIRS, path)
    elif not path.exists():
        rng = random.Random(0)
        write([_with(form, pair, rng) for pair in data.read(shapes.PAIRS)[0]], path)
    return path


def _with(form: str, pair: data.Pair, rng: random.Random) -> data.Pair:
    if form == "captions":
        wrong = scenes.miscaption(scenes.parse(pair.prompt), rng, dict.fromkeys(("relation", "background", "colour", "shape", "size"), 0.3))
        return dataclasses.replace(pair, prompt_rejected=wrong.caption)
    probability = 1 / (1 + math.exp(-(pair.scores[0] - pair.scores[1]) / 0.25))
    if form == "margins":
        return dataclasses.replace(pair, margin=2 * probability - 1)
    return dataclasses.replace(pair, probability=probability)
