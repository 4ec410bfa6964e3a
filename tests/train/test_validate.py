"""Held-out numbers, validation images, the moving average, and the adapter in a stock pipeline."""

import json
import math

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import load_file

from diffalign.train.setup import build
from diffalign.train.validate import averaged, held_out_metrics, held_out_numbers, quiet_libraries
from tests.models.shared import jolt
from tests.train.runs import config, metrics, result, run


@pytest.fixture(scope="module")
def parts(folders, pairs, tmp_path_factory):
    return build(config(folders("sd15"), pairs, tmp_path_factory.mktemp("run"), held_out=0.5), torch.device("cpu"), quiet=True)


def measure(parts):
    sums = held_out_metrics(
        parts.model, parts.reference, parts.objective, parts.noising, parts.held_out_maker, parts.held_out, draws=3, baseline=parts.baseline
    )
    return held_out_numbers(sums)


def test_no_prompt_is_on_both_sides(parts):
    store = parts.maker.store
    train = [i for step in range(parts.order.batches_an_epoch) for _, indices in parts.order.step(step) for i in indices]
    held_out = [i for indices in parts.held_out for i in indices]
    assert sorted(train + held_out) == list(range(8)) and train and held_out
    assert {store.records[i].prompt for i in train} & {store.records[i].prompt for i in held_out} == set()


def test_unchanged_weights_measure_the_same(parts):
    first = measure(parts)
    weights = [parts.maker.store.records[i].weight for indices in parts.held_out for i in indices]
    assert first["held_out/accuracies"] == 0.5 and first["held_out/chosen_change"] == 0.0
    assert first["held_out/loss"] == pytest.approx(math.log(2) * sum(weights) / len(weights), rel=1e-6)
    before = {name: parameter.detach().clone() for name, parameter in parts.trainable.items()}
    jolt(parts.model.denoiser)
    moved = measure(parts)
    torch.rand(5)  # the global generator has no part in it
    assert measure(parts) == moved != first and parts.model.denoiser.training
    with torch.no_grad():
        for name, parameter in parts.trainable.items():
            parameter.copy_(before[name])
    assert measure(parts) == first


def test_changes_are_told_against_the_base_whatever_the_reference(folders, pairs, tmp_path):
    """Without a reference, and with a moving one (which jolts with the policy here): the numbers that the frozen base gives."""
    told = []
    for choice in ({}, {"reference": "ema"}, {"method": "mapo"}):
        parts = build(config(folders("sd15"), pairs, tmp_path, held_out=0.5, **choice), torch.device("cpu"), quiet=True)
        assert measure(parts)["held_out/chosen_change"] == 0.0
        jolt(parts.model.denoiser)
        numbers = measure(parts)
        told.append([numbers[f"held_out/{side}_change"] for side in ("chosen", "rejected")])
    assert told[0] == told[1] == told[2] and 0.0 not in told[0]


def test_every_validation_is_kept(folders, pairs, tmp_path):
    summary = run(folders("sd15"), pairs, tmp_path, held_out=0.5, validation_steps=2, held_out_draws=1, max_train_steps=5)
    rows = [row for row in metrics(tmp_path) if "held_out/loss" in row]
    assert [row["step"] for row in rows] == [2, 4, 5]
    assert {"step": 5, **{name: value for name, value in summary.items() if name.startswith("held_out/")}} == rows[-1]


def test_too_few_prompts_to_hold_any_out_is_said(folders, pairs, tmp_path):
    summary = run(folders("sd15"), pairs, tmp_path, held_out=1e-6, max_train_steps=1)
    assert any("no held-out accuracy" in note for note in summary["notes"]) and "held_out/loss" not in summary
    assert "not measured" in (tmp_path / "README.md").read_text()


def test_limits_of_pairs(folders, pairs, tmp_path):
    summary = run(folders("sd15"), pairs, tmp_path, held_out=0.5, max_pairs=1, max_held_out_pairs=1, max_train_steps=1)
    (note,) = (note for note in summary["notes"] if note.startswith("pairs:"))
    assert note.startswith("pairs: 1 to train on, ") and "(1 measured)" in note


