"""Adapters: reproducible, float32, and the same predictions in a stock pipeline that loads the saved file."""

import json

import pytest
import torch
from safetensors import safe_open

from diffalign.models import load_model, lora
from tests.models.shared import inputs, jolt

CASES = [("sdxl", "attention"), ("sdxl", "attention+ff"), ("sdxl", "all-linear"), ("sdxl", ["to_k", "attn2.to_out.0", "conv_in"])]


@pytest.mark.parametrize(("kind", "targets"), [*CASES, ("sd15", "attention"), ("sd21", "all-linear")])
def test_saved_adapter_gives_the_same_predictions_in_a_stock_pipeline(kind, targets, folders, tmp_path):
    from diffusers import DiffusionPipeline

    model = load_model(folders(kind))
    x_t, t, conditioning = inputs(model)
    base = model.predict(x_t, t, conditioning)
    lora.add(model.denoiser, rank=2, alpha=6, targets=targets, seed=0)
    assert torch.equal(model.predict(x_t, t, conditioning), base)  # B is zero
    jolt(model.denoiser)
    trained = model.predict(x_t, t, conditioning)
    assert (trained - base).abs().max() > 1e-2
    file = lora.save(model, tmp_path)
    assert file.name == "pytorch_lora_weights.safetensors"

    stock = DiffusionPipeline.from_pretrained(folders(kind))
    stock.load_lora_weights(str(tmp_path))
    ours = model.predict(x_t, t, conditioning, network=stock.unet)
    assert (ours - trained).abs().max() < 1e-6

    again = load_model(folders(kind))
    lora.load(again.denoiser, tmp_path)
    assert (again.predict(x_t, t, conditioning) - trained).abs().max() < 1e-6


def test_only_the_adapter_is_trainable_in_float32_and_learns(folders):
    model = load_model(folders("sdxl"), dtype=torch.bfloat16)
    lora.add(model.denoiser, rank=2, seed=0)
    parameters = lora.trainable_parameters(model.denoiser)
    assert parameters and all(parameter.dtype == torch.float32 for parameter in parameters)
    names = [name for name, parameter in model.denoiser.named_parameters() if parameter.requires_grad]
    assert all(".lora_A.default." in name or ".lora_B.default." in name for name in names)
    prediction = model.predict(*inputs(model))
    assert prediction.dtype == torch.bfloat16
    prediction.float().square().mean().backward()
    assert all(parameter.grad is not None for parameter in parameters)


