"""Diffusion-DPO end to end against stored numbers: real SDXL-style UNets, errors, margins, loss and gradients (golden/README of the shared
folder: float64 to 1e-9; float32 errors to 1e-5, losses to 5e-5, gradients to 1e-4, relative)."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from diffalign import objectives
from diffalign.denoising import ddpm_path, denoising_error, denoising_evidence
from diffalign.objectives import Comparison

GOLDEN = Path(__file__).parents[1] / "golden/denoising"
SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
TOLERANCE = {torch.float64: {"error": 1e-9, "loss": 1e-9, "gradient": 1e-9}, torch.float32: {"error": 1e-5, "loss": 5e-5, "gradient": 1e-4}}


@pytest.fixture(scope="module")
def tensors():
    return load_file(GOLDEN / "tensors.safetensors")


def relative(ours: torch.Tensor, golden: torch.Tensor) -> float:
    return ((ours.double() - golden).norm() / golden.norm()).item()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name, kind", [("diffusion_dpo", "epsilon"), ("diffusion_dpo_v_prediction", "v_prediction")])
def test_diffusion_dpo(tensors, name, kind, dtype):
    stored, within = json.loads((GOLDEN / "results.json").read_text())[name], TOLERANCE[dtype]
    golden = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
    inputs = {key: tensors[key].to(dtype) for key in ("latents_chosen", "latents_rejected", "noise", "prompt_embeds", "pooled", "time_ids")}
    policy, reference = (UNet2DConditionModel.from_pretrained(GOLDEN / which).to(dtype) for which in ("policy", "reference"))

    path, comparison = ddpm_path({**SCHEDULE, "prediction_type": kind}), Comparison.halves(4)
    x0 = torch.cat([inputs["latents_chosen"], inputs["latents_rejected"]])
    noise, t = inputs["noise"].repeat(2, 1, 1, 1), tensors["timesteps"].repeat(2)
    x_t, target = path.add_noise(x0, noise, t), path.target(x0, noise, t)
    conditioning = {"text_embeds": inputs["pooled"].repeat(2, 1), "time_ids": inputs["time_ids"].repeat(2, 1)}

    def error(unet):
        text = inputs["prompt_embeds"].repeat(2, 1, 1)
        return denoising_error(unet(x_t, path.model_time(t), text, added_cond_kwargs=conditioning).sample, target)

    with torch.no_grad():
        reference_error = error(reference)
    policy_error = error(policy)
    evidence = denoising_evidence(policy_error, reference_error, t=t, pairs=comparison.pairs)
    terms = objectives.get("dpo", beta=float(stored["beta"]))(evidence, comparison)
    loss = objectives.reduce(terms, 4)
    loss.backward()

    for who, ours in (("policy", policy_error), ("reference", reference_error)):
        assert relative(ours[:4], golden[f"{who}_error_chosen"]) < within["error"]
        assert relative(ours[4:], golden[f"{who}_error_rejected"]) < within["error"]
    assert loss.item() == pytest.approx(stored["loss"], rel=within["loss"])
    if dtype == torch.float64:
        assert terms.metrics["rewards/margins"][0].item() == pytest.approx(golden["margin"].sum().item(), rel=within["loss"])
        assert torch.allclose(terms.loss, -torch.nn.functional.logsigmoid(golden["margin"]), rtol=1e-9, atol=0)
    assert objectives.means(terms.metrics)["rewards/accuracies"] == stored["implicit_accuracy"]

    gradients = {key: parameter.grad for key, parameter in policy.named_parameters()}
    checked = [key.removeprefix("grad.") for key in golden if key.startswith("grad.")]
    assert len(checked) == 3
    for key in checked:
        assert relative(gradients[key], golden[f"grad.{key}"]) < within["gradient"]
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm().item()
    assert norm == pytest.approx(stored["grad_norm"], rel=within["gradient"])
    assert all(parameter.grad is None for parameter in reference.parameters())
