"""read_records: what a method makes of the data, what it says about that, and what it misses."""

import json

import pytest

from diffalign.data import Label, Pair, Ranking
from diffalign.train.errors import ConfigError
from diffalign.train.records import read_records
from tests.train.runs import config, write_pairs


@pytest.fixture
def read(tmp_path):
    """(method, columns of the pairs) -> what read_records gives, for eight pairs of four prompts or for a file."""

    def read(method: str, source=None, changes=None, **columns):
        source = source or write_pairs(tmp_path / "pairs", 8, **columns)
        settings = config("none", source, tmp_path / "run", method=method, **(changes or {}))
        return read_records(settings, settings.point())

    return read


@pytest.fixture
def rows(tmp_path):
    """Objects -> a .jsonl file of them beside the images of eight pairs."""

    def write(*objects: dict):
        write_pairs(tmp_path, 8)
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps({"prompt": "a cat"} | row) + "\n" for row in objects))
        return path

    return write


def image(i: int, side: str = "chosen") -> str:
    return f"{side}/{i:03d}.png"


@pytest.mark.parametrize(("method", "columns", "message"), [
    ("dcpo", {}, r"dcpo: dual captions .* 8 of 8 pairs have neither of the columns prompt_chosen and prompt_rejected\. Write them, "
                 r"or make them: python -m diffalign\.pipelines\.captions DATA dual\.parquet"),
    ("dcpo", {"prompt_rejected": ["a cat"] * 5 + [None] * 3}, "3 of 8 pairs have neither"),
    ("smpo", {}, r"smpo: soft labels .* every pair has probability 1: give a column probability in \[0, 1\]; "
                 r"p = sigmoid\(s_chosen - s_rejected\)"),
    ("capo", {}, "capo: capo regresses .* every pair has margin 0: give it as the column margin, R_chosen - R_rejected"),
])  # fmt: skip
def test_what_is_missing_is_named_with_how_to_make_it(read, method, columns, message):
    with pytest.raises(ConfigError, match=message):
        read(method, **columns)


@pytest.mark.parametrize(("method", "columns"), [
    ("dcpo", {"prompt_rejected": ["a cat"] * 8}), ("dcpo", {"prompt_chosen": ["a cat"] * 8}),
    ("smpo", {"probability": [0.9] + [1.0] * 7}), ("capo", {"margin": [0.5] + [0.0] * 7}),
    ("diffusion-dpo", {}), ("mapo", {}), ("diffusion-npo", {}),
])  # fmt: skip
def test_what_is_there_is_enough(read, method, columns):
    train, held_out, notes = read(method, **columns)
    assert (len(train), held_out) == (8, []) and all(isinstance(record, Pair) for record in train)
    assert notes == ["data: 8 read, 8 kept", "pairs: 8 to train on, 0 held out (0 measured), no prompt in both"]


def test_any_method_may_be_asked_for_dual_captions_or_soft_labels(read):
    with pytest.raises(ConfigError, match="mapo: dual captions need"):
        read("mapo", changes={"conditioning": "dual captions"})
    with pytest.raises(ConfigError, match="diffusion-dpo: soft labels are needed"):
        read("diffusion-dpo", changes={"soft_label_scale": 10.0})
    with pytest.raises(ConfigError, match="diffusion-dpo: capo regresses"):
        read("diffusion-dpo", changes={"objective": "capo", "beta": 1.0})


@pytest.mark.parametrize("objective", ["capo", "rebel", "egpo", "reward-aware-sq", "reward-aware-fwd-kl", "reward-aware-bwd-kl"])
def test_whatever_regresses_on_a_gap_of_rewards_needs_one(read, objective):
    settings = {"objective": objective, **({} if objective == "rebel" else {"beta": 1.0})}
    with pytest.raises(ConfigError, match=f"{objective} regresses on the gap of two rewards and every pair has margin 0: give it as the"):
        read("diffusion-dpo", changes=settings)
    assert len(read("diffusion-dpo", changes=settings, margin=[-0.5] + [0.0] * 7)[0]) == 8
    assert len(read("diffusion-dpo", changes={"objective": "ipo", "beta": 1.0})[0]) == 8, "ipo's gap is its own, 1/(2 beta)"


def test_conversions_are_noted(read, rows):
    train, _, notes = read("diffusion-kto")
    assert len(train) == 16 and all(isinstance(record, Label) for record in train)
    assert notes[1:] == [
        "8 pairs as 16 labels: chosen images are good, rejected ones bad",
        "labels: 16 to train on, 0 held out (0 measured), no prompt in both",
    ]
    train, _, notes = read("rankdpo")
    assert len(train) == 8 and all(isinstance(record, Ranking) for record in train) and "8 pairs as rankings of two" in notes
    ranked = rows({"samples": [image(0), image(1), image(2)], "ranks": [2, 3, 1]})
    train, _, notes = read("diffusion-dpo", ranked)
    assert [record.chosen.name.endswith(image(2)) for record in train] == [True]
    assert "1 rankings as 1 pairs: the best against the worst of each" in notes
    train, _, notes = read("rankdpo", ranked)
    assert len(train[0].samples) == 3 and len(notes) == 2, "nothing converted, nothing said"


def test_labels_have_no_partner(read, rows):
    labels = rows({"sample": image(0), "label": True}, {"sample": image(1), "label": False})
    with pytest.raises(ConfigError, match="diffusion-dpo: the method takes pairs and the data holds labels, which have no partner.*kto"):
        read("diffusion-dpo", labels)
    train, _, notes = read("diffusion-kto", labels)
    assert [record.label for record in train] == [True, False] and len(notes) == 2


def test_ties_say_neither_good_nor_bad(read):
    train, _, _ = read("diffusion-kto", changes={"ties": "half"}, probability=[0.5] * 3 + [1.0] * 5)
    assert len(train) == 10
    with pytest.raises(ConfigError, match="diffusion-kto: .* every pair of the data is a tie"):
        read("diffusion-kto", changes={"ties": "half"}, probability=[0.5] * 8)


def test_both_labels_of_a_pair_are_on_one_side(read):
    """The prompt decides, so an image that trains never measures; and max_pairs counts what the method takes."""
    train, held_out, notes = read("diffusion-kto", changes={"held_out": 0.5, "max_pairs": 3, "max_held_out_pairs": 1})
    pairs = [{record.id.split("/")[0] for record in side} for side in (train, held_out)]
    assert not pairs[0] & pairs[1] and (len(train), len(held_out)) == (3, 1)
    assert "labels: 3 to train on" in notes[-1] and "(1 measured)" in notes[-1]


def test_nothing_left_to_train_on(read):
    with pytest.raises(ConfigError, match=r"no record is left to train on: 8 read, 8 kept; 8 are held out \(held_out 0.999"):
        read("diffusion-dpo", changes={"held_out": 0.9999999})


def test_scores_that_are_no_probabilities_are_refused_by_value(read, rows):
    images = {"prompt": "a red cat", "samples": ["chosen/000.png", "rejected/000.png"]}
    source = rows({**images, "scores": [0.9, 0.1], "id": "r0"}, {**images, "scores": [22.1, 19.0], "id": "r1"})
    message = r"win probabilities in \[0, 1\].* 1 of 2 rankings have others, the first is r1 with 22\.1, 19: scale them"
    with pytest.raises(ConfigError, match=message):
        read("rankdpo", source)
