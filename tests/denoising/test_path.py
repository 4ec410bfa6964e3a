"""The path: bits of diffusers, float64 round trips of every conversion, refused ends, and the bfloat16 trap."""

import pytest
import torch
from diffusers import DDPMScheduler

from diffalign.denoising import KINDS, ddpm_path, flow_path
from diffalign.denoising.schedules import zero_terminal_snr

SDXL = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
CONFIGS = {
    "defaults": {},
    "linear": {"beta_schedule": "linear", "beta_end": 0.03, "num_train_timesteps": 500},
    "sdxl": SDXL,
    "sd21-v": {**SDXL, "prediction_type": "v_prediction"},
    "zero-snr": {**SDXL, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "cosine-zero-snr": {"beta_schedule": "squaredcos_cap_v2", "rescale_betas_zero_snr": True, "prediction_type": "sample"},
    "trained": {"trained_betas": [0.1, 0.2, 0.3, 0.5]},
}


def batch(count: int, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    return torch.randn(2, count, 4, 3, 2, generator=g, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("name", CONFIGS)
def test_noising_and_targets_have_the_bits_of_diffusers(name):
    scheduler, path = DDPMScheduler(**CONFIGS[name]), ddpm_path(CONFIGS[name])
    assert torch.equal(path.schedule.alphas_cumprod, scheduler.alphas_cumprod)
    t = torch.arange(path.num_timesteps)
    x0, noise = batch(len(t))
    assert path.prediction_type == scheduler.config.prediction_type and path.num_timesteps == len(scheduler.alphas_cumprod)
    assert torch.equal(path.add_noise(x0, noise, t), scheduler.add_noise(x0, noise, t))
    assert torch.equal(path.target(x0, noise, t, "v_prediction"), scheduler.get_velocity(x0, noise, t))
    assert torch.equal(path.target(x0, noise, t, "epsilon"), noise) and torch.equal(path.target(x0, noise, t, "sample"), x0)
    assert torch.equal(path.model_time(t), t)


def test_the_config_of_another_sampler_does():
    euler = {"_class_name": "EulerDiscreteScheduler", **SDXL, "timestep_spacing": "leading", "steps_offset": 1, "trained_betas": None}
    assert torch.equal(ddpm_path(euler).schedule.alphas_cumprod, ddpm_path(SDXL).schedule.alphas_cumprod)


def test_zero_terminal_snr_ends_in_noise_and_keeps_its_start():
    betas = torch.linspace(0.03, 0.1, 1000) ** 2
    before, after = (1 - betas).cumprod(0), (1 - zero_terminal_snr(betas)).cumprod(0)
    assert after[-1] == 0 and after[0].item() == pytest.approx(before[0].item(), rel=1e-6) and (after[1:] < before[1:]).all()


def test_cosine_by_hand():
    # abar(1/2) / abar(0) with abar(u) = cos^2((u + .008)/1.008 pi/2): the table's first half telescopes to it
    half = ddpm_path({"beta_schedule": "squaredcos_cap_v2"}).schedule.alphas_cumprod[499].item()
    assert half == pytest.approx(0.493843, abs=2e-6)


def test_flow_by_hand():
    path = flow_path({"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0})
    x0, noise = batch(3)
    s = torch.tensor([0.0, 0.25, 1.0])
    x_t = path.add_noise(x0, noise, s)
    assert torch.equal(x_t[0], x0[0]) and torch.equal(x_t[1], 0.75 * x0[1] + 0.25 * noise[1]) and torch.equal(x_t[2], noise[2])
    assert torch.equal(path.target(x0, noise, s), noise - x0)
    assert path.model_time(s).tolist() == [0.0, 250.0, 1000.0] and path.prediction_type == "flow"


@pytest.mark.parametrize("path, kind", [(ddpm_path(SDXL), "v_prediction"), (flow_path(), "flow")])
def test_the_natural_prediction_is_the_velocity_of_the_path(path, kind):
    t = path.at(torch.tensor([0.0, 400.0, 999.0]))
    c, (x0, noise) = path.coefficients(t, torch.float64), batch(3, torch.float64)
    velocity = c.d_alpha.view(-1, 1, 1, 1) * x0 + c.d_sigma.view(-1, 1, 1, 1) * noise
    torch.testing.assert_close(path.target(x0, noise, t, kind), velocity, rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("path", [ddpm_path(SDXL), flow_path()], ids=["ddpm", "flow"])
def test_derivatives_are_derivatives(path):
    """d_alpha/d_sigma = d alpha/d sigma along the path, by central differences (whatever its time)."""
    t = path.at(torch.tensor([300.0, 500.0, 800.0]))
    before, after = (path.coefficients(path.at(torch.tensor([x - 1.0, y - 1.0, z - 1.0])), torch.float64) for x, y, z in
                     [(300, 500, 800), (302, 502, 802)])
    c = path.coefficients(t, torch.float64)
    torch.testing.assert_close((after.alpha - before.alpha) / (after.sigma - before.sigma), c.d_alpha / c.d_sigma, rtol=1e-4, atol=0)


@pytest.mark.parametrize("to", KINDS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*CONFIGS, "flow"])
def test_conversions_agree_with_targets_and_round_trip(name, kind, to):
    path = flow_path() if name == "flow" else ddpm_path(CONFIGS[name])
    t = path.at(torch.arange(1, 20, dtype=torch.float64) * path.num_timesteps / 20)  # inner times: every kind determines every other
    x0, noise = batch(len(t), torch.float64)
    x_t = path.add_noise(x0, noise, t)
    prediction = path.target(x0, noise, t, kind)
    converted = path.convert(prediction, x_t, t, to, kind)
    assert converted.dtype == torch.float64
    torch.testing.assert_close(converted, path.target(x0, noise, t, to), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(path.convert(converted, x_t, t, kind, to), prediction, rtol=1e-10, atol=1e-10)


def test_conversion_of_a_wrong_prediction_is_the_textbook_formula():
    path, t = ddpm_path(SDXL), torch.tensor([10, 500, 990])
    x_t, epsilon = batch(3, torch.float64)  # any prediction, not only a perfect one
    abar = path.schedule.alphas_cumprod[t].double().view(-1, 1, 1, 1)
    torch.testing.assert_close(path.convert(epsilon, x_t, t, "sample"), (x_t - (1 - abar).sqrt() * epsilon) / abar.sqrt())
    torch.testing.assert_close(path.convert(epsilon, x_t, t, "sample", "v_prediction"), abar.sqrt() * x_t - (1 - abar).sqrt() * epsilon)


ZERO_SNR = ddpm_path(CONFIGS["zero-snr"])


@pytest.mark.parametrize("path, kind, t, shown", [
    (ZERO_SNR, "epsilon", torch.tensor([5, 999]), r"\[999\]"),
    (flow_path(), "epsilon", torch.tensor([0.5, 1.0]), r"\[1.0\]"),
    (flow_path(), "sample", torch.tensor([0.0, 0.5]), r"\[0.0\]"),
])
def test_singular_ends_are_refused_by_name(path, kind, t, shown):
    x_t, prediction = batch(2)
    with pytest.raises(ValueError, match=f"'{kind}' does not give 'v_prediction' at t = {shown}"):
        path.convert(prediction, x_t, t, "v_prediction", kind)
    assert torch.equal(path.convert(prediction, x_t, t, kind, kind), prediction)  # nothing to solve


@pytest.mark.parametrize("kind, end", [("v_prediction", 999), ("flow", 999)])
def test_v_and_flow_predictions_have_no_singular_end(kind, end):
    t = torch.tensor([end, 0])
    x0, noise = batch(2, torch.float64)
    converted = ZERO_SNR.convert(ZERO_SNR.target(x0, noise, t, kind), ZERO_SNR.add_noise(x0, noise, t), t, "sample", kind)
    torch.testing.assert_close(converted, x0, rtol=1e-9, atol=1e-9)


def test_the_bfloat16_trap():
    """diffusers casts abar to the latents' dtype before 1 - abar: in bfloat16 sigma_0 of SDXL is 0. Ours is not."""
    path = ddpm_path(SDXL)
    t = torch.arange(1000)
    x0, noise = batch(1000, torch.bfloat16)
    x_t = path.add_noise(x0, noise, t)
    assert x_t.dtype == path.target(x0, noise, t).dtype == torch.float32
    assert torch.equal(x_t, path.add_noise(x0.float(), noise.float(), t))
    assert path.coefficients(t).sigma[0].item() == pytest.approx(0.00085**0.5, rel=1e-3)
    trapped = DDPMScheduler(**SDXL).add_noise(torch.zeros_like(x0), torch.ones_like(noise), t)
    assert trapped[0].abs().max() == 0  # the trap is real


def test_precision_follows_the_latents():
    path, t = ddpm_path(SDXL), torch.tensor([7])
    assert path.coefficients(t).alpha.dtype == torch.float32
    x0, noise = batch(1, torch.float64)
    assert path.add_noise(x0, noise, t).dtype == path.add_noise(x0, noise.float(), t).dtype == torch.float64
    s = torch.tensor([0.3], dtype=torch.float64)
    assert path.add_noise(x0.half(), noise.half(), t).dtype == flow_path().add_noise(x0.half(), noise.half(), s).dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_times_on_either_device_serve_latents_on_the_gpu(where):
    path, t = ddpm_path(SDXL), torch.tensor([0, 999])
    x0, noise = batch(2)
    x_t = path.add_noise(x0, noise, t)
    on_gpu = path.add_noise(x0.cuda(), noise.cuda(), t.to(where))
    torch.testing.assert_close(on_gpu.cpu(), x_t, rtol=1e-6, atol=1e-6)
    assert path.convert(noise.cuda(), on_gpu, t.to(where), "sample").device.type == "cuda"


@pytest.mark.parametrize("call, words", [
    (lambda: ddpm_path({"beta_schedule": "scaled_linar"}), "'scaled_linar'; did you mean 'scaled_linear'"),
    (lambda: ddpm_path({"prediction_type": "velocity"}), "prediction kind 'velocity'.*v_prediction"),
    (lambda: ddpm_path({"_class_name": "FlowMatchEulerDiscreteScheduler"}), "use flow_path"),
    (lambda: flow_path({"_class_name": "DDPMScheduler"}), "use ddpm_path"),
    (lambda: ddpm_path({}).coefficients(torch.tensor([0.5])), "integer timesteps, got torch.float32"),
    (lambda: ddpm_path({}).coefficients(torch.tensor([0, 1000])), r"0\.\.999; got \[0, 1000\]"),
    (lambda: ddpm_path({}).coefficients(torch.tensor([-1])), r"0\.\.999; got \[-1\]"),
    (lambda: ddpm_path({}).coefficients(torch.tensor(3)), r"shape \(N,\); got shape \(\)"),
    (lambda: ddpm_path({}).coefficients(torch.tensor([3]), torch.bfloat16), "float32 or float64, got torch.bfloat16"),
    (lambda: flow_path().coefficients(torch.tensor([1.5])), r"s in \[0, 1\]; got \[1.5\]"),
    (lambda: flow_path().coefficients(torch.tensor([500])), "float32 or float64.*torch.int64"),
    (lambda: flow_path().coefficients(torch.tensor([0.5], dtype=torch.bfloat16)), "half precision is too coarse"),
    (lambda: ddpm_path({}).add_noise(*batch(2), torch.tensor([3])), "1 times do not match"),
    (lambda: ddpm_path({}).add_noise(batch(2)[0], batch(2)[1][:, :1], torch.tensor([3, 4])), r"do not match: give \(N, ...\) of one shape"),
    (lambda: ddpm_path({}).convert(*batch(1), torch.tensor([3]), "epsilom"), "'epsilom'; did you mean 'epsilon'"),
])
def test_refusals_name_the_value(call, words):
    with pytest.raises(ValueError, match=words):
        call()
