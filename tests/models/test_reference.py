"""Every kind of reference: equal at the start, standing still (or trailing) afterwards, and invisible to the policy."""

import copy

import pytest
import torch

from diffalign.models import load_model, lora, make_reference
from tests.models.shared import inputs, jolt


def full(model, tmp_path):
    model.denoiser.requires_grad_(True)


def fresh_lora(model, tmp_path):
    lora.add(model.denoiser, rank=2, alpha=4, seed=0)


def continued_lora(model, tmp_path):
    other = load_model(model.name)
    lora.add(other.denoiser, rank=2, alpha=4, seed=0)
    jolt(other.denoiser)
    lora.save(other, tmp_path)
    lora.load(model.denoiser, tmp_path)


SETUPS = {
    ("start", full): True,
    ("ema", full): True,
    ("base", fresh_lora): True,
    ("start", fresh_lora): True,
    ("ema", fresh_lora): True,
    ("base", continued_lora): False,
    ("start", continued_lora): True,
    ("ema", continued_lora): True,
}


def state_of(denoiser):
    """Everything a reference forward could leave behind."""
    values = {name: parameter.detach().clone() for name, parameter in denoiser.named_parameters()}
    flags = [parameter.requires_grad for parameter in denoiser.parameters()]
    layers = [(layer.disable_adapters, list(layer.active_adapters)) for layer in lora.adapter_layers(denoiser)]
    return values, flags, [module.training for module in denoiser.modules()], layers


def same(one, two):
    return one[1:] == two[1:] and one[0].keys() == two[0].keys() and all(torch.equal(one[0][key], two[0][key]) for key in one[0])


@pytest.mark.parametrize(("kind", "setup"), SETUPS, ids=lambda value: value if isinstance(value, str) else value.__name__)
def test_reference(kind, setup, folders, tmp_path):
    model = load_model(folders("sdxl"))
    setup(model, tmp_path)
    reference = make_reference(kind, model, continued_adapter=setup is continued_lora, ema=0.5 if kind == "ema" else None)
    model.denoiser.train()
    model.denoiser.mid_block.eval()  # a mode of its own, which has to survive
    batch = inputs(model)

    start = model.predict(*batch)
    before = state_of(model.denoiser)
    first = reference.predict(*batch)
    assert not first.requires_grad and same(state_of(model.denoiser), before)
    assert reference.kind == kind and kind in reference.describe()
    assert reference.equals_policy_at_start == SETUPS[kind, setup] == torch.equal(first, start)

    policy = model.predict(*batch)  # the reference runs between the policy's forward and its backward
    reference.predict(*batch)
    policy.float().square().mean().backward()
    assert all(parameter.grad is not None for parameter in lora.trainable_parameters(model.denoiser))
    old = [parameter.detach().clone() for parameter in lora.trainable_parameters(model.denoiser)]
    jolt(model.denoiser)
    moved = model.predict(*batch)
    assert torch.equal(reference.predict(*batch), first)  # the policy moved, the reference did not
    reference.update()
    assert torch.equal(model.predict(*batch), moved)
    assert torch.equal(reference.predict(*batch), first) == (kind != "ema")
    if kind == "ema":
        for shadow, then, now in zip(reference.average.shadow_params, old, lora.trainable_parameters(model.denoiser), strict=True):
            assert torch.allclose(shadow, 0.5 * then + 0.5 * now)  # the decay holds from the first update on


@pytest.mark.parametrize(("kind", "setup"), [("ema", fresh_lora), ("start", continued_lora), ("start", fresh_lora)])
def test_state_survives_a_restart(kind, setup, folders, tmp_path):
    model = load_model(folders("sdxl"))
    setup(model, tmp_path)
    reference = make_reference(kind, model, continued_adapter=setup is continued_lora)
    jolt(model.denoiser)
    reference.update()
    batch = inputs(model)
    expected, state = reference.predict(*batch), copy.deepcopy(reference.state_dict())

    again = load_model(folders("sdxl"))
    setup(again, tmp_path)
    if kind == "start" and setup is continued_lora:
        jolt(again.denoiser, seed=5)  # as if the reference were made too late
    other = make_reference(kind, again, continued_adapter=setup is continued_lora)
    other.load_state_dict(state)
    assert torch.equal(other.predict(*batch), expected)


def test_gradients_are_those_without_a_reference_under_checkpointing(folders, tmp_path):
    def gradients(with_reference):
        model = load_model(folders("sdxl"))
        continued_lora(model, tmp_path)
        model.denoiser.enable_gradient_checkpointing()
        model.denoiser.train()
        reference = make_reference("start", model, continued_adapter=True) if with_reference else None
        batch = inputs(model)
        prediction = model.predict(*batch)
        if reference is not None:
            reference.predict(*batch)
        prediction.square().mean().backward()
        return [parameter.grad for parameter in lora.trainable_parameters(model.denoiser)]

    assert all(torch.equal(one, two) for one, two in zip(gradients(True), gradients(False), strict=True))


