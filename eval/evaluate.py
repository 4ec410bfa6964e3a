"""``diffalign eval``: models, prompts and rewards in; who wins, how sure that is, and whether the rewards were only hacked, out."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffalign.eval import outcomes
from diffalign.eval.distances.features import load_features
from diffalign.eval.eval_config import EvalConfig, is_world
from diffalign.eval.evaluation import Evaluation, ModelResult, Prompts, Sample
from diffalign.eval.hacking.checks import CHECKS, check
from diffalign.eval.pictures.generate_model import load_drawer
from diffalign.eval.pictures.generate_set import generate_set
from diffalign.eval.pictures.prompts import SHAPES, load_prompts
from diffalign.eval.pictures.sets import METADATA, RECORD, ImageSet, black_report, paired
from diffalign.rewards import Reward, load_reward
from diffalign.rewards.manifests_items import Item
from diffalign.rewards.manifests_items import Sample as File
from diffalign.rewards.score import score_items
from diffalign.rewards.score_cache import ScoreCache

OURS = {"shapes-judge": "diffalign.worlds.shapes.judge:score"}  # rewards that belong to an embedded world
PACKAGES = ("diffalign", "torch", "diffusers", "transformers", "peft", "numpy", "pillow")


def evaluate(config: EvalConfig, *, command: str = "", quiet: bool = False) -> Evaluation:
    """Draw what is missing, score it, compare, check. Nothing of the result depends on the time, the batches, or what was there before.

    Raises:
        ValueError: models whose pictures do not belong together (the difference is shown), a reward that can score nothing, and what
            ``load_prompts``, ``load_drawer``, ``generate_set`` and ``load_reward`` raise.
    """
    places = config.places()
    baseline, *others = places
    ids = config.rewards or (["shapes-judge"] if is_world(places[baseline]) else ["pickscore"])
    rewards = {name: load_reward(OURS.get(name, name), config.weights.get(name), device=config.torch_device) for name in ids}
    prompts, sets = _pictures(config, places, quiet)
    order = {name: _like(sets[baseline], sets[name]) for name in sets}
    scores = {name: _scored(config, sets[name], order[name], rewards, quiet) for name in sets}
    items, groups = sets[baseline].items, np.array(sets[baseline].groups)
    comparisons = outcomes.comparisons(scores, groups, baseline, config.confidence)
    checked = bool(config.train_rewards) if config.checks is None else config.checks
    paths = {name: [sets[name].items[row].path for row in order[name]] for name in sets}
    trained = config.train_rewards[0] if config.train_rewards else None
    findings = {}
    for name in others if checked else ():
        findings[name] = [
            found.to_json()
            for found in check(
                paths[baseline], paths[name], sets[baseline].prompts, groups, scores[baseline], scores[name],
                trained, rewards, checks=tuple(CHECKS), seed=config.seed, confidence=config.confidence,
            )  # fmt: skip
        ]
    return Evaluation(
        title=f"{', '.join(others)} against {baseline}",
        command=command,
        baseline=baseline,
        models=tuple(
            ModelResult(name, places[name], len(drawn), () if name == baseline else tuple(config.train_rewards), drawn.settings)
            for name, drawn in sets.items()
        ),
        prompts=prompts,
        comparisons=comparisons,
        rewards={name: reward.state() for name, reward in rewards.items()},
        ranking=outcomes.rankings(scores, groups, baseline, config.confidence),
        categories=outcomes.categories(scores, groups, np.array([item.category for item in items]), baseline, config.confidence),
        findings=findings,
        distribution=_distribution(config, paths, groups, baseline),
        samples=tuple(
            Sample(
                item.prompt_id, item.prompt, item.category, item.index, item.seed,
                {name: Path(os.path.relpath(paths[name][row], config.output_dir)).as_posix() for name in sets},
                {name: {key: float(values[row]) for key, values in scores[name].items()} for name in sets},
            )
            for row, item in enumerate(items)
        ),  # fmt: skip
        warnings=tuple([*black_report(sets.values()), *_unscored(scores)]),
        settings={key: value for key, value in dataclasses.asdict(config).items() if key not in ("output_dir", "cache", "device")},
        versions={name: metadata.version(name) for name in PACKAGES},
        confidence=config.confidence,
    )


def _pictures(config: EvalConfig, places: Mapping[str, str], quiet: bool) -> tuple[Prompts, dict[str, ImageSet]]:
    """The prompts, and every model's pictures: drawn into ``output_dir/images``, or read where a model is a folder of pictures."""
    first, wanted, sets = next(iter(places.values())), None, {}
    for name, place in places.items():
        if any((Path(place) / file).is_file() for file in (RECORD, METADATA)):
            sets[name] = dataclasses.replace(ImageSet.read(place), model=name)
            continue
        if wanted is None:
            listed = config.prompts or (SHAPES if is_world(first) else "diffalign")
            wanted = load_prompts(listed, config.count, config.seed, config.prompts_file, quiet=quiet)
        options = {"dtype": getattr(torch, config.dtype), "device": config.torch_device}
        drawer = load_drawer(place, base=None if _is_model(place) else config.base, **options)
        drawn = generate_set(
            drawer, wanted, Path(config.output_dir) / "images" / _slug(name), images_per_prompt=config.images_per_prompt, seed=config.seed,
            same_noise=config.same_noise, guidance_scale=config.guidance_scale, num_inference_steps=config.num_inference_steps,
            height=config.height, width=config.width, batch_size=config.batch_size, quiet=quiet,
        )  # fmt: skip
        sets[name] = dataclasses.replace(drawn.images, model=name)
    if wanted is None:
        return Prompts("as drawn", len(set(next(iter(sets.values())).groups))), sets
    return Prompts(wanted.name, len(wanted), wanted.digest, str(wanted.about.get("licence") or "")), sets


