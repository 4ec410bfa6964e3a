"""The whole way on the embedded model: pairs, alignment by Diffusion-DPO, evaluation on unseen prompts with controls, a report."""

from __future__ import annotations

import dataclasses
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from diffalign import data
from diffalign.eval import report
from diffalign.eval.compare import compare, mean_ci
from diffalign.eval.generate import generate
from diffalign.models import load_model
from diffalign.pipelines.pairs import build_pairs, to_pil, write
from diffalign.train import TrainConfig, train
from diffalign.worlds import shapes
from diffalign.worlds.shapes import judge, scenes

SAMPLING = {"num_inference_steps": 12, "guidance_scale": 2.0}
TRAINING = TrainConfig(
    model="builtin:shapes", train="lora", lora_rank=8, beta=2000.0, learning_rate=3e-4, lr_warmup_steps=10, max_train_steps=150,
    train_batch_size=16, caption_dropout=0.1, held_out=0.1, held_out_draws=2, num_validation_images=0, checkpointing_steps=10**6,
    cache_batch_size=64, device="cpu",
)  # fmt: skip


@dataclass(frozen=True)
class DemoConfig:
    """Align the embedded model and measure what it brought."""

    output_dir: str = "runs/demo"
    seed: int = 0
    """Of everything: adapter, order, noise, and the pictures that are judged."""
    fresh_pairs: bool = False
    """Sample and label the training pairs now, instead of taking the shipped ones (about 4 minutes more)."""
    prompts: int = 400
    """Unseen prompts that judge the result."""