def test_second_adapter_stays_out_of_the_saved_file_and_the_pipeline(folders, tmp_path):
    model = load_model(folders("sdxl"))
    continued_lora(model, tmp_path)
    make_reference("start", model, continued_adapter=True)
    jolt(model.denoiser)
    lora.save(model, tmp_path / "out")
    again = load_model(folders("sdxl"))
    lora.load(again.denoiser, tmp_path / "out")
    assert lora.adapter_names(again.denoiser) == ["default"]
    assert torch.equal(again.predict(*inputs(again)), model.predict(*inputs(model)))
    assert model.pipeline().unet.active_adapters() == ["default"]


def test_second_adapter_leaves_the_random_state(folders, tmp_path):
    model = load_model(folders("sd15"))
    continued_lora(model, tmp_path)
    before = torch.get_rng_state()
    make_reference("start", model, continued_adapter=True)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("setup", [fresh_lora, continued_lora])
@pytest.mark.parametrize("kind", ["sdxl", "sd3"])
def test_a_past_adapter_stands_beside_the_policy(kind, setup, folders, tmp_path):
    """Of other layers and another rank than the policy's; exact, frozen, and back after a resume."""
    past = load_model(folders(kind))
    lora.add(past.denoiser, rank=3, alpha=6, targets="attention+ff", seed=5)
    jolt(past.denoiser, seed=5)
    lora.save(past, tmp_path / "past")
    model = load_model(folders(kind))
    setup(model, tmp_path)
    model.denoiser.train()
    before, batch = state_of(model.denoiser), inputs(model)
    policy = model.predict(*batch)
    reference = make_reference("past", model, continued_adapter=setup is continued_lora, past=str(tmp_path / "past"))
    assert reference.kind == "past" and not reference.equals_policy_at_start and str(tmp_path / "past") in reference.describe()
    expected = past.denoiser.eval() and past.predict(*batch)
    assert (reference.predict(*batch) - expected).abs().max() < 1e-6 and (expected - policy).abs().max() > 1e-3
    after = state_of(model.denoiser)
    assert all(torch.equal(after[0][name], value) for name, value in before[0].items() if "lora" in name)
    assert {name for name, parameter in model.denoiser.named_parameters() if parameter.requires_grad} == {
        name for name, flag in zip(before[0], before[1], strict=True) if flag
    }
    assert torch.equal(model.predict(*batch), policy) and all(names == ["default"] for _, names in after[3])
    jolt(model.denoiser)
    assert (reference.predict(*batch) - expected).abs().max() < 1e-6
    state = reference.state_dict()
    for parameter in state.values():
        parameter += 1
    reference.load_state_dict(state)
    assert (reference.predict(*batch) - expected).abs().max() > 1e-3
    lora.save(model, tmp_path / "policy")
    again = load_model(folders(kind))
    lora.load(again.denoiser, tmp_path / "policy")
    assert (again.denoiser.eval() and again.predict(*batch) - model.predict(*batch)).abs().max() < 1e-6


def test_none_and_errors(folders, tmp_path):
    model = load_model(folders("sd15"))
    assert make_reference("none", model) is None
    with pytest.raises(ValueError, match="must be one of none, base, start, past, ema, got 'now'"):
        make_reference("now", model)
    with pytest.raises(ValueError, match="the reference is 'past' and past=None"):
        make_reference("past", model)
    with pytest.raises(ValueError, match="the reference is 'start' and past='there'"):
        make_reference("start", model, past="there")
    with pytest.raises(ValueError, match="'past' is an adapter beside the trained one and there is none"):
        make_reference("past", model, past="there")
    with pytest.raises(ValueError, match="'base' switches the adapter off and there is none .*use 'start'"):
        make_reference("base", model)
    with pytest.raises(ValueError, match="read by the reference 'ema' only"):
        make_reference("start", model, ema=0.9)
    with pytest.raises(ValueError, match="no adapter 'default'"):
        make_reference("start", model, continued_adapter=True)
    model.denoiser.requires_grad_(False)
    with pytest.raises(ValueError, match="there are none: add an adapter"):
        make_reference("ema", model)
    fresh_lora(model, tmp_path)
    with pytest.raises(ValueError, match=r"lies in \[0, 1\), got 1"):
        make_reference("ema", model, ema=1.0)
    with pytest.raises(ValueError, match="keeps no state"):
        make_reference("base", model).load_state_dict({"decay": 0.9})
    jolt(model.denoiser)
    with pytest.raises(ValueError, match="is not fresh .* pass continued_adapter=True"):
        make_reference("start", model)
