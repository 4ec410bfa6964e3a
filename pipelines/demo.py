"""The whole way on the embedded model: pairs, alignment by Diffusion-DPO, evaluation on unseen prompts with controls, a report."""

from __future__ import annotations

import dataclasses
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from diffalign import data
from diffalign.eval.pictures.generate import generate
from diffalign.eval.stats.compare import compare, mean_ci
from diffalign.models import load_model
from diffalign.pipelines import learned_reward
from diffalign.pipelines.demo_page import write_page
from diffalign.pipelines.pairs import build_pairs, write
from diffalign.rewards import Reward
from diffalign.train import ConfigError, TrainConfig, train
from diffalign.train.problems import checked
from diffalign.train.validate import quiet_libraries
from diffalign.worlds import shapes
from diffalign.worlds.shapes import judge, scenes

MIN_PROMPTS, MAX_PROMPTS = 17, 800
PAIR_PROMPTS, PAIRING = 1500, {"samples": 6, "min_gap": 0.3}
TRAINING = TrainConfig(
    model="builtin:shapes", train="lora", lora_rank=8, lora_targets="attention+ff", beta=500.0, learning_rate=2e-3, lr_scheduler="cosine",
    max_train_steps=260, train_batch_size=16, caption_dropout=0.1, held_out=0.1, held_out_draws=2, num_validation_images=0,
    validation_steps=10**6, checkpointing_steps=10**6, cache_batch_size=64, device="cpu",
)  # fmt: skip
SAMPLING = shapes.SAMPLING[TRAINING.model]


@dataclass(frozen=True)
class DemoConfig:
    """Align the embedded model and measure what it brought."""

    output_dir: str = "runs/demo"
    seed: int = 0
    """Of everything: adapter, order, noise, and the pictures that are judged."""
    fresh_pairs: bool = False
    """Sample and label the training pairs now, as the shipped ones were, instead of taking those (some minutes more)."""
    reward: Literal["judge", "learned"] = "judge"
    """What labels the training pairs: the judge, or a reward that is learned from the shipped pairs first and then labels fresh ones of
    other prompts (some minutes more). The judge has the last word either way."""
    prompts: int = 400
    """Unseen prompts that judge the result."""
    max_train_steps: int = TRAINING.max_train_steps
    """Optimizer steps of the alignment, and of its control."""


@quiet_libraries(errors_only=True)
def demo(config: DemoConfig, *, quiet: bool = False) -> dict:
    """Run it; writes ``summary.json``, ``report.html``, ``grid.png`` and the adapter (``aligned/lora/``) into ``output_dir``.

    Returns:
        the summary. Every number in it was measured in this run.

    Raises:
        ConfigError: fewer than 17 prompts (a picture is compared with those of 16 others); more than 800 (near the whole test split).
    """
    if not MIN_PROMPTS <= config.prompts <= MAX_PROMPTS:
        raise ConfigError(f"prompts is {config.prompts}; allowed are {MIN_PROMPTS} to {MAX_PROMPTS} (400 is what the README reports)")
    checked(dataclasses.replace(TRAINING, data="pairs", max_train_steps=config.max_train_steps))
    started, folder = time.time(), Path(config.output_dir)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file: use another --output-dir")
    folder.mkdir(parents=True, exist_ok=True)
    model = load_model(TRAINING.model)
    pipeline = model.pipeline()
    prompts = scenes.prompts("test", config.prompts, seed=config.seed)

    pairs, learned, about_reward = shapes.PAIRS, None, {}
    if config.reward == "learned":
        learned, about_reward = learned_pairs(pipeline, folder, config.seed, quiet)
        pairs = folder / "pairs.parquet"
    elif config.fresh_pairs:
        pairs = write(sample_pairs(pipeline, config.seed + 1, quiet), folder / "pairs.parquet")
    shuffled = _shuffle_labels(pairs, folder / "shuffled.parquet", config.seed)

    def pictures(name: str, index: int, adapter: str | None = None) -> torch.Tensor:
        if adapter:
            pipeline.load_lora_weights(adapter)
        images = generate(pipeline, prompts, index=index, seed=config.seed, name=name, quiet=quiet, **SAMPLING)
        pipeline.unload_lora_weights()
        return images.mul(255).round().div(255)  # what a saved picture holds, so that ``diffalign eval`` finds the same

    runs = {}
    for name, source in (("aligned", pairs), ("shuffled", shuffled)):
        settings = {
            "data": str(source),
            "output_dir": str(folder / name),
            "cache_dir": str(folder / "cache"),
            "seed": config.seed,
            "fresh": True,
            "max_train_steps": config.max_train_steps,
        }
        runs[name] = train(dataclasses.replace(TRAINING, **settings), quiet=quiet)
    images = {
        "base": pictures("base", 0),
        "aligned": pictures("aligned", 0, runs["aligned"]["result"]),
        "base on other noise": pictures("base on other noise", 1),
        "shuffled labels": pictures("shuffled labels", 0, runs["shuffled"]["result"]),
        "ceiling": through_the_vae(model, prompts, config.seed),
    }
    scores = {name: judge.score(x, prompts).numpy() for name, x in images.items()}
    spread = {name: _distance_to_others(images[name]) for name in ("base", "aligned")}
    result = compare(scores["aligned"], scores["base"], seed=config.seed)
    controls = {name: compare(scores[name], scores["base"], seed=config.seed) for name in ("base on other noise", "shuffled labels")}
    mean = {name: float(values.mean()) for name, values in scores.items()}
    if learned is not None:
        told = {name: learned.score(images[name], prompts).numpy() for name in ("base", "aligned")}
        about_reward["aligned_by_it"] = compare(told["aligned"], told["base"], seed=config.seed).to_json()
    summary = {
        "win_rate": result.win_rate,
        "win_rate_ci": result.win_rate_ci,
        "score_base": mean["base"],
        "score_aligned": mean["aligned"],
        "score_ceiling": mean["ceiling"],
        "gap_closed": (mean["aligned"] - mean["base"]) / (mean["ceiling"] - mean["base"]),
        "n_prompts": len(prompts),
        "labels": {"by": config.reward, **about_reward},
        "controls": {name: control.to_json() for name, control in controls.items()},
        "diversity": {
            "what": "root mean square distance of a picture to the pictures of 16 other prompts",
            **{name: float(values.mean()) for name, values in spread.items()},
            "change_ci": mean_ci((spread["aligned"] - spread["base"]).numpy(), seed=config.seed),
        },
        "facets": {name: {k: float(v.mean()) for k, v in judge.facets(images[name], prompts).items()} for name in ("base", "aligned")},
        "all_right": {name: float((scores[name] > 0.9).mean()) for name in ("base", "aligned", "ceiling")},
        "training": runs,
        "settings": {"demo": dataclasses.asdict(config), "sampling": SAMPLING, "training": TRAINING.to_dict()},
        "seconds": round(time.time() - started, 1),
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1))
    write_page(folder, summary, prompts, images, scores, result, controls)
    return summary


