"""Entangled gradients: vectors by hand, a linear model, and finite steps of real denoisers."""

import numpy as np
import pytest
import torch

from diffalign.denoising import denoising_error, outputs
from diffalign.eval.diagnostics.entanglement import PATTERNS, Entanglement, denoising_entanglement, entanglement
from diffalign.train import TrainConfig
from diffalign.train.setup import build
from diffalign.worlds import shapes

PAIRS = torch.tensor([[0, 1]])


def of(*gradients) -> Entanglement:
    """Pairs of rows of a linear model, whose gradients are the rows."""
    weights = torch.zeros(len(gradients[0]), requires_grad=True)
    return entanglement(torch.tensor(gradients) @ weights, torch.arange(len(gradients)).reshape(-1, 2), [weights])


def test_by_hand():
    """g_w = (1, 0), g_l = (2, 1): 1, 5 and 2; 1 < 2 < 5, so both fall. The step is g_w - g_l = (-1, -1): changes -1 and -3."""
    found = of([1.0, 0.0], [2.0, 1.0])
    assert (found.chosen.item(), found.rejected.item(), found.inner.item()) == (1.0, 5.0, 2.0)
    assert found.change().tolist() == [[-1.0, -3.0]] and found.patterns()["both fall"] == 1.0
    assert (found.chosen_ratio.item(), found.rejected_ratio.item(), found.cosine.item()) == (2.0, 0.4, pytest.approx(2 / 5**0.5))
    # chosen rises from c_w / c_l = 2 on
    assert found.change(2.0, 1.0)[0, 0] == 0 and found.change(2.1, 1.0)[0, 0] > 0 > found.change(1.9, 1.0)[0, 0]


def test_orthogonal_gradients_are_not_entangled_and_equal_ones_wholly():
    apart, same = of([3.0, 0.0], [0.0, 2.0]), of([3.0, 4.0], [3.0, 4.0])
    assert apart.inner.item() == apart.cosine.item() == apart.chosen_ratio.item() == 0.0 and apart.change().tolist() == [[9.0, -4.0]]
    assert same.cosine.item() == same.chosen_ratio.item() == 1.0 and same.change().tolist() == [[0.0, 0.0]]
    still = of([0.0, 0.0], [1.0, 1.0])
    assert (still.cosine.item(), still.chosen_ratio.item()) == (0.0, 0.0)


def test_the_four_patterns():
    found = of([1.0, 0.0], [0.0, 1.0], [2.0, 1.0], [1.0, 0.0], [1.0, 0.0], [2.0, 1.0])
    assert found.patterns() == dict(zip(PATTERNS, (1 / 3, 1 / 3, 1 / 3, 0.0), strict=True))
    # with c_w = 0.1 the second pair's changes are 0.5 - 2 and 0.2 - 1
    assert found.patterns(0.1, 1.0)["both fall"] == 2 / 3


def test_the_whole_batch_takes_the_mean_gradients():
    """Two pairs whose rejected gradients cancel: alone both are entangled, together not at all."""
    found = of([1.0, 0.0], [2.0, 1.0], [1.0, 0.0], [-2.0, -1.0])
    assert found.inner.tolist() == [2.0, -2.0]
    assert [getattr(found.together, name).tolist() for name in ("chosen", "rejected", "inner")] == [[1.0], [0.0], [0.0]]
    assert found.measures()["chosen ratio of the whole batch"]["value"] == 0.0


@pytest.mark.parametrize("kept", [0.0, 0.2, 0.9])
def test_the_losers_weight_keeps_what_it_promises(kept):
    rng = torch.Generator().manual_seed(0)
    found = of(*torch.randn(40, 3, generator=rng).tolist())
    weight = found.loser_weight(kept)
    left = found.chosen - weight * found.inner
    assert (left >= kept * found.chosen - 1e-9).all() and (weight < 1).any() and (weight == 1).any()
    assert (abs(left - kept * found.chosen)[weight < 1] < 1e-6).all(), "no more is taken from the loser than it must"


