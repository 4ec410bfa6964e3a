"""What is measured on held-out pairs and drawn from fixed seeds while a model trains."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from diffalign.objectives import reduce
from diffalign.train.batch import BatchMaker
from diffalign.train.step import preference_step


@torch.no_grad()
def held_out_metrics(model, reference, objective, maker: BatchMaker, indices: list[int], *, batch_size: int, draws: int, autocast, device) -> dict[str, float]:
    """Preference accuracy and the rest on pairs that are not trained on, always with the same draws.

    ``accuracies``: share of (pair, draw) whose margin is positive, ties one half. ``chosen_change``: mean rise of the winner's error above
    the reference's. Caption dropout and flips are off, so the numbers of two validations differ by the weights alone.
    """
    sums: dict[str, tuple[float, float]] = {}
    loss, count = 0.0, 0
    for draw in range(draws):
        for start in range(0, len(indices), batch_size):
            batch = maker(indices[start : start + batch_size], draw).to(device)
            out = preference_step(model, reference, objective, batch, autocast)
            loss, count = loss + reduce(out.terms, 1).item(), count + len(batch.ids)
            rows = dict(out.terms.metrics)
            if out.reference_error is not None:
                change = (out.policy_error - out.reference_error)[batch.comparison.pairs]
                rows |= {"chosen_change": (change[:, 0].sum(), len(change)), "rejected_change": (change[:, 1].sum(), len(change))}
            for name, (total, n) in rows.items():
                before = sums.get(name, (0.0, 0.0))
                sums[name] = (before[0] + float(total), before[1] + float(n))
    means = {name.removeprefix("rewards/"): total / max(n, 1) for name, (total, n) in sums.items()}
    return {f"held_out/{name}": value for name, value in {"loss": loss / max(count, 1), **means}.items()}


def draw_samples(model, prompts: list[str], folder: Path, *, seed: int, steps: int, guidance_scale: float, resolution: int) -> list[Path]:
    """One image a prompt by the stock pipeline, each from a generator of its own, so an image can be made again alone.

    Writes ``00.png`` ... and ``prompts.json`` (prompt, seed, settings) into ``folder``.
    """
    pipeline = model.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    training = model.denoiser.training
    model.denoiser.eval()
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i, prompt in enumerate(prompts):
        image = pipeline(
            prompt, num_inference_steps=steps, guidance_scale=guidance_scale, height=resolution, width=resolution,
            generator=torch.Generator("cpu").manual_seed(seed + i),
        ).images[0]  # fmt: skip
        paths.append(folder / f"{i:02d}.png")
        image.save(paths[-1])
    facts = {"prompts": prompts, "seeds": [seed + i for i in range(len(prompts))], "num_inference_steps": steps, "guidance_scale": guidance_scale}
    (folder / "prompts.json").write_text(json.dumps({**facts, "resolution": resolution}, indent=1))
    model.denoiser.train(training)
    return paths
