"""Every family through the trainer: it trains, and its adapter in the stock pipeline draws the trainer's own validation images."""

import json

import diffusers
import numpy as np
import pytest
import torch
from peft import PeftModel
from PIL import Image

from diffalign.models import load_model
from diffalign.train.setup import build
from tests.models.shared import unused
from tests.train.runs import config, metrics, run

PROMPTS = ["a red circle", "a green square above a small circle"]
SETTINGS = {"num_inference_steps": 3}
GUIDANCE = {"qwen_image": {"true_cfg_scale": 3.0, "negative_prompt": " "}}


@pytest.mark.parametrize("kind", ["sd3.5", "flux", "flux-schnell", "pixart_sigma", "lumina2", "qwen_image", "z_image", "sana"])
def test_a_trained_adapter_draws_the_same_in_the_stock_pipeline(kind, folders, pairs, tmp_path):
    model = load_model(folders(kind))
    side = 32 if kind == "sana" else model.image_multiple * max(1, 16 // model.image_multiple)  # SanaPipeline draws multiples of 32 only
    summary = run(
        folders(kind), pairs, tmp_path, validation_prompts=PROMPTS, num_validation_images=2, learning_rate=3e-2, seed=7, resolution=side,
        validation_inference_steps=3, validation_guidance_scale=3.0, validation_steps=3, beta=50.0,
    )  # fmt: skip
    assert summary["steps"] == 3 and all(np.isfinite(row["loss"]) for row in metrics(tmp_path) if "loss" in row)
    assert summary["step0"]["measured"] == pytest.approx(summary["step0"]["expected"], rel=1e-6)
    drawn = json.loads((tmp_path / "samples" / "step_000003" / "prompts.json").read_text())
    assert drawn["prompts"] == PROMPTS and drawn["resolution"] == side
    pipeline = getattr(diffusers, model.pipeline_class().__name__).from_pretrained(folders(kind))
    pipeline.set_progress_bar_config(disable=True)

    def images():
        for i, prompt in enumerate(PROMPTS):
            generator = torch.Generator().manual_seed(7 + i)
            arguments = {**model.sampling_arguments(prompt, side, side), **SETTINGS, **GUIDANCE.get(kind, {"guidance_scale": 3.0})}
            yield pipeline(**arguments, generator=generator, output_type="np").images[0]

    base = list(images())
    if kind == "pixart_sigma":  # diffusers has no loader there
        pipeline.transformer = PeftModel.from_pretrained(pipeline.transformer, summary["result"])
    else:
        pipeline.load_lora_weights(summary["result"])
    for i, image in enumerate(images()):
        written = np.asarray(Image.open(tmp_path / "samples" / "step_000003" / f"{i:02d}.png"), dtype=np.float64) / 255
        assert abs(image - written).max() <= 1 / 255
        assert abs(base[i] - written).max() > 2 / 255, "the adapter must show"


@pytest.mark.parametrize("kind", ["sd3.5", "flux", "lumina2", "pixart_alpha", "qwen_image", "z_image", "sana"])
def test_full_fine_tuning_moves_the_network(kind, folders, pairs, tmp_path):
    """Every tensor but the few that single steps cannot reach, and those that never get a gradient."""
    summary = run(folders(kind), pairs, tmp_path, train="full", max_train_steps=2, learning_rate=1e-2, beta=50.0, resolution=32)
    before, after = (dict(load_model(place).denoiser.named_parameters()) for place in (folders(kind), summary["result"]))
    still = [name for name in before if torch.equal(before[name], after[name]) and not unused(kind, name)]
    assert before.keys() == after.keys() and len(still) <= 0.1 * len(before), still


@pytest.mark.parametrize(("kind", "sampler"), [("flux", "LogitNormal"), ("pixart_alpha", "Uniform")])
def test_the_family_chooses_the_timesteps_unless_told(kind, sampler, folders, pairs, tmp_path):
    parts = build(config(folders(kind), pairs, tmp_path), torch.device("cpu"), quiet=True)
    assert type(parts.maker.sampler).__name__ == sampler
    parts = build(config(folders(kind), pairs, tmp_path, timesteps="uniform"), torch.device("cpu"), quiet=True)
    assert type(parts.maker.sampler).__name__ == "Uniform"