def test_initial_values_depend_on_the_seed_alone_and_leave_the_random_state(folders):
    def adapter(seed):
        model = load_model(folders("sdxl"))
        lora.add(model.denoiser, rank=2, seed=seed)
        return torch.cat([parameter.flatten() for parameter in lora.trainable_parameters(model.denoiser)])

    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = adapter(0)
    torch.rand(3)
    assert torch.equal(first, adapter(0)) and not torch.equal(first, adapter(1))
    torch.set_rng_state(state)
    model = load_model(folders("sdxl"))
    before = torch.get_rng_state()
    lora.add(model.denoiser, rank=2, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_gaussian_initialisation_has_its_scale(folders):
    model = load_model(folders("sdxl"))
    lora.add(model.denoiser, rank=4, targets="all-linear", seed=0)
    a = torch.cat([p.flatten() for name, p in lora.adapter_parameters(model.denoiser, "default") if ".lora_A." in name])
    assert a.std().item() == pytest.approx(1 / 4, rel=0.05)
    assert lora.is_fresh(model.denoiser)
    jolt(model.denoiser)
    assert not lora.is_fresh(model.denoiser)


def test_adapter_off_and_on_restores_everything(folders):
    model = load_model(folders("sd15"))
    x_t, t, conditioning = inputs(model)
    base = model.predict(x_t, t, conditioning)
    lora.add(model.denoiser, rank=2, seed=0)
    jolt(model.denoiser)
    trained = model.predict(x_t, t, conditioning)
    flags = [parameter.requires_grad for parameter in model.denoiser.parameters()]
    with lora.disabled(model.denoiser):
        assert torch.equal(model.predict(x_t, t, conditioning), base)
        with lora.disabled(model.denoiser):
            pass
        assert torch.equal(model.predict(x_t, t, conditioning), base)  # the inner context did not switch it on
    assert torch.equal(model.predict(x_t, t, conditioning), trained)
    assert [parameter.requires_grad for parameter in model.denoiser.parameters()] == flags
    with pytest.raises(RuntimeError, match="stop"), lora.disabled(model.denoiser):
        raise RuntimeError("stop")
    assert torch.equal(model.predict(x_t, t, conditioning), trained)


def test_file_carries_alpha_in_diffusers_layout(folders, tmp_path):
    model = load_model(folders("sdxl"))
    lora.add(model.denoiser, rank=2, alpha=8, targets="attention+ff", seed=0)
    lora.save(model.denoiser, tmp_path)  # the bare denoiser does as well
    with safe_open(tmp_path / "pytorch_lora_weights.safetensors", framework="pt") as file:
        metadata = json.loads(file.metadata()["lora_adapter_metadata"])
        assert all(key.startswith("unet.") for key in file.keys())  # noqa: SIM118
    assert (metadata["unet.r"], metadata["unet.lora_alpha"]) == (2, 8)


def test_half_precision_base_loads_the_files_exact_values(folders, tmp_path):
    model = load_model(folders("sdxl"))
    lora.add(model.denoiser, rank=2, seed=0)
    jolt(model.denoiser)
    lora.save(model, tmp_path)
    half = load_model(folders("sdxl"), dtype=torch.bfloat16)
    lora.load(half.denoiser, tmp_path)
    pairs = zip(lora.adapter_parameters(half.denoiser, "default"), lora.adapter_parameters(model.denoiser, "default"), strict=True)
    assert all(name == other and torch.equal(ours, theirs) for (name, ours), (other, theirs) in pairs)
    frozen = load_model(folders("sdxl"))
    lora.load(frozen.denoiser, tmp_path, trainable=False)
    assert lora.trainable_parameters(frozen.denoiser) == []


def test_a_kohya_file_can_be_continued(folders, tmp_path):
    from diffusers.utils import convert_state_dict_to_kohya
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import save_file

    model = load_model(folders("sd15"))
    lora.add(model.denoiser, rank=2, seed=0)
    jolt(model.denoiser)
    state = {f"unet.{key}": value for key, value in get_peft_model_state_dict(model.denoiser).items()}
    save_file(convert_state_dict_to_kohya(state), tmp_path / "kohya.safetensors")
    again = load_model(folders("sd15"))
    lora.load(again.denoiser, tmp_path / "kohya.safetensors")
    assert (again.predict(*inputs(again)) - model.predict(*inputs(model))).abs().max() < 1e-6
    assert lora.trainable_parameters(again.denoiser)


def test_errors(folders, tmp_path):
    from safetensors.torch import save_file

    denoiser = load_model(folders("sd15")).denoiser
    with pytest.raises(ValueError, match="has no adapter to disable"), lora.disabled(denoiser):
        pass
    with pytest.raises(ValueError, match="no adapter named 'default'; it has: none"):
        lora.save(denoiser, tmp_path)
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        lora.add(denoiser, rank=0, seed=0)
    with pytest.raises(ValueError, match="dropout must be in"):
        lora.add(denoiser, rank=1, dropout=1.0, seed=0)
    with pytest.raises(ValueError, match="targets must be 'attention', .* got 'everything'"):
        lora.add(denoiser, rank=1, targets="everything", seed=0)
    with pytest.raises(ValueError, match=r"no module of the denoiser is named \['to_z'\]"):
        lora.add(denoiser, rank=1, targets=["to_q", "to_z"], seed=0)
    with pytest.raises(ValueError, match="no adapter at .*pytorch_lora_weights.safetensors"):
        lora.load(denoiser, tmp_path)
    lora.add(denoiser, rank=1, seed=0)
    with pytest.raises(ValueError, match="named 'default' exists already"):
        lora.add(denoiser, rank=1, seed=0)
    save_file({"text_encoder.q_proj.lora_A.weight": torch.zeros(1, 1)}, tmp_path / "text.safetensors")
    with pytest.raises(ValueError, match="changes more than the denoiser"):
        lora.load(denoiser, tmp_path / "text.safetensors", name="other")
