"""Every point of the space of methods takes a step on a real tiny UNet, or says why it does not exist."""

import dataclasses
import itertools

import pytest
import torch

from diffalign import objectives
from diffalign.data import TensorCache
from diffalign.denoising import Draws
from diffalign.methods import CONDITIONING, NOISING, Point
from diffalign.models import load_model, lora, make_reference
from diffalign.objectives import Comparison, Labels, Rankings
from diffalign.objectives.rows import OTHERS, PAIRS
from diffalign.train.batch import Batch
from diffalign.train.noising import Noising
from diffalign.train.step import preference_step
from tests.models.shared import jolt

OPTIONS = {"beta": 5.0}
MEASURED = {"reference", "size", "extra:drift", "extra:cross", "extra:balance"}  # what a denoising step can give an objective
FAMILY = {row.name for row in (*PAIRS, *OTHERS)}  # what diffusion methods are made of
ROWS = [name for name, row in objectives.TABLE.items() if row.needs <= MEASURED and row.takes in ("pairs", "labels", "rankings")]


@pytest.fixture(scope="module")
def model(folders):
    model = load_model(str(folders("sd15")))
    lora.add(model.denoiser, rank=2, alpha=2, targets="attention", seed=0)
    jolt(model.denoiser)
    return model


def labels(point: Point):
    source = point.source
    if source == "labels":
        return Labels(torch.tensor([True, False, True, False]))
    if source == "rankings":
        return Rankings(torch.tensor([0, 1, 0, 1]), torch.tensor([1.0, 0.0, 0.2, 0.6]))
    objective = point.build_objective()
    return Comparison.halves(2, margin=0.1 if "margin" in objective.reads | objective.ignores else 0.0)


def batch(model, point: Point) -> Batch:
    """Two records of two samples; with dual captions the sides differ in text."""
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(4, *model.latent_shape(16, 16), generator=generator)
    noise = torch.randn(4, *x0.shape[1:], generator=generator)
    if point.noising == "shared":
        noise[2:] = noise[:2]
    captions = ["a red cat", "a blue dog", "a red dog", "a blue cat"] if point.conditioning == "dual captions" else ["a red cat"] * 4
    t = torch.tensor([300, 700, 300, 700])
    return Batch(["a", "b"], x0, noise, t, model.encode_prompts(captions), labels(point), [Draws(0, "a"), Draws(0, "b")])


def default_point(name: str, **choices) -> Point:
    options = {key: value for key, value in OPTIONS.items() if key in objectives.TABLE[name].options}
    return Point(name, options, **choices)


@pytest.mark.parametrize("name", ROWS)
def test_every_combination_runs_or_is_refused(model, name):
    ran = 0
    row = objectives.TABLE[name]
    noisings = NOISING if name in FAMILY else NOISING[:1]  # where x_t comes from is no matter of the link: the family has it all
    for noising, conditioning, kind in itertools.product(noisings, CONDITIONING, ("none", "start", "ema")):
        inversion = {"steps": 3} if noising.endswith("-inversion") else {}
        point = default_point(name, noising=noising, conditioning=conditioning, reference=kind, inversion=inversion)
        impossible = (conditioning == "dual captions" and row.takes != "pairs") or (kind == "none" and "reference" in row.needs)
        assert bool(point.refusals()) == impossible, (point, point.refusals())
        if impossible:
            continue
        reference = None if kind == "none" else make_reference(kind, model, continued_adapter=True)
        out = preference_step(model, reference, point.build_objective(), Noising(point), batch(model, point))
        if "adapter" in str(type(reference)).lower() and lora.adapter_names(model.denoiser) != ["default"]:
            model.denoiser.delete_adapters("reference")
        assert torch.isfinite(out.terms.loss).all() and out.terms.loss.requires_grad
        ran += 1
    assert ran >= 2 * len(noisings)


