"""as_source: every conversion, what it leaves out, and what it refuses."""

import pytest

from diffalign.data import Image, Label, Pair, Ranking, as_source, relevance
from tests.data.files import encoded

RED, BLUE, GREEN = (Image.of(encoded(color)) for color in ("red", "blue", "green"))


def pair(id="p", probability=1.0, **changes) -> Pair:
    return Pair(**{"id": id, "prompt": "a cat", "chosen": RED, "rejected": BLUE, "probability": probability} | changes)


def ranking(id="r", samples=(RED, BLUE, GREEN), **order) -> Ranking:
    return Ranking(id, "a cat", samples, **order)


def same(image: Image, other: Image) -> bool:
    return image.digest == other.digest


@pytest.mark.parametrize(("source", "record"), [
    ("pairs", pair()), ("labels", Label("l", "a cat", RED, True)), ("rankings", ranking(ranks=[1, 2, 3])),
])  # fmt: skip
def test_what_is_asked_for_stays(source, record):
    assert as_source([record, record], source) == ([record, record], None)


def test_pairs_as_labels():
    """A pair with probability below one half says that its rejected image is the better one."""
    labels, said = as_source([pair("a", weight=2.0, origin="there"), pair("b", 0.3), pair("tie", 0.5)], "labels")
    assert [(label.id, label.label) for label in labels] == [("a/good", True), ("a/bad", False), ("b/good", True), ("b/bad", False)]
    assert [same(label.sample, image) for label, image in zip(labels, (RED, BLUE, BLUE, RED), strict=True)] == [True] * 4
    assert (labels[0].weight, labels[1].weight, labels[2].weight, labels[1].origin, labels[1].prompt) == (2.0, 2.0, 1.0, "there", "a cat")
    assert said == "3 pairs as 4 labels: chosen images are good, rejected ones bad"


def test_pairs_as_rankings():
    """... of two, whose relevances are the probabilities to be the better one; a tie stays a tie."""
    made, said = as_source([pair("a", weight=2.0, origin="there"), pair("b", 0.3), pair("tie", 0.5)], "rankings")
    assert all(isinstance(record, Ranking) and record.ranks is None for record in made)
    assert [relevance(record) for record in made] == [(1.0, 0.0), (0.3, 0.7), (0.5, 0.5)]
    assert [record.id for record in made] == ["a", "b", "tie"]
    assert (made[0].weight, made[0].origin, made[0].prompt) == (2.0, "there", "a cat")
    assert same(made[0].samples[0], RED) and same(made[0].samples[1], BLUE)
    assert said == "3 pairs as rankings of two"


def test_rankings_as_pairs():
    """The best against the worst; the first of equals; scores over ranks."""
    made, said = as_source(
        [
            ranking("ranks", ranks=[2, 3, 1]),
            ranking("scores", scores=[0.2, 0.9, -1.0]),
            ranking("both", ranks=[1, 2, 3], scores=[0.0, 0.5, 1.0]),
            ranking("first", ranks=[1, 1, 2]),
            ranking("tie", ranks=[2, 2, 2]),
        ],
        "pairs",
    )
    assert [record.id for record in made] == ["ranks", "scores", "both", "first"]
    for record, (best, worst) in zip(made, [(GREEN, BLUE), (BLUE, GREEN), (GREEN, RED), (RED, GREEN)], strict=True):
        assert same(record.chosen, best) and same(record.rejected, worst), record.id
    assert [record.scores for record in made] == [None, (0.9, -1.0), (1.0, 0.0), None]
    assert [record.probability for record in made] == [1.0] * 4
    assert said == "5 rankings as 4 pairs: the best against the worst of each"
    heavy = Ranking("w", "a dog", (RED, BLUE), ranks=[1, 2], weight=3.0, origin="there")
    (record,), _ = as_source([heavy], "pairs")
    assert (record.weight, record.origin, record.prompt) == (3.0, "there", "a dog")


def test_rankings_as_labels():
    labels, said = as_source([ranking("a", ranks=[2, 3, 1]), ranking("b", scores=[0.2, 0.9, -1.0])], "labels")
    assert [(label.id, label.label) for label in labels] == [("a/good", True), ("a/bad", False), ("b/good", True), ("b/bad", False)]
    assert all(same(label.sample, image) for label, image in zip(labels, (GREEN, BLUE, BLUE, GREEN), strict=True))
    assert said == "2 rankings as 4 labels: the best against the worst of each"


@pytest.mark.parametrize("source", ["labels", "rankings"])
def test_ids_stay_unique(source):
    """Second opinions about the same images have ids of their own, and so has all that is made of them."""
    records = [pair("a"), pair("a~2", weight=2.0), pair("b", chosen=GREEN)]
    made, _ = as_source(records, source)
    assert len({record.id for record in made}) == len(made) == (6 if source == "labels" else 3)


def test_relevance():
    """Scores as they are; of ranks alone (k - rank)/(k - 1): 3 of them give 1, 1/2, 0; ties are equal."""
    assert relevance(ranking(ranks=[2, 1, 3])) == (0.5, 1.0, 0.0)
    assert relevance(ranking(ranks=[1, 1, 3])) == (1.0, 1.0, 0.0)
    assert relevance(ranking(ranks=[3, 2, 1], scores=[5.0, 4.0, -2.0])) == (5.0, 4.0, -2.0)


@pytest.mark.parametrize(("records", "source", "message"), [
    ([Label("l", "a cat", RED, True)], "pairs", "takes pairs and the data holds labels, which have no partner.*diffusion-kto"),
    ([Label("l", "a cat", RED, True)], "rankings", "takes rankings and the data holds labels"),
    ([pair(), Label("l", "a cat", RED, True)], "labels", "holds labels and pairs; give records of one kind"),
    ([pair(), ranking(ranks=[1, 2, 3])], "pairs", "holds pairs and rankings"),
    ([], "pairs", "holds no records"),
    ([pair(probability=0.5)], "labels", "every pair of the data is a tie"),
    ([ranking(ranks=[1, 1, 1])], "pairs", "every ranking of the data is a tie: give ranks or scores that differ"),
    ([ranking(scores=[0.5, 0.5, 0.5])], "labels", "every ranking of the data is a tie"),
    ([pair()], "scores", r"takes scores, and no data is read or converted to these \(it gives pairs, labels, rankings\)"),
])  # fmt: skip
def test_refusals(records, source, message):
    with pytest.raises(ValueError, match=message):
        as_source(records, source)
