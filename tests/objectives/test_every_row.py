"""What holds for every row of the table, on random evidence of what it needs: a row that is added is covered by being there."""

import dataclasses
import math

import pytest
import torch

from diffalign import objectives
from diffalign.denoising import denoising_evidence
from diffalign.llm import sequence_evidence
from diffalign.objectives import EXTRAS, TABLE, Comparison, Evidence, Labels, Rankings, Scores
from tests.objectives.batches import F64, at_start, batch, build, loss_and_gradients, shuffled, split, units

NAMES = objectives.names()
FREE = [name for name in NAMES if TABLE[name].couples == ""]
RANKS = [name for name in NAMES if TABLE[name].couples == "ranks"]
# what these stop the gradient of moves with the evidence, so finite differences see what autograd must not; each has a test of its own
STOPPED = {"linear-dpo", "sdpo", "kto", "bco", "bco-trl", "tdpo2"}


@pytest.mark.parametrize("name", NAMES)
def test_what_a_row_says_of_itself(name):
    row, objective = TABLE[name], build(name)
    assert objective.needs == row.needs and objective.takes == row.takes and row.couples in ("", "ranks", "call")
    assert {need.removeprefix("extra:") for need in row.needs if need.startswith("extra:")} <= EXTRAS.keys()
    assert all(need in ("reference", "size") or need.startswith("extra:") for need in row.needs)


@pytest.mark.parametrize("name", NAMES)
def test_it_reads_what_it_says_and_nothing_else(name):
    """Without a field that it names it says which; without those it does not name nothing changes."""
    objective = build(name)
    evidence, labels = batch(objective)
    loss, _, _ = loss_and_gradients(objective, evidence, labels)
    bare = dataclasses.replace(evidence, reference=evidence.reference if "reference" in objective.needs else None,
                               size=evidence.size if "size" in objective.needs else None)
    assert torch.equal(loss_and_gradients(build(name), bare, labels)[0], loss)
    for need in objective.needs:
        if need.startswith("extra:"):
            without = dataclasses.replace(bare, extra={key: value for key, value in bare.extra.items() if f"extra:{key}" != need})
        else:
            without = dataclasses.replace(bare, **{need: None})
        with pytest.raises(ValueError, match=need.removeprefix("extra:")):
            build(name)(without, labels)


@pytest.mark.parametrize("name", NAMES)
def test_start_value_or_the_reason_why_there_is_none(name):
    objective = build(name)
    evidence, labels = batch(objective)
    evidence = at_start(objective, evidence)
    try:
        start = objective.loss_at_start(labels)
    except ValueError as error:
        assert "depends on the model" in str(error)
        far = dataclasses.replace(evidence, policy=2 * evidence.policy, reference=2 * evidence.reference)
        a, b = objective(evidence, labels).loss, objective(far, labels).loss
        assert not torch.allclose(a, b) or any(not EXTRAS[key].starts_at_zero for key in evidence.extra)
    else:
        loss = objective(evidence, labels).loss
        torch.testing.assert_close(loss, objective.loss_at_start(labels.beside(loss)), rtol=1e-10, atol=1e-12)
        assert len(start) == len(loss)


START = {
    "dpo": math.log(2), "cdpo": math.log(2), "robust-dpo": math.log(2), "hinge": 1.0, "exo": 2.761230709, "nca": 2 * math.log(2),
    "bco-pair": 2 * math.log(2), "apo-zero": 1.0, "apo-down": 1.0, "sppo-hard": 0.5 / 0.4**2, "ipo": (0.5 / 0.4) ** 2,
    "ipo-mean": (0.5 / 0.4) ** 2, "discopop": 0.5 * (math.log(2) + 1), "sigmoid-norm": math.log(2), "plackett-luce": math.log(6),
    "infonca": math.log(3), "nca-list": 2 * math.log(2), "aot": math.log(2), "aot-unpaired": math.log(2), "tdpo1": math.log(2),
    "tdpo2": math.log(2), "ld-dpo": math.log(2), "sparse-po": math.log(2), "tgdpo": math.log(2), "re-align": 2 * math.log(2),
    "mdpo": 3 * math.log(2), "opa-dpo": 3.2 * math.log(2), "wpo": math.log(2), "dpop": math.log(2), "f-dpo-js": math.log(2),
    "f-dpo-forward-kl": math.log(2), "f-dpo-alpha": math.log(2), "dpo-online-kl": math.log(2), "kto-mismatched": 0.5,
    "apo-zero-unpaired": 0.5, "bco": math.log(2), "bco-trl": math.log(2), "trpa": math.log(2), "brain": math.log(3),
}  # fmt: skip


