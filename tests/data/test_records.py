"""Records: ids that name content, and refusals that name the value."""

import pytest

from diffalign.data import Image, Label, Pair, Ranking
from tests.data.files import encoded

RED, BLUE, GREEN = (Image.of(encoded(color)) for color in ("red", "blue", "green"))


def test_id_is_the_content_in_its_roles(tmp_path):
    (tmp_path / "elsewhere.png").write_bytes(RED.data)
    pair = Pair(None, "a cat", RED, BLUE)
    assert pair.id == Pair(None, "a cat", Image.of(tmp_path / "elsewhere.png"), BLUE, weight=2.0, origin="there").id
    others = [
        Pair(None, "a dog", RED, BLUE),
        Pair(None, "a cat", BLUE, RED),
        Pair(None, "a cat", RED, BLUE, prompt_chosen="a red cat"),
        Pair(None, "a cat", RED, BLUE, prompt_rejected="a red cat"),
        Pair(None, "a cat", RED, BLUE, source=GREEN),
    ]
    assert len({pair.id, *(other.id for other in others)}) == 6
    assert Pair("mine", "a cat", RED, BLUE).id == "mine"


def test_paths_and_bytes_become_images(tmp_path):
    (tmp_path / "a.png").write_bytes(RED.data)
    pair = Pair(None, "a cat", tmp_path / "a.png", BLUE.data)
    assert pair.chosen.digest == RED.digest and pair.rejected == BLUE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": "  "}, "prompt is '  '"),
        ({"prompt_chosen": ""}, "prompt_chosen is ''"),
        ({"probability": 1.5}, "probability is 1.5; allowed is a finite number from 0 to 1"),
        ({"probability": float("nan")}, "probability is nan"),
        ({"probability": True}, "probability is True"),
        ({"weight": -1.0}, "weight is -1.0"),
        ({"margin": float("inf")}, "margin is inf"),
        ({"scores": (1.0,)}, "scores is .* 2 numbers"),
    ],
)
def test_pair_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        Pair(**{"id": None, "prompt": "a cat", "chosen": RED, "rejected": BLUE} | changes)


def test_label_and_ranking():
    assert Label(None, "a cat", RED, True).id == Label(None, "a cat", RED.data, True).id != Label(None, "a cat", BLUE, True).id
    ranking = Ranking(None, "a cat", [RED, BLUE, GREEN], ranks=[1.0, 2, 2])
    assert ranking.ranks == (1, 2, 2) and ranking.samples == (RED, BLUE, GREEN)
    assert ranking.id != Ranking(None, "a cat", [BLUE, RED, GREEN], ranks=[1, 2, 2]).id


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Label(None, "a cat", RED, 1), "label is 1; allowed are True"),
        (lambda: Ranking(None, "a cat", [RED], ranks=[1]), "1 samples"),
        (lambda: Ranking(None, "a cat", [RED, BLUE]), "neither ranks nor scores"),
        (lambda: Ranking(None, "a cat", [RED, BLUE], ranks=[0, 1]), "from 1"),
        (lambda: Ranking(None, "a cat", [RED, BLUE], ranks=[1, 1.5]), "whole numbers"),
        (lambda: Ranking(None, "a cat", [RED, BLUE], scores=[1.0]), "must be 2 numbers"),
    ],
)
def test_label_and_ranking_refuse(build, message):
    with pytest.raises(ValueError, match=message):
        build()
