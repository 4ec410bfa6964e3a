"""The further numbers of a step on text, each against the plain computation of what it says it is."""

import pytest
import torch

from diffalign import objectives
from diffalign.llm import adapters, load_language_model
from diffalign.llm.extras import MEASURES, exchanged, unmeasured
from diffalign.llm.reference import Precomputed
from diffalign.llm.step import text_step
from diffalign.models import make_reference
from diffalign.objectives.extras import EXTRAS
from tests.llm.test_models import batch_of


class Asking:
    """An objective that reads what it is told to and hands the evidence back."""

    def __init__(self, *names):
        self.needs = frozenset({"reference", *(f"extra:{name}" for name in names)})

    def __call__(self, evidence, labels):
        return evidence


@pytest.fixture
def parts(folder, pairs):
    """A model away from its reference, and four pairs of unequal lengths."""
    model = load_language_model(str(folder))
    adapters.add(model, rank=2, alpha=None, targets="attention", seed=0)
    reference = make_reference("start", model)
    with torch.no_grad():
        for name, parameter in model.module.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    return model, reference, batch_of(model, pairs)


def distributions(model, reference, ids):
    """(log pi, log ref) over the vocabulary at every place, (N, T - 1, V)."""
    from diffalign.models import lora

    own = model.lm(input_ids=ids).logits[:, :-1].log_softmax(-1)
    with torch.no_grad(), lora.disabled(model.module):
        return own, model.lm(input_ids=ids).logits[:, :-1].log_softmax(-1)


def test_every_measure_is_its_definition(parts):
    model, reference, batch = parts
    names = ["tail", "token_kl", "self_agreement", "sequential_kl", "mismatched"]
    extra = text_step(model, reference, Asking(*names), batch).terms.extra
    pi, ref = distributions(model, reference, batch.input_ids)
    mask, targets = batch.trained[:, 1:], batch.input_ids[:, 1:, None]
    lp, lr = pi.gather(-1, targets)[..., 0], (pi - ref).gather(-1, targets)[..., 0]
    sizes, count = mask.sum(1), len(mask) // 2
    for i in range(len(mask)):
        places = mask[i].nonzero().flatten()
        common = min(sizes[i], sizes[(i + count) % len(mask)])
        expected = {
            "tail": lr[i, places[common:]].sum(),
            "token_kl": (lr[i] * lp[i])[places].sum(),
            "self_agreement": (lp[i] - pi[i].exp().square().sum(-1).log())[places].mean(),
            "sequential_kl": (ref[i].exp() * (ref[i] - pi[i])).sum(-1)[places].sum(),
        }
        for name, value in expected.items():
            assert extra[name][i].item() == pytest.approx(value.item(), abs=2e-5), (name, i)
    ids, trained = exchanged(batch)
    pi, ref = distributions(model, reference, ids)
    ratio = ((pi - ref).gather(-1, ids[:, 1:, None])[..., 0] * trained[:, 1:]).sum(1)
    assert torch.allclose(extra["mismatched"], ratio, atol=2e-5) and not extra["mismatched"].requires_grad


def test_the_joint_sum_covers_the_prompt(parts):
    model, reference, batch = parts
    out = text_step(model, reference, Asking("joint", "joint_size"), batch)
    pi, _ = distributions(model, reference, batch.input_ids)
    lp = pi.gather(-1, batch.input_ids[:, 1:, None])[..., 0]
    for i, length in enumerate(batch.lengths.tolist()):
        assert out.terms.extra["joint"][i].item() == pytest.approx(lp[i, : length - 1].sum().item(), abs=2e-5)
    assert out.terms.extra["joint_size"].tolist() == [length - 1 for length in batch.lengths.tolist()]
    assert torch.allclose(out.evidence.policy, text_step(model, reference, Asking(), batch).evidence.policy, atol=1e-5)


def test_exchanged_responses(parts):
    *_, batch = parts
    ids, trained = exchanged(batch)
    starts = batch.trained.int().argmax(1)
    for i in range(len(ids)):
        k = (i - 1) % len(ids)
        row = [*batch.input_ids[i, : starts[i]].tolist(), *batch.input_ids[k, starts[k] : batch.lengths[k]].tolist()]
        assert ids[i, : len(row)].tolist() == row and trained[i].sum() == batch.trained[k].sum()


def test_what_carries_a_gradient_and_what_starts_at_zero(parts, folder, pairs):
    model, reference, batch = parts
    out = text_step(model, reference, Asking("tail", "token_kl", "sequential_kl", "self_agreement"), batch).terms.extra
    assert {name: value.requires_grad for name, value in out.items()} == {
        "tail": True, "token_kl": True, "sequential_kl": True, "self_agreement": False,
    }  # fmt: skip
    fresh = load_language_model(str(folder))
    adapters.add(fresh, rank=2, alpha=None, targets="attention", seed=0)
    names = [name for name in MEASURES if EXTRAS[name].starts_at_zero]
    start = text_step(fresh, make_reference("start", fresh), Asking(*names), batch_of(fresh, pairs)).terms.extra
    assert set(names) >= {"tail", "sequential_kl", "mismatched"} and all(value.abs().max() < 1e-5 for value in start.values())


def test_what_is_not_measured_is_refused(parts):
    model, reference, batch = parts
    assert set(MEASURES) <= set(EXTRAS) and unmeasured(objectives.get("dpo", beta=0.1)) is None
    with pytest.raises(ValueError, match="this objective reads guided, which training on text does not measure"):
        text_step(model, reference, objectives.get("tgdpo", beta=0.1), batch)
    with pytest.raises(ValueError, match="sequential_kl compares whole distributions"):
        text_step(model, Precomputed(model, [batch], None), Asking("sequential_kl"), batch)
    single = type(batch)(batch.ids[:1], batch.input_ids[:1], batch.trained[:1], batch.lengths[:1], batch.labels)
    with pytest.raises(ValueError, match="this batch has one record: raise train_batch_size"):
        text_step(model, reference, Asking("mismatched"), single)
