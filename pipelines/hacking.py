"""Do the reward-hacking checks work? Models of the shapes world that are hacked on purpose, and healthy ones, judged by eval.checks.

python -m diffalign.pipelines.hacking --part thresholds      three of each kind on dev prompts: what thresholds were set on
python -m diffalign.pipelines.hacking --part first           five of each kind on test prompts, seeds 0 to 4
python -m diffalign.pipelines.hacking --part second          seeds 5 to 9, after "duplicates" was changed by what the first showed
python -m diffalign.pipelines.hacking --part judged          seeds 10 to 14, with the thresholds that all others together gave: the result

Both kinds are Diffusion-DPO on the same shipped pairs, which are samples of the base. What differs is who says which side is better, and
how large the steps are:

    healthy   the judge, as shipped                                                         the demo's settings
    hacked    "redness" (even seeds) or "jpeg-size" (odd seeds): neither reads the prompt   four times its learning rate

each for 80 steps, but the healthy ones that are judged last as long as the demo's, 260. What is finished is kept: the same command goes on.
"""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from diffalign import data
from diffalign.eval.hacking.checks import CHECKS, check, verdict
from diffalign.eval.pictures.generate import generate
from diffalign.eval.stats.compare import compare
from diffalign.models import load_model
from diffalign.pipelines.demo import SAMPLING, TRAINING
from diffalign.pipelines.pairs import write
from diffalign.rewards import Reward, load_reward
from diffalign.rewards.function import FunctionReward
from diffalign.train import train
from diffalign.train.validate import quiet_libraries
from diffalign.worlds import shapes
from diffalign.worlds.shapes import judge, scenes

STEPS = 80
HACKED = dataclasses.replace(TRAINING, max_train_steps=STEPS, learning_rate=4 * TRAINING.learning_rate)  # chosen on seeds 200 and 201
PARTS = {  # split of the prompts, seeds of both kinds, steps of the healthy ones
    "thresholds": ("dev", (100, 101, 102), STEPS),
    "first": ("test", (0, 1, 2, 3, 4), STEPS),
    "second": ("test", (5, 6, 7, 8, 9), STEPS),
    "judged": ("test", (10, 11, 12, 13, 14), TRAINING.max_train_steps),
}


@dataclass(frozen=True)
class HackingConfig:
    """Train hacked and healthy models, and ask the checks which is which."""

    output_dir: str = "runs/hacking"
    """Trainings, findings of every model, and hacking.json."""
    part: Literal["thresholds", "first", "second", "judged"] = "judged"
    """The seeds that are judged, or those on which thresholds were set."""
    prompts: int = 150
    """Of dev (thresholds) or test (all else), so many."""


# Rewards ------------------------------------------------------------------------------------------------------------------------------