def sample_pairs(pipeline, seed: int = 0, quiet: bool = False) -> list[data.Pair]:
    """On-policy pairs of training prompts, labelled by the judge, as the shipped ones were made (with seed 0)."""
    return build_pairs(
        pipeline, scenes.prompts("train", PAIR_PROMPTS, seed=seed), judge.score, seed=seed, quiet=quiet, **PAIRING, **SAMPLING
    )


def learned_pairs(pipeline, folder: Path, seed: int, quiet: bool = False) -> tuple[Reward, dict]:
    """Learns a reward from the shipped pairs, labels fresh pictures of other prompts with it, writes them as ``folder/pairs.parquet``.

    Returns:
        the reward, and what the summary says of it: its training, how many pairs there are, and how often the judge agrees with them.
    """
    reward, training = learned_reward.learn(folder / "reward", seed, quiet=quiet, fresh=True)
    pairs = learned_reward.sample_pairs(pipeline, reward, seed + 1, quiet)
    write(pairs, folder / "pairs.parquet")
    return reward, {"training": training, "pairs": len(pairs), "judge_agrees": learned_reward.judged(pairs)}


def _shuffle_labels(pairs: Path, target: Path, seed: int) -> Path:
    """The same pairs with the sides of a random half exchanged: what training makes of labels that say nothing."""
    records, _ = data.read(pairs)
    rng = random.Random(seed)
    swapped = [dataclasses.replace(r, chosen=r.rejected, rejected=r.chosen, scores=None) if rng.random() < 0.5 else r for r in records]
    return write([dataclasses.replace(record, id=None, scores=None) for record in swapped], target)


@torch.no_grad()
def through_the_vae(model, prompts: list[str], seed: int) -> torch.Tensor:
    """Clean drawings of the prompts, encoded and decoded: the best a perfect denoiser could show."""
    drawn = scenes.draw([scenes.parse(prompt) for prompt in prompts], random.Random(seed))
    mean, _ = model.encode_images(drawn * 2 - 1)
    return (model.vae.decode(mean / model.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)


def _distance_to_others(images: torch.Tensor, others: int = 16) -> torch.Tensor:
    """(N,) root mean square pixel distance of each picture to the next ``others`` prompts' pictures: does the model draw one thing only?"""
    flat = images.flatten(1)
    return torch.stack([(flat - flat.roll(k, 0)).square().mean(1).sqrt() for k in range(1, others + 1)]).mean(0)


if __name__ == "__main__":  # sample the pairs that ship: python -m diffalign.pipelines.demo
    print(write(sample_pairs(load_model(TRAINING.model).pipeline()), shapes.PAIRS))
