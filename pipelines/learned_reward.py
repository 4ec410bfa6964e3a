"""A reward learned from the shapes world's pairs, and how often it agrees with the judge that labelled them.

python -m diffalign.pipelines.learned_reward [--output-dir runs/learned_reward] [--split dev]
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from diffalign import data
from diffalign.eval.pictures.generate import generate
from diffalign.eval.stats.compare import mean_ci
from diffalign.models import load_model
from diffalign.pipelines.pairs import build_pairs
from diffalign.rewards import Reward, load_reward
from diffalign.train.reward import train_reward
from diffalign.train.reward_config import RewardConfig
from diffalign.train.reward_run import by_gap
from diffalign.worlds import shapes
from diffalign.worlds.shapes import judge, scenes

MODEL = "builtin:shapes"
# A CLIP from scratch on the 1,259 shipped pairs and nothing else. Chosen on dev prompts (docs/shapes.md).
TRAINING = RewardConfig(
    data=str(shapes.PAIRS), tokenizer=str(shapes.MODEL / "tokenizer_2"), network={"image_size": scenes.RESOLUTION}, in_batch_negatives=True,
    max_train_steps=300, train_batch_size=48, learning_rate=1e-3, lr_scheduler="cosine", lr_warmup_steps=30, adam_beta2=0.99,
    adam_weight_decay=0.05, held_out=0.05, device="cpu",
)  # fmt: skip
SURE = 2.2  # a gap of scores at which the better picture is preferred with probability sigmoid(2.2) = 0.9
PAIR_PROMPTS, PAIR_SAMPLES = 1000, 4


@dataclass(frozen=True)
class LearnedConfig:
    """Learn a reward from the shipped pairs and compare it with the judge on unseen prompts."""

    output_dir: str = "runs/learned_reward"
    """The run, and learned_reward.json."""
    seed: int = 0
    """Of the network, the order, and the pictures that are compared."""
    split: Literal["dev", "test"] = "test"
    """Prompts to compare on: settings are chosen on dev, results are reported on test."""
    prompts: int = 400
    """Of them, so many."""
    samples: int = 4
    """Pictures a prompt: the judge's best against its worst."""
    in_batch_negatives: bool = True
    """Off: the softmax of a pair's two images alone, as PickScore was trained."""


def learn(folder: str | Path, seed: int = 0, *, quiet: bool = False, **settings: Any) -> tuple[Reward, dict[str, Any]]:
    """A reward from the shipped pairs, and the summary of its training. settings: of ``TRAINING``, to be had otherwise."""
    config = dataclasses.replace(TRAINING, output_dir=str(folder), seed=seed, **settings)
    summary = train_reward(config, quiet=quiet)
    return load_reward("pickscore", summary["result"]), summary


def agreement(reward: Reward, pictures: torch.Tensor, prompts: list[str], seed: int = 0) -> dict[str, Any]:
    """How often the reward prefers what the judge calls the best of a prompt's pictures to what it calls the worst.

    Args:
        pictures: (samples, N, 3, H, W) in [0, 1], of 8 bits.
    Returns:
        accuracy, its 95 % interval, the number of prompts whose pictures differ to the judge, and the same by gap of the judge's scores.
    """
    scores = torch.stack([judge.score(images, prompts) for images in pictures])
    best, worst = scores.max(0), scores.min(0)
    rows = torch.arange(len(prompts))
    margins = reward.score(pictures[best.indices, rows], prompts) - reward.score(pictures[worst.indices, rows], prompts)
    gaps = best.values - worst.values
    margins, gaps = margins[gaps > 0], gaps[gaps > 0]
    won = (margins > 0) + 0.5 * (margins == 0)
    facts = {"accuracy": float(won.mean()), "accuracy_ci": mean_ci(won.numpy(), seed=seed), "pairs": len(won)}
    return facts | {"by_gap": by_gap(margins.tolist(), gaps.tolist())}


def sample_pairs(pipeline, reward: Reward, seed: int, quiet: bool = False) -> list[data.Pair]:
    """On-policy pairs labelled by the reward: of four pictures the best against the worst, where it is sure of the order.

    Prompts are training prompts that the shipped pairs do not have: on those the reward would repeat the labels it was taught.
    """
    taught = {pair.prompt for pair in data.read(shapes.PAIRS)[0]}
    prompts = [prompt for prompt in scenes.prompts("train", PAIR_PROMPTS + len(taught), seed=seed) if prompt not in taught][:PAIR_PROMPTS]
    settings = dict(samples=PAIR_SAMPLES, min_gap=SURE, seed=seed, quiet=quiet, **shapes.SAMPLING[MODEL])
    return build_pairs(pipeline, prompts, reward.score, **settings)


def judged(pairs: list[data.Pair]) -> float:
    """The share of pairs whose order the judge agrees with, a tie counting one half."""
    sides = [[torch.stack([_pixels(pair.images[side]) for pair in pairs]), [pair.prompt for pair in pairs]] for side in (0, 1)]
    margins = judge.score(*sides[0]) - judge.score(*sides[1])
    return float(((margins > 0) + 0.5 * (margins == 0)).mean())


def _pixels(image: data.Image) -> torch.Tensor:
    """(3, H, W) in [0, 1]."""
    picture = image.load()
    return torch.tensor(list(picture.tobytes()), dtype=torch.uint8).view(picture.height, picture.width, 3).movedim(-1, 0) / 255


def learned_reward(config: LearnedConfig, *, quiet: bool = False) -> dict[str, Any]:
    """Learn, compare, write ``learned_reward.json``; returns what was found."""
    folder = Path(config.output_dir)
    reward, summary = learn(folder / "run", config.seed, quiet=quiet, fresh=True, in_batch_negatives=config.in_batch_negatives)
    pipeline = load_model(MODEL).pipeline()
    prompts = scenes.prompts(config.split, config.prompts, seed=config.seed + 1)
    settings = dict(seed=config.seed + 1, quiet=quiet, name="pictures to compare", **shapes.SAMPLING[MODEL])
    pictures = torch.stack([generate(pipeline, prompts, index=k, **settings) for k in range(config.samples)])
    found = {
        "what": f"the judge's best against its worst of {config.samples} pictures of unseen prompts: how often the learned reward agrees",
        "split": config.split,
        **agreement(reward, (pictures * 255).round() / 255, prompts, config.seed),
        "training": {name: summary[name] for name in ("steps", "pairs", "held_out", "seconds")},
        "settings": {"compared": _portable(dataclasses.asdict(config)), "training": _portable(summary["config"])},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "learned_reward.json").write_text(json.dumps(found, indent=1))
    return found


def _portable(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without places of this machine."""
    place, kept = str(shapes.ASSETS), {name: value for name, value in settings.items() if name != "output_dir"}
    return {name: value.replace(place, MODEL) if isinstance(value, str) else value for name, value in kept.items()}


if __name__ == "__main__":
    import tyro

    print(json.dumps(learned_reward(tyro.cli(LearnedConfig, prog="python -m diffalign.pipelines.learned_reward")), indent=1))
