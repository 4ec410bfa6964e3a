"""What is measured on held-out pairs and drawn from fixed seeds while a model trains."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from diffalign.objectives import Metrics, means, merge, plain, reduce
from diffalign.train.batch import BatchMaker
from diffalign.train.labels import sides_of
from diffalign.train.step import preference_step


@torch.no_grad()
def held_out_metrics(
    model, reference, objective, noising, maker: BatchMaker, batches: list[list[int]], *, draws: int, autocast=nullcontext, device="cpu",
    baseline=None,
) -> Metrics:
    """Preference accuracy and the rest on pairs that are not trained on, always with the same draws.

    Args:
        batches: indices of the pairs, those of a batch of one bucket. draws: how often each pair is measured, timestep and noise anew.

    Returns:
        sums and counts, of which ``held_out_numbers`` makes what is logged. ``rewards/accuracies``: share of (pair, draw) whose margin is
        positive, ties one half. ``chosen_change``: mean rise of the winner's error above that of ``baseline`` (a ``Reference``; the
        method's own where there is no other); and the other means. Caption dropout and flips are off in ``maker``, so the numbers of two
        validations differ by the weights alone.
    """
    found = []
    training = model.denoiser.training
    model.denoiser.eval()
    for draw in range(draws):
        for indices in batches:
            batch = maker(indices, draw).to(device)
            out = preference_step(model, reference, objective, noising, batch, autocast, baseline)
            found.append({**out.terms.metrics, "loss": (reduce(out.terms, 1), len(batch.ids))})
            if out.baseline_error is not None:
                change = out.policy_error - out.baseline_error
                found.append({f"{side}_change": (change[rows].sum(), len(rows)) for side, rows in sides_of(batch.labels).items()})
    model.denoiser.train(training)
    return merge(map(plain, found))


def held_out_numbers(sums: Metrics) -> dict[str, float]:
    """What is logged of them: ``held_out/accuracies``, ``held_out/loss`` and so on, metrics without a single unit left out."""
    return {f"held_out/{name.removeprefix('rewards/')}": value for name, value in means(sums).items()}


def draw_samples(model, prompts: list[str], folder: Path, *, seed: int, steps: int, guidance_scale: float, resolution: int) -> list[Path]:
    """One image a prompt by the stock pipeline, each from a generator of its own, so an image can be made again alone.

    Writes ``00.png`` ... and ``prompts.json`` (prompts, seeds, settings) into ``folder``.
    """
    training = model.denoiser.training
    model.denoiser.eval()
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with quiet_libraries(errors_only=True):
        pipeline = model.pipeline()
        pipeline.set_progress_bar_config(disable=True)
        for i, prompt in enumerate(prompts):
            image = pipeline(
                **model.sampling_arguments(prompt, resolution, resolution), num_inference_steps=steps,
                generator=torch.Generator("cpu").manual_seed(seed + i), **{model.guidance_argument: guidance_scale},
            ).images[0]  # fmt: skip
            paths.append(folder / f"{i:02d}.png")
            image.save(paths[-1])
    settings = {"num_inference_steps": steps, "guidance_scale": guidance_scale, "resolution": resolution}
    facts = {"prompts": prompts, "seeds": [seed + i for i in range(len(prompts))], **settings}
    (folder / "prompts.json").write_text(json.dumps(facts, indent=1))
    model.denoiser.train(training)
    return paths


@contextmanager
def averaged(ema, parameters) -> Iterator[None]:
    """Within it the moving average, where one is kept, stands in the policy's place."""
    if ema is None:
        yield
        return
    parameters = list(parameters)
    ema.store(parameters)
    ema.copy_to(parameters)
    try:
        yield
    finally:
        ema.restore(parameters)


@contextmanager
def quiet_libraries(errors_only: bool = False) -> Iterator[None]:
    """Within it diffusers and transformers show no bars for every part they load or save, and with ``errors_only`` no notes either.

    (Downloads keep their bars, which are the hub's. The notes are silenced for sampling, where every prompt that is cut gives one each
    time; while a model loads they may matter.)
    """
    import diffusers.utils.logging
    import transformers.utils.logging

    libraries = (diffusers.utils.logging, transformers.utils.logging)
    before = [(logging, logging.get_verbosity(), logging.is_progress_bar_enabled()) for logging in libraries]
    for logging in libraries:
        logging.disable_progress_bar()
        if errors_only:
            logging.set_verbosity_error()
    try:
        yield
    finally:
        for logging, verbosity, bars in before:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()