def test_unpublished_combinations_are_what_they_say(model):
    """Inversion with dual captions, soft labels in IPO, and an inversion without any reference: each differs from its parts."""

    def losses(point):
        reference = None if point.reference == "none" else make_reference(point.reference, model, continued_adapter=True)
        try:
            return preference_step(model, reference, point.build_objective(), Noising(point), batch(model, point)).terms.loss.detach()
        finally:
            if "reference" in lora.adapter_names(model.denoiser):
                model.denoiser.delete_adapters("reference")

    inverted = {"noising": "ddim-inversion", "inversion": {"steps": 3}}
    points = [
        default_point("mapo", reference="none"),
        default_point("mapo", reference="none", **inverted),
        default_point("mapo", reference="none", conditioning="dual captions"),
        default_point("mapo", reference="none", conditioning="dual captions", **inverted),
    ]
    found = [losses(point) for point in points]
    assert all((a - b).abs().max() > 1e-6 for a, b in itertools.combinations(found, 2))


def test_inversion_by_hand(model):
    """x_t is what ``Inversion`` makes with the policy, and the noise leads from x0 to it."""
    point = default_point("mapo", reference="none", noising="renoise-inversion", inversion={"steps": 4})
    rows = batch(model, point)
    x_t, noise = Noising(point)(model, None, rows)
    expected = point.build_inversion().invert(lambda x, t: model.predict(x, t, rows.conditioning), model.path, rows.x0, rows.t)
    torch.testing.assert_close(x_t, expected.detach(), rtol=0, atol=1e-6)
    torch.testing.assert_close(model.path.add_noise(rows.x0, noise, rows.t), x_t, rtol=0, atol=1e-5)
    assert not x_t.requires_grad and (noise[:2] - noise[2:]).abs().max() > 0.1


def test_the_noise_of_eta_is_counted(model):
    point = default_point("mapo", reference="none", noising="ddim-inversion", inversion={"steps": 4, "eta": 0.5})
    rows = batch(model, point)
    first, second = (Noising(point)(model, None, rows)[0] for _ in range(2))
    assert torch.equal(first, second)
    still = default_point("mapo", reference="none", noising="ddim-inversion", inversion={"steps": 4})
    assert (Noising(still)(model, None, rows)[0] - first).abs().max() > 0.01


def test_levels_of_the_reference_are_made_once(model):
    """What is kept gives the x_t of the whole way; only the first use follows it, and other latents or captions are others' levels."""
    point = default_point("dpo", noising="ddim-inversion", inversion={"steps": 4}, inverted_by="reference", reference="base")
    reference, rows = make_reference("base", model, continued_adapter=True), batch(model, point)
    whole, kept, calls = Noising(point)(model, reference, rows)[0], Noising(point, TensorCache(None, {})), []
    hook = model.denoiser.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        for expected in (3 + 1, 1):  # three whole steps between the four levels and the part of one up to t; then that alone
            calls.clear()
            torch.testing.assert_close(kept(model, reference, rows)[0], whole, rtol=0, atol=1e-5)
            assert len(calls) == expected
        later = dataclasses.replace(rows, t=torch.tensor([500, 900, 500, 900]))
        torch.testing.assert_close(kept(model, reference, later)[0], Noising(point)(model, reference, later)[0], rtol=0, atol=1e-5)
        assert len(kept.levels) == 4
        moved = dataclasses.replace(rows, x0=torch.cat([rows.x0[:3], rows.x0[3:] + 1]))
        kept(model, reference, moved)
        assert len(kept.levels) == 5
    finally:
        hook.remove()


@pytest.mark.parametrize("choices, posterior, reason", [
    ({}, "mean", "this one is none"),
    ({"noising": "ddim-inversion"}, "mean", "by the policy"),
    ({"noising": "ddim-inversion", "inverted_by": "reference", "reference": "ema"}, "mean", "reference ema"),
    ({"noising": "ddim-inversion", "inverted_by": "reference", "inversion": {"eta": 0.1}}, "mean", "set eta to 0"),
    ({"noising": "ddim-inversion", "inverted_by": "reference"}, "sample", "set posterior mean"),
])  # fmt: skip
def test_what_cannot_be_kept_says_why(choices, posterior, reason):
    assert reason in default_point("dpo", **choices).not_cacheable(posterior)


def test_an_inversion_by_a_frozen_reference_can_be_kept():
    assert default_point("dpo", noising="renoise-inversion", inverted_by="reference").not_cacheable("mean") is None
