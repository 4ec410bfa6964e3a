"""Inversion: by hand, against the library's scheduler, against exact ODEs, and from cached levels."""

import math

import pytest
import torch
from diffusers import DDIMInverseScheduler

from diffalign.denoising import GRIDS, Inversion, Path, ddpm_path, flow_path, noise_of

SDXL = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
SHORT = {"beta_start": 0.01, "beta_end": 0.2, "num_train_timesteps": 10}
EPSILON, FLOW = ddpm_path(SDXL), flow_path()


def of_kind(kind: str) -> Path:
    return ddpm_path({**SDXL, "prediction_type": kind})


def latents(count: int, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(count, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def bent(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """A network that depends on both of its inputs, not linearly; elementwise, so that it gives the same bits in any batch."""
    return torch.sin(2 * x) + 0.4 * torch.cos(0.004 * t.to(x)).view(-1, 1, 1) - 0.2 * x


def recorded(network, calls: list):
    def predict(x, t):
        calls.append(t.tolist())
        return network(x, t)
    return predict


# by hand: one number, T = 10, abar written out

ABAR = torch.cumprod(1 - torch.linspace(0.01, 0.2, 10, dtype=torch.float32), 0).double().tolist()


def by_hand(z: float, steps: list[tuple[float, float, float, float | None]]) -> float:
    """steps: (abar of the source, abar of the destination, time told, time told again or None), network e(z, t) = 0.3 z + 0.1 t."""
    for a, b, told, again in steps:
        def move(e, z=z, a=a, b=b):
            return math.sqrt(b) * (z - math.sqrt(1 - a) * e) / math.sqrt(a) + math.sqrt(1 - b) * e
        e = 0.3 * z + 0.1 * told
        z = move(e if again is None else (e + 0.3 * move(e) + 0.1 * again) / 2)
    return z


HAND = {  # (grid, n, t) -> abar from, abar to, told, told again by ReNoise
    ("own", 3, 0): [(1.0, ABAR[0], 0, 0)],
    ("own", 3, 3): [(1.0, ABAR[3], 0, 3)],
    ("own", 3, 5): [(1.0, ABAR[3], 0, 3), (ABAR[3], ABAR[5], 3, 5)],
    ("own", 3, 9): [(1.0, ABAR[3], 0, 3), (ABAR[3], ABAR[6], 3, 6), (ABAR[6], ABAR[9], 6, 9)],
    ("library", 5, 1): [],
    ("library", 5, 4): [(ABAR[0], ABAR[1], 1, 1), (ABAR[1], ABAR[3], 3, 3)],
    ("released", 5, 0): [(ABAR[0], ABAR[1], -1, -1)],
    ("released", 5, 3): [(ABAR[0], ABAR[1], -1, -1), (ABAR[1], ABAR[3], 1, 1)],
    ("released", 5, 4): [(ABAR[0], ABAR[1], -1, -1), (ABAR[1], ABAR[3], 1, 1), (ABAR[3], ABAR[5], 3, 3)],  # 5 is the level >= 4
    ("released", 3, 9): [(ABAR[0], ABAR[1], -2, -2), (ABAR[1], ABAR[4], 1, 1), (ABAR[4], ABAR[7], 4, 4)],  # capped at 1 + 2 * 3 = 7
}


@pytest.mark.parametrize("kind", ["ddim", "renoise"])
@pytest.mark.parametrize("grid, n, t", HAND)
def test_by_hand(grid, n, t, kind):
    calls = []
    predict = recorded(lambda x, t: 0.3 * x + 0.1 * t.double().view(-1, 1), calls)
    x0 = torch.tensor([[0.7]], dtype=torch.float64)
    x_t = Inversion(kind, n, grid).invert(predict, ddpm_path(SHORT), x0, torch.tensor([t]))
    steps = [(a, b, told, again if kind == "renoise" else None) for a, b, told, again in HAND[grid, n, t]]
    assert x_t.item() == pytest.approx(by_hand(0.7, steps), rel=1e-12)
    assert [told for call in calls for told in call] == [told for step in steps for told in step[2:] if told is not None]


@pytest.mark.parametrize("n, first, cap", [(5, -199, 801), (10, -99, 901)])
def test_where_the_release_ends(n, first, cap):
    """Spec: the first call is at a negative time; z is at the smallest level >= t, and at 801 (901) for all larger t."""
    grid, r, t, calls = GRIDS["released"], 1000 // n, torch.arange(1000), []
    ends = grid.levels(EPSILON, n)[grid.count(EPSILON, n, t)]
    assert torch.equal(ends, torch.tensor([min(1 + r * math.ceil(max(time - 1, 0) / r), cap) for time in range(1000)]))
    Inversion("renoise", n, "released").invert(recorded(bent, calls), EPSILON, latents(2), torch.tensor([999, 2]))
    assert calls == [[first + r * (i // 2)] * 2 for i in range(2 * n)]


# the library's scheduler

@pytest.mark.parametrize("kind", ["ddim", "renoise"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_library_is_the_loop_over_the_library(prediction_type, kind):
    x0, t = latents(6), torch.tensor([0, 1, 2, 400, 428, 999])
    ours = Inversion(kind, steps=7, grid="library").invert(bent, of_kind(prediction_type), x0, t)

    scheduler = DDIMInverseScheduler(**SDXL, prediction_type=prediction_type, steps_offset=1, clip_sample=False, set_alpha_to_one=False)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.initial_alpha_cumprod = scheduler.alphas_cumprod[0]
    scheduler.set_timesteps(7)
    for row in range(6):
        z = x0[row : row + 1]
        for tau in scheduler.timesteps[scheduler.timesteps < t[row]]:
            e = bent(z, tau[None])
            if kind == "renoise":
                e = (e + bent(scheduler.step(e, tau, z).prev_sample, tau[None])) / 2
            z = scheduler.step(e, tau, z).prev_sample
        torch.testing.assert_close(ours[row : row + 1], z, rtol=1e-10, atol=1e-10)
    assert torch.equal(ours[:2], x0[:2])  # empty for t <= 1


# identities

@pytest.mark.parametrize("kind", ["ddim", "renoise"])
@pytest.mark.parametrize("path, t", [
    (EPSILON, torch.tensor([0, 1, 100, 537, 999])), (of_kind("v_prediction"), torch.tensor([0, 1, 100, 537, 999])),
    (ddpm_path({**SDXL, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}), torch.tensor([0, 1, 100, 537, 999])),
    (FLOW, torch.tensor([0.001, 0.1, 0.3, 0.77, 1.0])),
], ids=["epsilon", "v", "zero-snr", "flow"])
def test_a_network_that_knows_the_noise_gives_x_t_exactly(path, t, kind):
    x0 = latents(5)
    noise = latents(10)[5:]

    def predict(x, told):
        if path.continuous or (path.coefficients(told).alpha == 0).any():  # where v does not depend on x
            return path.target(x0, noise, told)
        return path.convert(noise, x, told, to=path.prediction_type, kind="epsilon")

    x_t = Inversion(kind).invert(predict, path, x0, t)
    torch.testing.assert_close(x_t, path.add_noise(x0, noise, t), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(noise_of(path, x0, x_t, t), noise, rtol=1e-9, atol=1e-9)


def test_predictions_of_all_kinds_are_one_inversion():
    """The same network in three parametrisations; "sample" where it is determined, that is everywhere but at no noise at all."""
    x0, t = latents(3), torch.tensor([5, 340, 999])
    expected = Inversion("renoise").invert(bent, EPSILON, x0, t)
    for kind in ("v_prediction", "sample"):
        path = of_kind(kind)

        def predict(x, t, path=path):
            return path.convert(bent(x, t), x, t, to=path.prediction_type, kind="epsilon")

        ours = Inversion("renoise").invert(predict, path, x0, t)
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


SCALE = 0.6  # Gaussian data N(0, 0.6^2): the exact network, and the exact ODE, along which x/std is constant


def gaussian(path: Path):
    def predict(x, t):
        c = path.coefficients(t, torch.float64)
        alpha, sigma = c.alpha.view(-1, 1, 1), c.sigma.view(-1, 1, 1)
        noise, clean = sigma * x / (alpha**2 * SCALE**2 + sigma**2), alpha * SCALE**2 * x / (alpha**2 * SCALE**2 + sigma**2)
        return noise - clean if path.continuous else noise
    return predict


def exact(path: Path, x0, t):
    c = path.coefficients(t, torch.float64)
    return x0 * ((c.alpha**2 * SCALE**2 + c.sigma**2).sqrt() / SCALE).view(-1, 1, 1)


def distances(kind: str, path: Path, t: torch.Tensor) -> list[float]:
    """From the end of the exact ODE, with 25, 50 and 100 steps."""
    x0, ways = latents(3), [Inversion(kind, n) for n in (25, 50, 100)]
    return [(way.invert(gaussian(path), path, x0, t) - exact(path, x0, t)).norm().item() for way in ways]


S = torch.tensor([0.13, 0.555, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("kind, path, t, least, most", [
    ("ddim", EPSILON, torch.tensor([130, 555, 999]), 1.7, 2.4), ("ddim", FLOW, S, 1.7, 2.4), ("renoise", FLOW, S, 3.0, 5.5),
])
def test_the_error_falls_as_the_order_says(kind, path, t, least, most):
    a, b, c = distances(kind, path, t)
    assert least < a / b < most and least < b / c < most
    assert c < 0.03 * exact(path, latents(3), t).norm()


def test_renoise_is_nearer_to_the_ode_on_a_ddpm_path_too():
    t = torch.tensor([130, 555, 999])
    for ddim, renoise in zip(distances("ddim", EPSILON, t), distances("renoise", EPSILON, t), strict=True):
        assert renoise < 0.5 * ddim


def test_more_steps_make_a_better_round_trip():
    """DDIM sampling (arXiv:2010.02502, eq. 12, eta 0) down the levels that inversion came up, told the time its latents are at."""
    x0, t, errors = latents(2), 800, []
    network = gaussian(EPSILON)
    for n in (5, 10, 20, 40):
        z, way = Inversion("ddim", n).invert(network, EPSILON, x0, torch.tensor([t, t])), list(range(0, t + 1, 1000 // n))
        for after, before in zip(way[::-1], way[-2::-1], strict=False):
            told = torch.full((2,), after)
            e = network(z, told)
            clean = EPSILON.convert(e, z, told, "sample")
            z = EPSILON.add_noise(clean, e, torch.full((2,), before)) if before else clean
        errors.append((z - x0).norm().item())
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.25 * errors[0]


# batches and caches

INVERSIONS = [Inversion("ddim"), Inversion("renoise", 5), Inversion("renoise", 3, renoise_steps=2), Inversion("ddim", 7, "library"),
              Inversion("renoise", 5, "released"), Inversion("ddim", eta=0.1), Inversion("ddim", 7, "released", eta=0.1)]


def step_noise(inversion: Inversion):
    """Noise by step for 5 rows, or None where there is no eta."""
    return list(torch.randn(12, 5, 2, 3, generator=torch.Generator().manual_seed(1))) if inversion.eta else None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("inversion, path, t", [
    *((inversion, EPSILON, torch.tensor([0, 700, 1, 433, 999])) for inversion in INVERSIONS),
    *((inversion, FLOW, torch.tensor([0.0, 0.7, 0.05, 0.433, 1.0])) for inversion in INVERSIONS if inversion.grid == "own"),
], ids=lambda value: {EPSILON: "ddpm", FLOW: "flow"}.get(value, str(value)) if not isinstance(value, torch.Tensor) else "t")
def test_levels_serve_every_t_and_rows_do_not_mix(inversion, path, t, dtype):
    x0, noise, calls = latents(5, dtype), step_noise(inversion), []
    x_t = inversion.invert(bent, path, x0, t, noise=noise)
    levels = inversion.levels(recorded(bent, calls), path, x0, noise=noise)
    evaluations = 1 if inversion.kind == "ddim" else 1 + (inversion.renoise_steps or 1)
    assert len(calls) == evaluations * (len(levels) - 1) and torch.equal(levels[0], x0) and levels.dtype == x_t.dtype == dtype

    calls.clear()
    cached = inversion.from_levels(recorded(bent, calls), path, levels, t, noise=noise)
    assert len(calls) == (evaluations if inversion.grid == "own" else 0)
    assert torch.equal(cached, x_t) and torch.equal(inversion.invert(bent, path, x0, t, cache=levels, noise=noise), x_t)
    for row in range(5):
        one = slice(row, row + 1)
        alone = inversion.invert(bent, path, x0[one], t[one], noise=noise and [of_step[one] for of_step in noise])
        torch.testing.assert_close(alone, x_t[one], rtol=1e-6, atol=1e-6)
    if path.continuous:
        assert torch.equal(x_t[0], x0[0])
    else:
        assert torch.equal(x_t[0], x0[0]) == (inversion.grid == "library")


def test_eta_adds_the_posterior_variance():
    """Without a network's help: e = 0, so x_t = alpha_t x0 + the noises, each shrunk by the steps after it."""
    x0, noise = torch.zeros(1, 1, 1, dtype=torch.float64), [torch.full((1, 1, 1), float(i + 1)) for i in range(3)]
    path = ddpm_path(SHORT)
    x_t = Inversion("ddim", 3, eta=0.5).invert(lambda x, t: 0 * x, path, x0, torch.tensor([5]), noise=noise)
    var = (1 - ABAR[3]) / (1 - ABAR[5]) * (1 - ABAR[5] / ABAR[3])  # of 3 -> 5; that of clean -> 3 is 0
    assert x_t.item() == pytest.approx(0.5 * math.sqrt(var) * 2, rel=1e-9)


def test_precision_and_gradient():
    x0 = latents(2).half().requires_grad_()
    weight = torch.nn.Parameter(torch.ones(()))
    x_t = Inversion("renoise", 4).invert(lambda x, t: (weight * bent(x, t)).bfloat16(), EPSILON, x0, torch.tensor([40, 900]))
    assert x_t.dtype == torch.float32 and not x_t.requires_grad
    assert noise_of(EPSILON, x0, x_t, torch.tensor([40, 900])).dtype == torch.float32


TWO, AT = latents(2), torch.tensor([3, 4])


@pytest.mark.parametrize("call, words", [
    (lambda: Inversion("dimm"), "'dimm'; did you mean 'ddim'.*renoise"),
    (lambda: Inversion(grid="libary"), "'libary'; did you mean 'library'"),
    (lambda: Inversion(steps=0), "steps must be at least 1; got 0"),
    (lambda: Inversion(eta=-0.1), "eta must be at least 0 and finite; got -0.1"),
    (lambda: Inversion("ddim", renoise_steps=1), "renoise_steps=1 with inversion 'ddim'"),
    (lambda: Inversion("renoise", renoise_steps=0), "renoise_steps=0.*at least 1"),
    (lambda: Inversion(steps=1001).invert(bent, EPSILON, TWO, AT), "at most the 1000 timesteps of the path; got 1001"),
    (lambda: Inversion(steps=1000, grid="library").invert(bent, EPSILON, TWO, AT), "below the 1000 timesteps.*got 1000"),
    (lambda: Inversion(grid="library").invert(bent, FLOW, TWO, torch.tensor([0.1, 0.2])), "a flow-matching path has the grid 'own' only"),
    (lambda: Inversion(grid="released").levels(bent, FLOW, TWO), "a flow-matching path has the grid 'own' only"),
    (lambda: Inversion().invert(bent, EPSILON, TWO, torch.tensor([3, 1000])), r"0\.\.999; got \[3, 1000\]"),
    (lambda: Inversion().invert(bent, EPSILON, TWO, AT[:1]), r"2 latents and times of shape \(1,\)"),
    (lambda: Inversion().invert(lambda x, t: x[:1], EPSILON, TWO, AT), "do not match"),
    (lambda: Inversion(eta=0.1).invert(bent, EPSILON, TWO, AT), "eta = 0.1 and noise is missing"),
    (lambda: Inversion().levels(bent, EPSILON, TWO, noise=[TWO]), "eta = 0.0 and noise is given"),
    (lambda: Inversion(eta=0.1).levels(bent, EPSILON, TWO, noise=[TWO]), "noise has 1 tensors and step number 1"),
    (lambda: Inversion(eta=0.1).levels(bent, EPSILON, TWO, noise=lambda i: TWO[:1]), r"step number 0 has shape \(1, 2, 3\)"),
    (lambda: Inversion().from_levels(bent, EPSILON, TWO[None], AT), r"\(1, 2, 2, 3\).*have 10 levels"),
    (lambda: Inversion().invert(bent, EPSILON, TWO, AT, cache=TWO), r"cache has shape \(2, 2, 3\), x0 \(2, 2, 3\)"),
    (lambda: Inversion().invert(bent, Path("sample", FLOW.schedule), TWO, torch.tensor([0.1, 0.2])), "'sample' does not give 'flow'"),
    (lambda: noise_of(FLOW, TWO, TWO, torch.tensor([0.0, 0.2])), r"no noise can be derived at t = \[0.0\]"),
])
def test_refusals_name_the_value(call, words):
    with pytest.raises(ValueError, match=words):
        call()