@pytest.mark.parametrize("name", START)
def test_published_start_values_of_plain_labels(name):
    objective, count = build(name), 2
    labels = {
        "pairs": Comparison.halves(count), "labels": Labels(torch.tensor([True, False])),
        "rankings": Rankings(torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0.0, -1.0, -2.0] * 2)),
    }[objective.takes]  # fmt: skip
    assert objective.loss_at_start(labels).tolist() == pytest.approx([START[name]] * count, rel=1e-6)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in STOPPED])
def test_gradients_against_finite_differences(name):
    objective = build(name)
    evidence, labels = batch(objective, count=3)
    wanted = [key for key in evidence.extra if EXTRAS[key].gradient]
    inputs = [evidence.policy.clone(), *(evidence.extra[key].clone() for key in wanted)]

    def loss(policy, *values):
        extra = {**evidence.extra, **dict(zip(wanted, values, strict=True))}
        return objectives.reduce(build(name)(Evidence(policy, evidence.reference, evidence.size, extra), labels), units(labels))

    assert torch.autograd.gradcheck(loss, [value.requires_grad_() for value in inputs], eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_no_gradient_where_none_belongs(name):
    """Not on the reference, the size, extras that are data, nor in the metrics; and one on the policy or on an extra that carries it."""
    objective = build(name)
    evidence, labels = batch(objective)
    reference, size = (value.clone().requires_grad_() for value in (evidence.reference, evidence.size))
    _, gradients, terms = loss_and_gradients(objective, dataclasses.replace(evidence, reference=reference, size=size), labels)
    assert reference.grad is None and size.grad is None
    assert all(EXTRAS[key].gradient for key in gradients if key != "policy")
    assert any(gradient.abs().max() > 0 for gradient in gradients.values())
    assert not any(value.requires_grad for value, _ in terms.metrics.values()) and not terms.weight.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_far_out_is_finite(name, sign, dtype):
    """Margins of +-1e4 in half precision: float32 out, finite with finite gradients."""
    objective = build(name, **({"beta": 0.5} if "beta" in TABLE[name].options else {}))
    evidence, labels = batch(objective)
    far = torch.full_like(evidence.policy, -1e4 if sign > 0 else -1e-3)
    far[: len(far) // 2] = -1e-3 if sign > 0 else -1e4
    extra = {key: value.to(dtype).requires_grad_() for key, value in evidence.extra.items()}
    reference = far.flip(0).to(dtype)
    made = Evidence(far.to(dtype).requires_grad_(), reference, torch.ones_like(reference), extra)
    terms = objective(made, labels.beside(torch.zeros(1)))
    loss = objectives.reduce(terms, units(labels))
    gradients = torch.autograd.grad(loss, [made.policy, *made.extra.values()], allow_unused=True)  # of the float32 that a step sums in
    assert terms.loss.dtype == torch.float32 and torch.isfinite(terms.loss).all()
    assert all(torch.isfinite(gradient).all() for gradient in gradients if gradient is not None)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_samples_and_units_does_not_matter(name):
    objective = build(name)
    evidence, labels = batch(objective)
    before, gradients, terms = loss_and_gradients(build(name), evidence, labels)
    after, _, again = loss_and_gradients(build(name), *shuffled(objective, evidence, labels))
    assert after.item() == pytest.approx(before.item(), rel=1e-12)
    for key, (value, count) in terms.metrics.items():
        assert again.metrics[key][0].item() == pytest.approx(value.item(), rel=1e-9, abs=1e-12) and again.metrics[key][1] == count


@pytest.mark.parametrize("name", FREE)
def test_t38_uneven_micro_batches_add_up_to_the_whole(name):
    objective = build(name)
    evidence, labels = batch(objective, count=7)
    whole, _, terms = loss_and_gradients(objective, evidence, labels)
    parts = [loss_and_gradients(build(name), *part, denominator=7) for part in split(objective, evidence, labels, [1, 4, 2])]
    assert sum(loss for loss, _, _ in parts).item() == pytest.approx(whole.item(), rel=1e-12)
    merged = objectives.means(objectives.merge(part.metrics for _, _, part in parts))
    assert merged == pytest.approx(objectives.means(terms.metrics), rel=1e-11, abs=1e-13)


class Ranks:
    """Two ranks in one process: the first pass takes down what each would send, the second gives every one the sums."""

    def __init__(self):
        self.sent = {0: [], 1: []}

    def record(self, rank):
        def all_reduce(tensor):
            self.sent[rank].append(tensor.clone())
            return tensor.clone()
        return all_reduce

    def replay(self, rank):
        calls = iter(range(len(self.sent[rank])))
        def all_reduce(tensor):
            i = next(calls)
            assert torch.equal(tensor, self.sent[rank][i])
            return self.sent[0][i] + self.sent[1][i]
        return all_reduce


@pytest.mark.parametrize("name", RANKS)
def test_two_ranks_are_one(name):
    whole_objective = build(name)
    evidence, labels = batch(whole_objective, count=5)
    whole, gradients, _ = loss_and_gradients(whole_objective, evidence, labels)
    ranks, parts = Ranks(), split(whole_objective, evidence, labels, [3, 2])
    for rank, part in enumerate(parts):
        loss_and_gradients(build(name, all_reduce=ranks.record(rank)), *part)
    assert len(ranks.sent[0]) == len(ranks.sent[1]) > 0
    both = [build(name, all_reduce=ranks.replay(rank)) for rank in (0, 1)]
    losses = [loss_and_gradients(objective, *part, denominator=5)[0] for objective, part in zip(both, parts, strict=True)]
    assert sum(losses).item() == pytest.approx(whole.item(), rel=1e-12)
    assert both[0].state_dict() == both[1].state_dict() == pytest.approx(whole_objective.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_a_rank_that_validates_alone_sends_nothing_and_leaves_no_trace(name):
    def refuse(tensor):
        raise AssertionError("validation called all_reduce")
    objective = build(name, all_reduce=refuse)
    evidence, labels = batch(objective)
    assert torch.isfinite(objective(evidence, labels).loss).all() and objective.state_dict() == {}


@pytest.mark.parametrize("name", NAMES)
def test_text_and_denoising_share_the_objective_byte_for_byte(name):
    """The same object, fed with log-probabilities and with errors of -2 log p, gives the same losses, weights and gradients."""
    row = TABLE[name]
    probe = build(name)
    evidence, labels = batch(probe)
    policy, reference = evidence.policy.float(), evidence.reference.float()
    extra = {key: value.float().requires_grad_() for key, value in evidence.extra.items()}
    pairs = labels.pairs if row.takes == "pairs" else torch.zeros(0, 2, dtype=torch.int64)
    found = []
    for text in (True, False):
        objective, leaf = build(name), policy.clone().requires_grad_()
        if text:
            made = sequence_evidence(leaf.view(-1, 1), torch.ones(len(leaf), 1, dtype=torch.bool), reference.view(-1, 1))
            made = dataclasses.replace(made, extra=extra)
        else:
            made = denoising_evidence(-2 * leaf, -2 * reference, t=torch.zeros(len(leaf)), pairs=pairs, extra=extra)
        terms = objective(made, labels)
        gradients = torch.autograd.grad(objectives.reduce(terms, 4), [leaf, *extra.values()], allow_unused=True)
        numbers = [terms.loss, terms.weight, *gradients, *(value for value, _ in terms.metrics.values())]
        found.append([value.detach().numpy().tobytes() for value in numbers if value is not None])
    assert found[0] == found[1]


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_micro_batch_contributes_nothing(name):
    objective = build(name)
    none = torch.zeros(0, dtype=F64)
    labels = {
        "pairs": Comparison.halves(0), "labels": Labels(none.bool()), "scores": Scores(none), "rankings": Rankings(none.long(), none),
    }[objective.takes]  # fmt: skip
    extra = {need.removeprefix("extra:"): none for need in objective.needs if need.startswith("extra:")}
    terms = objective(Evidence(none.requires_grad_(), none, none, extra), labels)
    assert objectives.reduce(terms, 4).item() == 0.0 and objectives.means(terms.metrics) == {}


@pytest.mark.parametrize("name", [name for name in NAMES if "size" in TABLE[name].needs])
def test_a_response_of_no_tokens_is_an_error_not_nan(name):
    objective = build(name)
    evidence, labels = batch(objective)
    size = evidence.size.clone()
    size[1] = 0
    with pytest.raises(ValueError, match=r"samples \[1\] have size \[0.0\].*drop empty responses"):
        objective(dataclasses.replace(evidence, size=size), labels)


@pytest.mark.parametrize("name", NAMES)
def test_labels_it_does_not_read_are_refused(name):
    objective = build(name)
    if objective.takes != "pairs":
        with pytest.raises(ValueError, match=f"takes {objective.takes}.*got Comparison"):
            objective(batch(objective)[0], Comparison.halves(1))
        return
    evidence, _ = batch(objective)
    for label, value in (("probability", 0.7), ("weight", 2.0), ("scale", 2.0), ("margin", 0.3)):
        labels = Comparison.halves(4, **{label: value})
        if label in objective.reads | objective.ignores:
            assert torch.isfinite(objective(evidence, labels).loss).all()
        else:
            with pytest.raises(ValueError, match=label):
                objective(evidence, labels)


@pytest.mark.parametrize("name", [name for name in NAMES if TABLE[name].takes == "pairs"])
def test_every_label_that_is_read_changes_the_loss(name):
    objective = build(name)
    evidence, _ = batch(objective)
    plain = objectives.reduce(objective(evidence, Comparison.halves(4)), 4)
    for label, value in (("weight", 2.0), ("scale", 2.0), ("margin", 0.3)):
        if label in objective.reads:
            changed = objectives.reduce(build(name)(evidence, Comparison.halves(4, **{label: value})), 4)
            assert not math.isclose(changed.item(), plain.item(), rel_tol=1e-9), label