def demo(config: DemoConfig, *, quiet: bool = False) -> dict:
    """Run it; writes ``summary.json``, ``report.html``, ``grid.png`` and the adapter (``lora/``) into ``output_dir``.

    Returns:
        the summary. Every number in it was measured in this run.
    """
    started, folder = time.time(), Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    model = load_model(TRAINING.model)
    pipeline = model.pipeline()
    prompts = scenes.prompts("test", config.prompts, seed=config.seed)

    pairs = folder / "pairs.parquet" if config.fresh_pairs else shapes.PAIRS
    if config.fresh_pairs:
        asked = scenes.prompts("train", 1200, seed=config.seed + 1)
        write(build_pairs(pipeline, asked, judge.score, seed=config.seed, quiet=quiet, **SAMPLING), pairs)
    shuffled = _shuffle_labels(pairs, folder / "shuffled.parquet", config.seed)

    def pictures(index: int, adapter: str | None = None) -> torch.Tensor:
        if adapter:
            pipeline.load_lora_weights(adapter)
        images = generate(pipeline, prompts, index=index, seed=config.seed, quiet=quiet, **SAMPLING)
        pipeline.unload_lora_weights()
        return images

    runs = {}
    for name, source in (("aligned", pairs), ("shuffled", shuffled)):
        settings = {"data": str(source), "output_dir": str(folder / name), "seed": config.seed, "fresh": True}
        runs[name] = train(dataclasses.replace(TRAINING, **settings), quiet=quiet)
    images = {
        "base": pictures(0),
        "aligned": pictures(0, runs["aligned"]["result"]),
        "base on other noise": pictures(1),
        "shuffled labels": pictures(0, runs["shuffled"]["result"]),
        "ceiling": _through_the_vae(model, prompts, config.seed),
    }
    scores = {name: judge.score(x, prompts).numpy() for name, x in images.items()}
    spread = {name: _distance_to_others(images[name]) for name in ("base", "aligned")}
    result = compare(scores["aligned"], scores["base"], seed=config.seed)
    controls = {name: compare(scores[name], scores["base"], seed=config.seed) for name in ("base on other noise", "shuffled labels")}
    mean = {name: float(values.mean()) for name, values in scores.items()}
    summary = {
        "win_rate": result.win_rate,
        "win_rate_ci": result.win_rate_ci,
        "score_base": mean["base"],
        "score_aligned": mean["aligned"],
        "score_ceiling": mean["ceiling"],
        "gap_closed": (mean["aligned"] - mean["base"]) / (mean["ceiling"] - mean["base"]),
        "n_prompts": len(prompts),
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
    _report(folder, summary, prompts, images, scores, result, controls)
    return summary


def _shuffle_labels(pairs: Path, target: Path, seed: int) -> Path:
    """The same pairs with the sides of a random half exchanged: what training makes of labels that say nothing."""
    records, _ = data.read(pairs)
    rng = random.Random(seed)
    swapped = [dataclasses.replace(r, chosen=r.rejected, rejected=r.chosen, scores=None) if rng.random() < 0.5 else r for r in records]
    return write([dataclasses.replace(record, id=None, scores=None) for record in swapped], target)


@torch.no_grad()
def _through_the_vae(model, prompts: list[str], seed: int) -> torch.Tensor:
    """Clean drawings of the prompts, encoded and decoded: the best a perfect denoiser could show."""
    drawn = scenes.draw([scenes.parse(prompt) for prompt in prompts], random.Random(seed))
    mean, _ = model.encode_images(drawn * 2 - 1)
    return (model.vae.decode(mean / model.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)


def _distance_to_others(images: torch.Tensor, others: int = 16) -> torch.Tensor:
    """(N,) root mean square pixel distance of each picture to the next ``others`` prompts' pictures: does the model draw one thing only?"""
    flat = images.flatten(1)
    return torch.stack([(flat - flat.roll(k, 0)).square().mean(1).sqrt() for k in range(1, others + 1)]).mean(0)


def _report(folder, summary, prompts, images, scores, result, controls) -> None:
    def row(i):
        before, after = (report.Picture(to_pil(images[name][i]), name, float(scores[name][i])) for name in ("base", "aligned"))
        return report.Comparison(prompts[i], before, after)

    some = random.Random(summary["settings"]["demo"]["seed"]).sample(range(len(prompts)), 16)
    change = scores["aligned"] - scores["base"]
    grids = [
        report.Grid("A random sample", "Same prompt, same noise, before and after.", [row(i) for i in some]),
        report.Grid("Most changed", "The largest differences of the judge's score, in either direction.", [row(i) for i in abs(change).argsort()[::-1][:16]]),
    ]
    low, high = result.win_rate_ci
    intervals = [report.Interval("aligned against base", result.win_rate, low, high, "above one half", low > 0.5)]
    for name, control in controls.items():
        intervals.append(report.Interval(name, control.win_rate, *control.win_rate_ci, "a control: must not lie above one half", control.win_rate_ci[0] <= 0.5))
    curves = [curve for curve in (_curve(folder / "aligned" / "metrics.jsonl", *spec) for spec in CURVES) if curve]
    facts = [
        ("win rate", f"{result.win_rate:.3f}", f"95 % interval {low:.3f} to {high:.3f}, {result.n_prompts} unseen prompts"),
        ("score", f"{summary['score_base']:.3f} to {summary['score_aligned']:.3f}", f"ceiling {summary['score_ceiling']:.3f}: clean drawings through the autoencoder"),
        ("gap closed", f"{100 * summary['gap_closed']:.0f} %", "of the way from the base to that ceiling"),
        ("all right", f"{100 * summary['all_right']['base']:.0f} % to {100 * summary['all_right']['aligned']:.0f} %", "pictures that score above 0.9"),
    ]
    wins = "The aligned model wins" if low > 0.5 else "No clear winner"
    report.write_report(
        folder / "report.html", title="diffalign demo: Diffusion-DPO on builtin:shapes", facts=facts, intervals=intervals, grids=grids, curves=curves,
        verdict=f"{wins}: {100 * result.win_rate:.0f} % of unseen prompts look better after alignment.",
        lead=f"95 % interval {100 * low:.0f} to {100 * high:.0f} %. {result.wins} wins, {result.ties} ties, {result.losses} losses, judged from the pixels.",
        provenance={"settings": summary["settings"], "seconds": summary["seconds"], "warnings": summary["training"]["aligned"]["warnings"]},
    )  # fmt: skip
    report.contact_sheet(grids, folder / "grid.png")


CURVES = [
    ("Loss", "Starts at ln 2, where policy and reference agree.", {"loss": "loss"}, {"ln 2": 0.6931}),
    ("Accuracy", "Share of pairs whose margin is positive.", {"training": "rewards/accuracies", "held out": "held_out/accuracies"}, {"chance": 0.5}),
    ("Error against the reference", "What the loss alone hides: the winner's error should not climb.", {"chosen": "error/chosen_change", "rejected": "error/rejected_change"}, {"reference": 0.0}),
]  # fmt: skip


def _curve(path: Path, title: str, note: str, names: dict[str, str], lines: dict[str, float]) -> report.Curve | None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    series = {label: [(row["step"], row[name]) for row in rows if name in row] for label, name in names.items()}
    return report.Curve(title, note, "optimizer step", {k: v for k, v in series.items() if v}, lines) if any(series.values()) else None
