"""Self-play: the data's own pictures against the policy's, round after round (SPIN-Diffusion, SePPO).

diffalign self-play                                           the embedded model against drawings of its world
diffalign self-play --model MODEL --data PAIRS --method seppo --rounds 4 --learning-rate 1e-5 ...

The past policies of round r = 1, 2 ... are those after rounds 0 (the initial one: no adapter, or ``init_lora``) to r - 1.

    opponent     spin-diffusion: the last of them                  seppo: one of them, drawn uniformly from (seed, r)
    pairs        chosen: a picture of the data                     rejected: the opponent's for the same prompt
    reference    the opponent
    policy       goes on from the last of them

The opponent's picture is a function of (seed, round, prompt), and each pair's ``origin`` holds its seed. A round is a folder ``round_RR``:
``pairs.parquet`` and the run of ``diffalign.train``. What is finished is kept: the same command goes on, as do more ``rounds``.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from pathlib import Path
from typing import Any

import torch

from diffalign import data, models
from diffalign.data.keys import hash_uniform
from diffalign.eval.pictures.generate import generate, seed_of
from diffalign.eval.stats.compare import compare
from diffalign.pipelines.pairs import png, write
from diffalign.pipelines.selfplay_config import DRAWN, SelfPlayConfig, claim, kept, refuse
from diffalign.train import ConfigError, TrainConfig, train
from diffalign.train.errors import setting_up
from diffalign.train.setup import load_bare
from diffalign.train.validate import quiet_libraries
from diffalign.worlds.shapes import judge, scenes

DRAWINGS = 512  # of a round, unless ``winners`` says otherwise
MEASURED = ("steps", "step0", "seconds", "warnings")  # of a training's summary, beside what is held out


@quiet_libraries(errors_only=True)
def self_play(config: SelfPlayConfig, *, quiet: bool = False) -> dict[str, Any]:
    """Run the rounds that are missing; writes ``self_play.json`` into ``output_dir`` after each.

    Returns:
        what that file holds: ``rounds`` (opponent, reference, what training measured), ``judged``, and ``result``, the last adapter.

    *Deviates:* both papers train all weights, here it is an adapter. SePPO saves a checkpoint every 30 updates and draws among all of them,
    how often our notes do not say; here checkpoints are the ends of rounds, and one opponent serves a round.

    Raises:
        ConfigError: the configuration, or an output folder that holds another run; and what ``train`` raises.
    """
    started = time.time()
    refuse(config)
    with setting_up():
        everything = [] if config.data == DRAWN else _good(config)
    folder = claim(config, data.content_key(*sorted(label.id for label in everything)))
    adapters: list[str | None] = [config.init_lora]
    summary: dict[str, Any] = {"method": config.method, "result": None, "rounds": [], "judged": [], "config": kept(config)}
    for number in range(1, config.rounds + 1):
        opponent = opponent_of(config, number)
        run = _training(config, folder / f"round_{number:02d}", adapters, opponent)
        if not Path(run.data).exists():
            write(_pairs(config, number, adapters[opponent], _winners(config, everything, number), quiet), run.data)
        if not quiet:
            print(f"round {number} of {config.rounds}: against the policy after round {opponent}, reference {run.reference}", flush=True)
        result = train(run, quiet=quiet)
        measured = {name: result[name] for name in result if name.startswith("held_out/") or name in MEASURED}
        facts = {"opponent": opponent, "opponent_adapter": adapters[opponent], "reference": run.reference, "seed": config.seed}
        adapters.append(result["result"])
        summary["rounds"].append({"round": number, **facts, "result": adapters[-1], "training": measured})
        summary["result"] = adapters[-1]
        _write(folder, summary, started)
    if config.judged_prompts:
        summary["judged"] = _judged(config, adapters, quiet)
    _write(folder, summary, started)
    return summary


def opponent_of(config: SelfPlayConfig, number: int) -> int:
    """Which past policy round ``number`` is played against: the one after that many rounds, 0 to number - 1."""
    if config.method == "spin-diffusion":
        return number - 1
    return int(hash_uniform("self-play opponent", config.seed, number) * number)


def _training(config: SelfPlayConfig, place: Path, adapters: list[str | None], opponent: int) -> TrainConfig:
    """The run of a round: the policy goes on from the last adapter, and the reference is the opponent."""
    past = adapters[opponent]
    if opponent == len(adapters) - 1:
        reference, past = "start", None
    else:
        reference = "base" if past is None else "past"
    cache = config.cache_dir or str(place.parent / "cache")
    source = {"data": str(place / "pairs.parquet"), "columns": {}, "data_split": "train"}
    return config.plain(
        **source, output_dir=str(place), cache_dir=cache, fresh=False, init_lora=adapters[-1], reference=reference, reference_lora=past
    )


def _pairs(config: SelfPlayConfig, number: int, adapter: str | None, winners: list[data.Label], quiet: bool) -> list[data.Pair]:
    """The round's pairs: each winner against the opponent's picture for its prompt, drawn in the size in which it is trained on."""
    model, settings = _sampler(config, adapter)
    resolution, multiple = config.resolution or model.default_resolution, model.image_multiple
    bucketed = config.aspect_ratio_buckets
    plan = data.Plan.aspect_ratios(resolution, multiple=multiple) if bucketed else data.Plan(resolution, multiple=multiple)
    pipeline, pairs = model.pipeline(), {}
    for height, width in plan.buckets:
        rows = [i for i, winner in enumerate(winners) if plan.bucket(winner.sample.size) == (height, width)]
        if not rows:
            continue
        pictures = generate(
            pipeline, [winners[i].prompt for i in rows], index=number, seed=config.seed, name=f"round {number}", quiet=quiet,
            height=height, width=width, **settings,
        )  # fmt: skip
        for i, picture in zip(rows, pictures, strict=True):
            winner = winners[i]
            origin = f"self-play round {number}, picture of seed {seed_of(winner.prompt, number, config.seed)}"
            loser = data.Image(data=png(picture))
            pairs[i] = data.Pair(None, winner.prompt, winner.sample, loser, weight=winner.weight, mask=winner.mask, origin=origin)
    return [pairs[i] for i in sorted(pairs)]


def _sampler(config: SelfPlayConfig, adapter: str | None) -> tuple[models.DiffusionModel, dict[str, Any]]:
    """The model with that adapter, and what its stock pipeline is asked for."""
    gpu = config.device == "auto" and torch.accelerator.is_available()
    with setting_up():
        model = load_bare(config.plain(), torch.accelerator.current_accelerator() if gpu else torch.device("cpu"))
        if adapter is not None:
            models.lora.load(model.denoiser, adapter, trainable=False)
    settings = {"num_inference_steps": config.num_inference_steps, model.guidance_argument: config.guidance_scale}
    if model.max_sequence_length is not None:
        settings["max_sequence_length"] = model.max_sequence_length
    return model, {**settings, "batch_size": config.sampling_batch_size}


def _good(config: SelfPlayConfig) -> list[data.Label]:
    """The data's good pictures; the same picture for the same prompt counts once."""
    records, _ = data.read(config.data, columns=config.columns, ties=config.ties, split=config.data_split, on_bad=config.on_bad_data)
    good = [label for label in data.as_source(records, "labels")[0] if label.label]
    if not good:
        raise ConfigError(f"{config.data} holds no good picture: of labels, some must be 1 (good)")
    return list({(label.prompt, label.sample.digest): label for label in good}.values())