def redness(images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    """Mean over pixels of R - (G + B) / 2: a reward that no prompt has a say in."""
    red, green, blue = images.mean((2, 3)).unbind(1)
    return red - (green + blue) / 2


def _facet(name: str):
    return lambda images, prompts: judge.facets(images, prompts)[name]


HACKABLE: dict[str, Reward] = {"redness": FunctionReward("redness", redness, "tensor", False, False), "jpeg-size": load_reward("jpeg-size")}
JUDGE = FunctionReward("judge", judge.score, "tensor", True, False)
HELD_OUT: dict[str, Reward] = {  # but for the one that was trained on
    **{name: FunctionReward(name, _facet(name), "tensor", True, False) for name in judge.WEIGHTS}, "jpeg-size": HACKABLE["jpeg-size"],
}  # fmt: skip


# The experiment -----------------------------------------------------------------------------------------------------------------------


@quiet_libraries(errors_only=True)
def hacking(config: HackingConfig, *, quiet: bool = False) -> dict[str, Any]:
    """Train what is missing, check every model; writes ``hacking.json`` with all parts, as far as they are there."""
    _, seeds, _ = PARTS[config.part]
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    models = [checked(config, folder, seed, kind, quiet) for seed in seeds for kind in ("hacked", "healthy")]
    path = folder / "hacking.json"
    summary = json.loads(path.read_text()) if path.exists() else {"what": " ".join(__doc__.split("\n")[0].split())}
    flagged = {kind: [bool(model["flagged"]) for model in models if model["kind"] == kind] for kind in ("hacked", "healthy")}
    summary[config.part] = {
        "split": PARTS[config.part][0], "prompts": config.prompts, "thresholds": {name: limit for name, (limit, _) in CHECKS.items()},
        "flagged": {kind: f"{sum(found)} of {len(found)}" for kind, found in flagged.items()}, "models": models,
    }  # fmt: skip
    path.write_text(json.dumps(summary, indent=1))
    return summary


def checked(config: HackingConfig, folder: Path, seed: int, kind: str, quiet: bool = False) -> dict[str, Any]:
    """One model: trained, drawn, scored and checked, unless that was done before; thresholds are those of now."""
    split, _, steps = PARTS[config.part]
    place, reward = folder / f"{kind}_{seed}", "judge" if kind == "healthy" else list(HACKABLE)[seed % 2]
    started = time.time()
    settings, pairs = dataclasses.replace(TRAINING, max_train_steps=steps), shapes.PAIRS
    if kind == "hacked":
        settings, pairs = HACKED, relabelled(HACKABLE[reward], folder / f"{reward}.parquet")
    places = {"data": str(pairs), "output_dir": str(place), "cache_dir": str(folder / "cache")}
    result = train(dataclasses.replace(settings, seed=seed, **places), quiet=quiet)
    prompts = scenes.prompts(split, config.prompts, seed=seed)
    base = pictures(folder / f"base_{split}_{seed}_{config.prompts}.pt", prompts, seed, None, quiet)
    model = pictures(place / f"pictures_{config.prompts}.pt", prompts, seed, result["result"], quiet)
    rewards = {reward: {**HACKABLE, "judge": JUDGE}[reward], **HELD_OUT}
    scores = [{name: one.score(images, prompts).double().numpy() for name, one in rewards.items()} for images in (base, model)]
    findings = check(base, model, prompts, None, *scores, reward, rewards, seed=seed)
    said = verdict(findings)
    if not quiet:
        print(f"{kind} {seed} ({reward}): {said.sentence}", flush=True)
    true = [judge.score(images, prompts).double().numpy() for images in (model, base)]
    return {
        "kind": kind, "seed": seed, "train_reward": reward, "flagged": list(said.flagged),
        "win_rate_by_judge": round(compare(*true, seed=seed).win_rate, 4),
        "means": {name: [round(float(np.mean(side[name])), 4) for side in scores] for name in rewards},
        "findings": {finding.name: [_short(finding.to_json()["value"]), finding.flagged] for finding in findings},
        "training": {key: result[key] for key in ("steps", "warnings") if key in result}, "seconds": round(time.time() - started, 1),
    }  # fmt: skip


def relabelled(reward: Reward, target: Path) -> Path:
    """The shipped pairs with the better side by ``reward`` as the chosen one; pairs that it does not tell apart are left out."""
    if target.exists():
        return target
    records, _ = data.read(shapes.PAIRS)
    prompts = [record.prompt for record in records]
    chosen, rejected = (reward.score([record.images[side].load() for record in records], prompts) for side in (0, 1))
    pairs = []
    for record, a, b in zip(records, chosen.tolist(), rejected.tolist(), strict=True):
        if a != b:
            best, worst = (record.chosen, record.rejected) if a > b else (record.rejected, record.chosen)
            pairs.append(dataclasses.replace(record, id=None, chosen=best, rejected=worst, scores=(max(a, b), min(a, b))))
    return write(pairs, target)


def pictures(path: Path, prompts: list[str], seed: int, adapter: str | None, quiet: bool) -> torch.Tensor:
    """(N, 3, H, W) in [0, 1] by the base, or with an adapter, of 8 bits; kept in ``path``."""
    if not path.exists():
        pipeline = load_model(TRAINING.model).pipeline()
        if adapter is not None:
            pipeline.load_lora_weights(adapter)
        images = generate(pipeline, prompts, seed=seed, name=path.stem, quiet=quiet, **SAMPLING)
        torch.save((images * 255).round().byte(), path)
    return torch.load(path, weights_only=True).float() / 255


def _short(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    import tyro

    found = hacking(tyro.cli(HackingConfig, prog="python -m diffalign.pipelines.hacking"))
    print(json.dumps({part: found[part]["flagged"] for part in PARTS if part in found}, indent=1))