@pytest.mark.parametrize("ema", [None, 0.5])
def test_the_adapter_in_a_stock_pipeline_draws_the_validation_images(ema, folders, pairs, tmp_path):
    prompts = ["a red circle", "a green square above a small circle"]
    summary = run(
        folders("sdxl"), pairs, tmp_path, validation_prompts=prompts, num_validation_images=2, validation_inference_steps=4,
        learning_rate=3e-2, seed=7, ema_decay=ema, lora_alpha=3.0, validation_steps=3,
    )  # fmt: skip
    drawn = json.loads((tmp_path / "samples" / "step_000003" / "prompts.json").read_text())
    assert drawn == {"prompts": prompts, "seeds": [7, 8], "num_inference_steps": 4, "guidance_scale": 5.0, "resolution": 16}
    pipeline = StableDiffusionXLPipeline.from_pretrained(folders("sdxl"))
    pipeline.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 4, "guidance_scale": 5.0, "height": 16, "width": 16, "output_type": "np"}

    def images():
        return [pipeline(prompt, generator=torch.Generator().manual_seed(7 + i), **settings).images[0] for i, prompt in enumerate(prompts)]

    base = images()
    pipeline.load_lora_weights(summary["result"])
    for i, image in enumerate(images()):
        written = np.asarray(Image.open(tmp_path / "samples" / "step_000003" / f"{i:02d}.png"), dtype=np.float64) / 255
        assert abs(image - written).max() <= 1 / 255
        assert abs(base[i] - written).max() > 3 / 255, "the adapter must show"


def test_the_result_is_the_moving_average(folders, pairs, tmp_path):
    """diffusers' EMA: the decay of update n is min(decay, n / (9 + n)), counted so that the first update copies: 0, 2/11, 3/12, 4/13."""
    kept = {"checkpointing_steps": 1, "checkpoints_total_limit": 9}
    summary = run(folders("sd15"), pairs, tmp_path, ema_decay=0.24, max_train_steps=4, learning_rate=1e-2, **kept)
    average = None
    for step, decay in enumerate((0.0, 2 / 11, 0.24, 0.24), start=1):
        weights = load_file(tmp_path / f"checkpoint-{step:08d}" / "trainable.safetensors")
        average = {k: w.double() if average is None else decay * average[k] + (1 - decay) * w.double() for k, w in weights.items()}
    saved = result(summary)
    for name, tensor in average.items():
        key = "unet." + name.replace(".default", "")
        assert torch.allclose(saved[key].double(), tensor, atol=1e-6), name
        assert not torch.allclose(weights[name].double(), tensor, atol=1e-6), name


def test_the_average_is_put_back_also_after_an_error():
    from diffusers.training_utils import EMAModel

    parameter = torch.nn.Parameter(torch.ones(3))
    ema = EMAModel([parameter])
    with torch.no_grad():
        parameter.fill_(5.0)
    with pytest.raises(RuntimeError), averaged(ema, [parameter]):
        assert parameter.tolist() == [1.0] * 3
        raise RuntimeError
    assert parameter.tolist() == [5.0] * 3


def test_the_libraries_do_not_flood_the_output(folders, pairs, tmp_path, capfd):
    """Two validations of prompts far too long for the tokenizer, and a full save: no bars but ours, no note for every prompt."""
    long = "a large red circle above a small blue square on a white background " * 4
    run(
        folders("sdxl"), pairs, tmp_path, train="full", validation_prompts=[long], num_validation_images=1, validation_inference_steps=1,
        max_train_steps=2, validation_steps=1,
    )  # fmt: skip
    out, err = capfd.readouterr()
    assert out == "" and err == ""


def test_what_was_switched_off_comes_back():
    import diffusers.utils.logging as d
    import transformers.utils.logging as t

    before = [(m.get_verbosity(), m.is_progress_bar_enabled()) for m in (d, t)]
    with quiet_libraries(errors_only=True):
        assert [(m.get_verbosity(), m.is_progress_bar_enabled()) for m in (d, t)] == [(d.ERROR, False), (t.ERROR, False)]
    assert [(m.get_verbosity(), m.is_progress_bar_enabled()) for m in (d, t)] == before
    assert before[0][1] and before[1][1]