def _like(baseline: ImageSet, other: ImageSet) -> np.ndarray:
    """(N,) the rows of ``other`` that belong to the baseline's, in their order. Raises ValueError where they do not belong together."""
    known = all(item.seed is not None for item in (*baseline.items, *other.items))
    return paired(baseline, other, same_seeds=known).b


def _scored(
    config: EvalConfig, drawn: ImageSet, order: np.ndarray, rewards: Mapping[str, Reward], quiet: bool
) -> dict[str, np.ndarray]:
    """reward -> (N,) scores in the baseline's order, NaN where there is none."""
    cache = ScoreCache(config.cache or Path(config.output_dir) / "scores")
    items = [Item(str(item.path), File(item.path), item.prompt) for item in (drawn.items[row] for row in order)]
    try:
        found = score_items(items, rewards, cache=cache, batch_size=config.batch_size, quiet=quiet or None)
    finally:
        cache.close()
    for name, errors in found.errors.items():
        if all(error is not None for error in errors):
            raise ValueError(f"{name} could score none of the pictures of {drawn.model}; the first error: {errors[0]}")
    return {name: np.array(values, dtype=np.float64) for name, values in found.scores.items()}


def _distribution(config: EvalConfig, paths: Mapping[str, list], groups: np.ndarray, baseline: str) -> dict[str, dict[str, Any]]:
    """model -> measure -> {value, n, note}: of all models what is about one set, of the others what compares with the baseline."""
    found: dict[str, dict[str, Any]] = {name: {} for name in paths} if config.features else {}
    for name in config.features:
        extractor = load_features(name, device=config.torch_device)
        features = {model: extractor(files) for model, files in paths.items()}
        for model, rows in features.items():
            against = None if model == baseline else features[baseline]
            found[model] |= {f"{key}, {name}": value for key, value in outcomes.spread(rows, against, groups, extractor.caution).items()}
    return found


def _unscored(scores: Mapping[str, Mapping[str, np.ndarray]]) -> list[str]:
    return [
        f"{model}: {int(np.isnan(values).sum())} of {len(values)} pictures have no score by {reward}; their prompts are left out of it"
        for model, rows in scores.items()
        for reward, values in rows.items()
        if np.isnan(values).any()
    ]


def _is_model(given: str) -> bool:
    """Whether a place is a model of its own, which needs no base: anything but the folder or file of an adapter."""
    place = Path(given)
    return is_world(given) or not place.exists() or (place / "model_index.json").is_file() or (place / "config.yaml").is_file()


def _slug(name: str) -> str:
    """A folder's name for a model's: its letters and digits."""
    return re.sub(r"[^\w.]+", "-", name).strip("-.") or "model"
