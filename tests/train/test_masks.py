"""Masks from the record to the loss: what is outside does not count, ones change no bits, and a run with masks trains."""

import dataclasses

import pytest
import torch
from PIL import Image

from diffalign import methods
from diffalign.denoising import Draws, denoising_error
from diffalign.models import make_reference
from diffalign.train.noising import Noising
from diffalign.train.setup import build
from diffalign.train.step import preference_step
from tests.models.shared import jolt
from tests.train.runs import config, result, run, write_pairs
from tests.train.test_methods import COLUMNS

LEFT, RIGHT, TOP = (0, 0, 8, 16), (8, 0, 16, 16), (0, 0, 16, 8)  # of 16 x 16 pixels


def masked(folder, boxes, **columns) -> str:
    """Pairs with a white box each on black as their mask; None: a pair without one."""
    paths = []
    for i, box in enumerate(boxes):
        paths.append(None)
        if box is not None:
            (folder / "masks").mkdir(parents=True, exist_ok=True)
            picture = Image.new("L", (16, 16))
            picture.paste(255, box)
            picture.save(folder / "masks" / f"{i}.png")
            paths[-1] = f"masks/{i}.png"
    return str(write_pairs(folder, len(boxes), mask=paths, **columns))


def parts(folders, data, tmp_path, **changes):
    made = build(config(folders("sd15"), data, tmp_path / "run", **changes), torch.device("cpu"), quiet=True)
    jolt(made.model.denoiser)
    return made


def test_the_batch_carries_masks_for_both_sides_and_mirrors_them(folders, tmp_path):
    maker = parts(folders, masked(tmp_path / "data", [LEFT, None, TOP, LEFT]), tmp_path, flip=True, caption_dropout=0.0).maker
    batch = maker([0, 1, 2], draw=0)
    assert batch.mask.shape == (6, 1, 8, 8) and torch.equal(batch.mask[:3], batch.mask[3:])
    assert torch.equal(batch.mask[1], torch.ones(1, 8, 8)) and batch.mask[2, 0, :4].min() == 1 and batch.mask[2, 0, 4:].max() == 0
    halves = {tuple(maker([0], draw).mask[0, 0].mean(0).tolist()) for draw in range(20)}
    assert halves == {(1.0,) * 4 + (0.0,) * 4, (0.0,) * 4 + (1.0,) * 4}
    for draw in range(6):  # the mask is mirrored exactly when the latents are
        batch, variants = maker([0], draw), (maker.store[0, False], maker.store[0, True])
        posterior = Draws(maker.seed, "pair-0", draw).normal("posterior", variants[0].mean.shape)
        used = next(variant for variant in variants if torch.equal(variant.mean + variant.std * posterior, batch.x0))
        assert torch.equal(batch.mask[0, 0], used.mask)
    assert maker([1], draw=0).mask is None, "where everything counts there is no mask"


@pytest.mark.parametrize("name", ["dpo", "dspo", "sdpo", "linear-dpo", "sft"])
def test_no_gradient_reaches_the_prediction_outside_the_mask(name, folders, tmp_path):
    """... of any objective: drift, cross and balance are masked as the error is."""
    options = {"objective_options": {"anchor_weight": 0.5}} if name != "sft" else {}
    beta = {} if name == "sft" else {"beta": 5.0}
    made = parts(folders, masked(tmp_path / "data", [LEFT, LEFT]), tmp_path, method="diffusion-dpo", objective=name, **beta, **options)
    seen = []
    handle = made.model.denoiser.conv_out.register_full_backward_hook(lambda module, inputs, outputs: seen.append(outputs[0]))
    reference = make_reference("start", made.model, continued_adapter=True)
    out = preference_step(made.model, reference, made.objective, Noising(config("m", "d", "o").point()), made.maker([0, 1], 0))
    out.terms.loss.sum().backward()
    handle.remove()
    (gradient,) = seen
    assert gradient[..., :4].abs().max() > 0 and gradient[..., 4:].abs().max() == 0


def test_the_error_of_a_step_is_the_mean_over_the_mask(folders, tmp_path):
    made = parts(folders, masked(tmp_path / "data", [LEFT, None]), tmp_path)
    batch = made.maker([0, 1], 0)
    out = preference_step(made.model, made.reference, made.objective, made.noising, batch)
    with torch.no_grad():
        prediction = made.model.predict(made.noising(made.model, made.reference, batch)[0], batch.t, batch.conditioning)
    target = made.model.path.target(batch.x0, batch.noise, batch.t)
    square = (prediction - target) ** 2
    expected = torch.stack([square[i, :, :, :4].mean() if i in (0, 2) else square[i].mean() for i in range(4)])
    torch.testing.assert_close(out.policy_error.detach(), expected, rtol=1e-5, atol=0)
    whole = preference_step(made.model, made.reference, made.objective, made.noising, dataclasses.replace(batch, mask=None))
    assert (whole.policy_error[[0, 2]] - out.policy_error[[0, 2]]).abs().min() > 1e-4


def test_a_mask_of_ones_changes_no_bits(folders, tmp_path):
    plain = run(folders("sd15"), write_pairs(tmp_path / "plain", 4), tmp_path / "a", held_out=0.0)
    ones = run(folders("sd15"), masked(tmp_path / "ones", [(0, 0, 16, 16)] * 4), tmp_path / "b", held_out=0.0)
    first, second = result(plain), result(ones)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(2, 3, 4, 8, 8, generator=generator)
    torch.testing.assert_close(denoising_error(prediction, target, torch.ones(3, 1, 8, 8)), denoising_error(prediction, target),
                               rtol=1e-6, atol=0)  # fmt: skip


def test_a_run_with_masks_trains_and_says_so(folders, tmp_path):
    plain = result(run(folders("sd15"), write_pairs(tmp_path / "plain", 4), tmp_path / "a"))
    data = masked(tmp_path / "data", [LEFT, TOP, None, RIGHT])
    summary = run(folders("sd15"), data, tmp_path / "b", aspect_ratio_buckets=False, flip=True)
    assert "masks: errors count within the mask of 3 pairs, and everywhere in 1" in summary["notes"]
    assert "errors count within the mask of 3 pairs" in (tmp_path / "b" / "README.md").read_text()
    found = result(summary)
    assert summary["step0"]["measured"] == pytest.approx(summary["step0"]["expected"], rel=1e-6)
    assert max((found[name] - plain[name]).abs().max() for name in plain) > 1e-4
    assert "masks:" not in "".join(run(folders("sd15"), tmp_path / "plain", tmp_path / "c")["notes"])


@pytest.mark.parametrize("method", ["diffusion-kto", "rankdpo", "inpo"])
def test_labels_rankings_and_inversions_take_masks(method, folders, tmp_path):
    """Labels and rankings made of masked pairs keep the masks; an inversion sees the whole picture and its error the mask."""
    columns = {name: values[:4] for name, values in COLUMNS.get(method, {}).items()}
    data = masked(tmp_path / "data", [LEFT, TOP, None, RIGHT], **columns)
    settings = {"inversion": {"steps": "2"}} if methods.get(method).point.inverts else {}
    summary = run(folders("sd15"), data, tmp_path / "run", method=method, max_train_steps=1, **settings)
    assert any(note.startswith("masks: errors count within the mask of") for note in summary["notes"])


def test_a_black_mask_stops_the_run_by_name(folders, tmp_path):
    with pytest.raises(ValueError, match="the mask of pair-1 .* is black"):
        run(folders("sd15"), masked(tmp_path / "data", [LEFT, (20, 0, 24, 0)]), tmp_path / "run")
