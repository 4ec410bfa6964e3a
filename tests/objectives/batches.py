"""Evidence and labels for any objective, made from what it says that it takes, needs and reads, so that a new row is covered."""

import dataclasses

import torch

from diffalign import objectives
from diffalign.objectives import EXTRAS, Comparison, Evidence, Labels, Rankings, Scores

F64 = torch.float64
POSITIVE = ("drift", "sequential_kl", "masked_kl", "teacher_kl", "distillation", "prompt_distance")
COUNTS = ("joint_size", "rationale_size")


def build(name: str, **options):
    """The objective of a row at its defaults, 0.4 where there is none."""
    given = {option: 0.4 for option, what in objectives.TABLE[name].options.items() if what.default is None}
    return objectives.get(name, **(given | options))


def extra_of(name: str, samples: int, pairs: int, generator: torch.Generator) -> torch.Tensor:
    values = torch.randn(samples if EXTRAS[name].each == "sample" else pairs, generator=generator, dtype=F64)
    if name in POSITIVE:
        return values.abs()
    if name in COUNTS:
        return (values.abs() * 10 + 1).round()
    if name == "balance":
        return values.sigmoid()
    if name == "from_reference":
        return (values > 0).to(F64)
    return -values.abs() * 4 if name in ("joint", "rationale", "prior") else values


def labels_of(objective, count: int, generator: torch.Generator):
    """Labels of `count` units, with everything that the objective reads."""
    if objective.takes == "labels":
        return Labels(torch.rand(count, generator=generator) > 0.5, torch.rand(count, generator=generator, dtype=F64))
    if objective.takes == "scores":
        return Scores(torch.randn(count, generator=generator, dtype=F64), torch.rand(count, generator=generator, dtype=F64))
    if objective.takes == "rankings":
        group = torch.arange(count).repeat(3)[torch.randperm(3 * count, generator=generator)]
        return Rankings(group, torch.rand(3 * count, generator=generator, dtype=F64), torch.rand(count, generator=generator, dtype=F64))
    said = dict(zip(("probability", "weight", "scale", "margin"), torch.rand(4, count, generator=generator, dtype=F64), strict=True))
    return Comparison.halves(count, **{name: value for name, value in said.items() if name in objective.reads})


def batch(objective, count: int = 4, seed: int = 0, scale: float = 3.0) -> tuple[Evidence, object]:
    """Random evidence in float64 (policies below 0, as log-probabilities are) and random labels of `count` units."""
    generator = torch.Generator().manual_seed(seed)
    labels = labels_of(objective, count, generator)
    samples = {"pairs": 2, "labels": 1, "scores": 1, "rankings": 3}[objective.takes] * count
    policy, reference = -scale * torch.rand(2, samples, generator=generator, dtype=F64) - 0.01
    size = torch.randint(1, 9, (samples,), generator=generator).to(F64)
    names = sorted(need.removeprefix("extra:") for need in objective.needs if need.startswith("extra:"))
    extra = {name: extra_of(name, samples, count, generator) for name in names}
    return Evidence(policy, reference, size, extra), labels


def at_start(objective, evidence: Evidence) -> Evidence:
    """The same while policy and reference are equal."""
    extra = {name: torch.zeros_like(value) if EXTRAS[name].starts_at_zero else value for name, value in evidence.extra.items()}
    return dataclasses.replace(evidence, policy=evidence.reference, extra=extra)


def rows_of(evidence: Evidence, rows: torch.Tensor, pairs: torch.Tensor | None = None) -> Evidence:
    """The evidence of some rows; `pairs`: which of the numbers a pair go with them."""
    extra = {}
    for name, value in evidence.extra.items():
        kept = rows if EXTRAS[name].each == "sample" else pairs
        extra[name] = value[kept]
    reference = None if evidence.reference is None else evidence.reference[rows]
    return Evidence(evidence.policy[rows], reference, evidence.size[rows], extra)


def split(objective, evidence: Evidence, labels, parts: list[int]) -> list[tuple[Evidence, object]]:
    """Micro-batches of so many units each."""
    units = torch.arange(sum(parts)).split(parts)
    if objective.takes == "labels":
        return [(rows_of(evidence, part), Labels(labels.desirable[part], labels.weight[part])) for part in units]
    if objective.takes == "scores":
        return [(rows_of(evidence, part), Scores(labels.value[part], labels.weight[part])) for part in units]
    if objective.takes == "rankings":
        found = []
        for part in units:
            rows = torch.isin(labels.group, part).nonzero().flatten()
            group = (labels.group[rows][:, None] == part).int().argmax(1)
            found.append((rows_of(evidence, rows), Rankings(group, labels.relevance[rows], labels.weight[part])))
        return found
    count = len(labels.pairs)
    return [
        (rows_of(evidence, torch.cat([part, part + count]), part),
         Comparison.halves(len(part), probability=labels.probability[part], weight=labels.weight[part], scale=labels.scale[part],
                           margin=labels.margin[part]))
        for part in units
    ]  # fmt: skip


def shuffled(objective, evidence: Evidence, labels, seed: int = 1) -> tuple[Evidence, object]:
    """Samples, and pairs, in another order."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(evidence.policy), generator=generator)
    if objective.takes == "labels":
        return rows_of(evidence, rows), Labels(labels.desirable[rows], labels.weight[rows])
    if objective.takes == "scores":
        return rows_of(evidence, rows), Scores(labels.value[rows], labels.weight[rows])
    if objective.takes == "rankings":
        return rows_of(evidence, rows), Rankings(labels.group[rows], labels.relevance[rows], labels.weight)
    pairs = torch.randperm(len(labels.pairs), generator=generator)
    place = torch.empty_like(rows)
    place[rows] = torch.arange(len(rows))
    said = {name: vars(labels)[name][pairs] for name in ("probability", "weight", "scale", "margin")}
    return rows_of(evidence, rows, pairs), Comparison(place[labels.pairs[pairs]], **said)


def units(labels) -> int:
    """How many units the labels have."""
    if isinstance(labels, Comparison):
        return len(labels.pairs)
    return labels.groups if isinstance(labels, Rankings) else labels.rows


def loss_and_gradients(objective, evidence: Evidence, labels, denominator: int | None = None):
    """The reduced loss, and its gradients in the policy and in the extras that want one: name -> tensor."""
    policy = evidence.policy.clone().requires_grad_()
    extra = {name: value.clone().requires_grad_() for name, value in evidence.extra.items()}
    terms = objective(Evidence(policy, evidence.reference, evidence.size, extra), labels)
    loss = objectives.reduce(terms, denominator or units(labels))
    found = torch.autograd.grad(loss, [policy, *extra.values()], allow_unused=True)
    gradients = {name: gradient for name, gradient in zip(["policy", *extra], found, strict=True) if gradient is not None}
    return loss.detach(), gradients, terms