def test_in_output_space_it_is_diffusion_sdpos_balance():
    """One output for both sides as the parameter: the loser's weight is that of outputs.balance."""
    generator = torch.Generator().manual_seed(1)
    output, target = torch.randn(4, 3, 3, generator=generator).requires_grad_(), torch.randn(2, 4, 3, 3, generator=generator)
    prediction = output.expand(2, -1, -1, -1)  # both sides read the same numbers, as they share a network
    found = entanglement(-0.5 * denoising_error(prediction, target), PAIRS, [output])
    for mu in (0.2, 0.9):
        assert found.loser_weight(mu) == pytest.approx(outputs.balance(prediction, target, PAIRS, mu=mu).numpy(), rel=1e-5)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The embedded model with a fresh adapter whose B is not zero, so that A has gradients too; three of its own pairs."""
    from tests.models.shared import jolt

    folder = tmp_path_factory.mktemp("shapes")
    config = TrainConfig(
        model="builtin:shapes", data=str(shapes.PAIRS), output_dir=str(folder), max_pairs=3, held_out=0.0, lora_rank=2, device="cpu"
    )
    parts = build(config, torch.device("cpu"), quiet=True)
    jolt(parts.model.denoiser, size=0.02)
    return parts


def test_a_small_step_does_what_the_inner_products_say(parts):
    """Along c_w g_w - c_l g_l of one pair; evidence is measured again without gradients."""
    model, batch = parts.model, parts.held_out_maker([0, 1, 2], 0)
    found = denoising_entanglement(model, batch)
    assert (found.chosen > 0).all() and (found.inner != 0).all() and all(p.grad is None for p in model.denoiser.parameters())
    trained = [p for p in model.denoiser.parameters() if p.requires_grad]
    x_t, target = model.path.add_noise(batch.x0, batch.noise, batch.t), model.path.target(batch.x0, batch.noise, batch.t)

    def evidence():
        return -0.5 * denoising_error(model.predict(x_t, batch.t, batch.conditioning), target)

    before = evidence()
    pair, weights = [1, 4], (1.0, 0.5)  # of the second pair
    step = torch.autograd.grad(weights[0] * before[pair[0]] - weights[1] * before[pair[1]], trained)
    size, around = 1e-3 / float(sum((g**2).sum() for g in step)) ** 0.5, []
    for sign in (1, -2):
        with torch.no_grad():
            for parameter, gradient in zip(trained, step, strict=True):
                parameter += sign * size * gradient
            around.append(evidence()[pair].double())
    with torch.no_grad():
        for parameter, gradient in zip(trained, step, strict=True):
            parameter += size * gradient
    change = (around[0] - around[1]).numpy() / (2 * size)
    assert change == pytest.approx(found.change(*weights)[1], rel=2e-2)


def test_of_a_batch_with_every_pair_alone(parts):
    """The batch gives each pair's own numbers, and together those of the summed losses."""
    maker, denoiser = parts.held_out_maker, parts.model.denoiser
    found = denoising_entanglement(parts.model, maker([0, 1, 2], 0))
    alone = [denoising_entanglement(parts.model, maker([i], 0)) for i in range(3)]
    for name in ("chosen", "rejected", "inner"):
        assert getattr(found, name) == pytest.approx(np.concatenate([getattr(one, name) for one in alone]), rel=1e-3)
    assert alone[0].together.inner == pytest.approx(alone[0].inner)
    assert set(found.measures()) >= {f"a step on a pair: {name}" for name in PATTERNS} and denoiser.training
    some = [p for name, p in denoiser.named_parameters() if p.requires_grad and "lora_A" in name]
    assert (denoising_entanglement(parts.model, maker([0], 0), parameters=some).chosen < alone[0].chosen).all()


def test_refusals(parts):
    batch = parts.held_out_maker([0], 0)
    with pytest.raises(ValueError, match="parameters \\(0\\)"):
        denoising_entanglement(parts.model, batch, parameters=[])
    with pytest.raises(ValueError, match="requires_grad is False"):
        entanglement(torch.zeros(2), PAIRS, [torch.zeros(1, requires_grad=True)])
    with pytest.raises(ValueError, match="kept is 1.5"):
        of([1.0], [1.0]).loser_weight(1.5)