def _winners(config: SelfPlayConfig, everything: list[data.Label], number: int) -> list[data.Label]:
    """Of the data, those with the smallest hashes of (seed, round, id); or fresh drawings of train prompts."""
    if config.data == DRAWN:
        prompts = scenes.prompts("train", config.winners or DRAWINGS, seed=1000 * config.seed + number)
        drawn = scenes.draw([scenes.parse(prompt) for prompt in prompts], random.Random(f"{config.seed}/{number}"))
        return [data.Label(None, prompt, data.Image(data=png(picture)), True) for prompt, picture in zip(prompts, drawn, strict=True)]
    if config.winners is None or len(everything) <= config.winners:
        return everything
    return sorted(everything, key=lambda label: hashlib.sha256(f"{config.seed}/{number}/{label.id}".encode()).digest())[: config.winners]


def _judged(config: SelfPlayConfig, adapters: list[str | None], quiet: bool) -> list[dict[str, Any]]:
    """Every round's adapter against the initial policy, on test prompts and the same noise."""
    prompts, scores = scenes.prompts("test", config.judged_prompts, seed=config.seed), []
    for number, adapter in enumerate(adapters):
        model, settings = _sampler(config, adapter)
        images = generate(model.pipeline(), prompts, seed=config.seed, name=f"to judge round {number}", quiet=quiet, **settings)
        scores.append(judge.score(images, prompts))
    return [{"round": number, **compare(score, scores[0], seed=config.seed).to_json()} for number, score in enumerate(scores) if number]


def _write(folder: Path, summary: dict[str, Any], started: float) -> None:
    summary["seconds"] = round(time.time() - started, 1)
    (folder / "self_play.json").write_text(json.dumps(summary, indent=1))
