import torch

from diffalign.denoising import Draws


def test_neither_order_nor_repetition_matters():
    first, second = Draws(1, "a", 2), Draws(1, "a", 2)
    noise, u = first.normal("noise", (2, 3)), first.uniform("t")
    torch.manual_seed(5)
    torch.randn(7)
    assert second.uniform("t") == u == second.uniform("t") and torch.equal(second.normal("noise", (2, 3)), noise)


def test_the_global_generator_is_left_alone():
    state = torch.get_rng_state()
    Draws(0, "a").normal("noise", (4,))
    Draws(0, "a").uniform("t")
    assert torch.equal(state, torch.get_rng_state())


def test_every_part_of_the_key_counts():
    keys = [(0, "a", 0, "n"), (1, "a", 0, "n"), (0, "b", 0, "n"), (0, "a", 1, "n"), (0, "a", 0, "m"), (0, "1", 11, "n"), (0, "11", 1, "n")]
    assert len({Draws(*key[:3]).uniform(key[3]) for key in keys}) == len(keys)
    assert len({Draws(*key[:3]).normal(key[3], (1,)).item() for key in keys}) == len(keys)


def test_a_number_and_its_text_are_one_record():
    assert Draws(0, 7).uniform("t") == Draws(0, "7").uniform("t")


def test_frozen_values():
    """A change here changes every run and every cache keyed by draws."""
    draws = Draws(seed=0, record_id="pair-17", draw=3)
    assert draws.uniform("timestep") == 0.9681383967399597
    assert [round(x, 4) for x in draws.normal("noise", (3,)).tolist()] == [1.2346, -0.6249, -0.2787]


def test_uniforms_are_uniform():
    u = torch.tensor([Draws(0, i).uniform("t") for i in range(20000)], dtype=torch.float64)
    assert ((u >= 0) & (u < 1)).all() and torch.equal(u, u.float().double())
    assert abs(u.mean() - 0.5) < 0.01 and abs(u.var() - 1 / 12) < 0.003
    assert (u.mul(10).long().bincount() - 2000).abs().max() < 200  # 4.7 standard deviations


def test_normals_are_normal_and_records_unrelated():
    x = torch.stack([Draws(0, i).normal("noise", (4, 8, 8)).flatten() for i in range(200)])
    assert x.dtype == torch.float32 and abs(x.mean()) < 0.02 and abs(x.var() - 1) < 0.03
    correlation = torch.corrcoef(x) - torch.eye(200)
    assert correlation.abs().max() < 0.4 and abs(correlation.mean()) < 0.005  # 1/sqrt(256) = 0.06 each
