import pytest
import torch

from diffalign.denoising import Draws, ddpm_path, flow_path, timesteps

DDPM, FLOW = ddpm_path({}), flow_path()
LAST = 1 - 2.0**-53  # the largest uniform there is
GRID = (torch.arange(10000, dtype=torch.float64) + 0.5) / 10000


def test_uniform_hits_every_timestep_equally_often():
    t = timesteps.get("uniform")(GRID, DDPM)
    assert t.dtype == torch.int64 and torch.equal(t.bincount(), torch.full((1000,), 10))


def test_uniform_range_is_half_open():
    u = torch.tensor([0.0, 0.5, LAST], dtype=torch.float64)
    assert timesteps.get("uniform", low=200, high=600)(u, DDPM).tolist() == [200, 400, 599]
    assert timesteps.get("uniform", low=999)(u, DDPM).tolist() == [999, 999, 999]
    assert timesteps.get("uniform", low=500)(u, DDPM).tolist() == [500, 750, 999]  # 500 + 500 LAST rounds to 1000


def test_uniform_flow_times_are_shares_of_noise():
    s = timesteps.get("uniform", low=200, high=600)(torch.tensor([0.0, 0.5], dtype=torch.float64), FLOW)
    assert s.dtype == torch.float32 and s.tolist() == pytest.approx([0.2, 0.4])


def test_logit_normal_by_hand():
    u = torch.tensor([0.0, 0.5, 0.8413447460685429, LAST], dtype=torch.float64)  # n = -inf, 0, 1, 8.2
    s = timesteps.get("logit_normal", logit_mean=0.5, logit_std=2.0)(u, FLOW)
    assert s[:3].tolist() == pytest.approx([0.0, 0.62245933, 0.92414182], abs=1e-6) and s[3] <= 1
    assert timesteps.get("logit_normal")(u, DDPM).tolist() == [0, 500, 731, 999]


def test_logit_normal_prefers_the_middle():
    t = timesteps.get("logit_normal")(GRID, DDPM)
    assert (t // 250).bincount().tolist() == pytest.approx([1360, 3640, 3640, 1360], abs=5)  # Phi(-ln 3) = 0.1360


def test_list():
    sampler = timesteps.get("list", timesteps=[249, 499, 749, 999])
    assert sampler(GRID, DDPM).bincount()[[249, 499, 749, 999]].tolist() == [2500] * 4
    u = torch.tensor([0.0, LAST], dtype=torch.float64)
    assert sampler(u, DDPM).tolist() == [249, 999] and sampler(u, FLOW).tolist() == pytest.approx([0.249, 0.999])


def test_a_sampler_is_a_pure_function_of_its_uniforms():
    u = torch.tensor([Draws(0, i % 500).uniform("t") for i in range(1000)], dtype=torch.float64)
    t = timesteps.get("uniform")(u, DDPM)
    assert torch.equal(t[:500], t[500:]) and torch.equal(t, (u * 1000).long())
    assert torch.equal(t, timesteps.get("uniform")(u.float(), DDPM))  # draws are exact in float32: its u makes the same times


@pytest.mark.parametrize("call, words", [
    (lambda: timesteps.get("unifrom"), "'unifrom'; did you mean 'uniform'"),
    (lambda: timesteps.get("uniform", hihg=3), "option of uniform 'hihg'; did you mean 'high'"),
    (lambda: timesteps.get("uniform", logit_mean=0.0), "option of uniform 'logit_mean'.*Allowed: low, high"),
    (lambda: timesteps.get("list"), "needs timesteps"),
    (lambda: timesteps.get("list", timesteps=[]), "empty"),
    (lambda: timesteps.get("logit_normal", logit_std=0.0), "logit_std must be positive; got 0.0"),
    (lambda: timesteps.get("uniform", low=5, high=5)(GRID, DDPM), "low=5, high=5"),
    (lambda: timesteps.get("uniform", high=1001)(GRID, DDPM), r"inside \[0, 1000\].*high=1001"),
    (lambda: timesteps.get("list", timesteps=[1000])(GRID[:1], DDPM), r"\[0, 1000\); got \[1000.0\]"),
    (lambda: timesteps.get("list", timesteps=[249.5])(GRID[:1], DDPM), "whole timesteps only"),
    (lambda: timesteps.get("uniform")(torch.tensor([1.0]), DDPM), r"\[0, 1\).*\[1.0\]"),
    (lambda: timesteps.get("uniform")(torch.tensor(0.5), DDPM), r"shape \(\)"),
])
def test_refusals_name_the_value(call, words):
    with pytest.raises(ValueError, match=words):
        call()
