"""Rows of TRL's formats to records, and one clear line for each that cannot be one."""

import json

import pytest

from diffalign.data import Label, Pair, Ranking
from diffalign.llm.reading import read_texts
from diffalign.llm.texts import Text, split_off_prompt
from tests.llm.tiny import write


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def one(tmp_path, row, **options):
    (record,), _ = read_texts(write(tmp_path / "rows.jsonl", [row]), **options)
    return record


def test_a_plain_pair(tmp_path):
    row = {"prompt": "p", "chosen": " c", "rejected": " r", "weight": 2, "margin": 0.5, "score_chosen": 3, "score_rejected": 1, "other": 0}
    pair = one(tmp_path, row)
    assert isinstance(pair, Pair) and (pair.chosen, pair.rejected) == (Text("p", " c"), Text("p", " r"))
    assert (pair.prompt, pair.weight, pair.margin, pair.scores) == ("p", 2.0, 0.5, (3.0, 1.0))


def test_ids_are_of_the_content_in_its_roles(tmp_path):
    row = {"prompt": "p", "chosen": "c", "rejected": "r"}
    first, turned = one(tmp_path, row), one(tmp_path, {**row, "chosen": "r", "rejected": "c"})
    assert first.id == one(tmp_path, {"rejected": "r", "chosen": "c", "prompt": "p"}).id != turned.id


@pytest.mark.parametrize("row", [
    {"prompt": [user("hi")], "chosen": [assistant("yes")], "rejected": [assistant("no")]},
    {"chosen": [user("hi"), assistant("yes")], "rejected": [user("hi"), assistant("no")]},
    {"prompt": "hi", "chosen": [user("hi"), assistant("yes")], "rejected": [user("hi"), assistant("no")]},
    {"prompt": "hi", "chosen": [assistant("yes")], "rejected": [assistant("no")]},
    {"prompt": json.dumps([user("hi")]), "chosen": json.dumps([assistant("yes")]), "rejected": json.dumps([assistant("no")])},
])  # fmt: skip
def test_the_ways_to_write_a_chat_are_one_record(row, tmp_path):
    pair = one(tmp_path, row)
    assert pair.prompt == "hi"
    assert pair.chosen == Text((user("hi"),), (assistant("yes"),)) and pair.rejected == Text((user("hi"),), (assistant("no"),))


def test_labels_and_rankings(tmp_path):
    label = one(tmp_path, {"prompt": "p", "completion": "c", "label": True})
    assert isinstance(label, Label) and label.label is True and label.sample == Text("p", "c")
    ranking = one(tmp_path, {"prompt": [user("p")], "completions": [[assistant("a")], [assistant("b")]], "scores": [0.2, 0.9]})
    assert isinstance(ranking, Ranking) and ranking.scores == (0.2, 0.9) and ranking.samples[1].response == (assistant("b"),)
    ranks = one(tmp_path, {"prompt": "p", "samples": ["a", "b"], "ranks": [2, 1]})
    assert ranks.ranks == (2, 1) and ranks.samples[0] == Text("p", "a")


def test_other_column_names_and_ties(tmp_path):
    rows = [{"q": "p", "good": "c", "bad": "r", "probability": p} for p in (0.5, 0.9)]
    path, columns = write(tmp_path / "rows.jsonl", rows), {"prompt": "q", "chosen": "good", "rejected": "bad"}
    records, counts = read_texts(path, columns=columns)
    assert [record.probability for record in records] == [0.9] and "tie" in str(counts)
    assert len(read_texts(path, columns=columns, ties="half")[0]) == 2


def test_a_parquet_file_and_a_saved_data_set(tmp_path):
    from datasets import Dataset

    rows = [{"chosen": [user("hi"), assistant(f"yes {i}")], "rejected": [user("hi"), assistant("no")]} for i in range(3)]
    Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    saved, parquet = (read_texts(tmp_path / name)[0] for name in ("saved", "rows.parquet"))
    assert [r.id for r in saved] == [r.id for r in parquet] and saved[2].chosen.response == (assistant("yes 2"),)


@pytest.mark.parametrize("chosen, rejected, parts", [
    ("\n\nHuman: hi\n\nAssistant: yes sir", "\n\nHuman: hi\n\nAssistant: no", ("\n\nHuman: hi\n\nAssistant:", " yes sir", " no")),
    ("say cat now", "say car now", ("say", " cat now", " car now")),
    ("ab", "cd", ("", "ab", "cd")),
])  # fmt: skip
def test_a_shared_prompt_ends_before_the_word_in_which_the_responses_part(chosen, rejected, parts):
    assert split_off_prompt(chosen, rejected) == parts


@pytest.mark.parametrize("row, words", [
    ({"prompt": "p", "chosen": "", "rejected": "r"}, "rows.jsonl:1: the response is '': an empty response has no token"),
    ({"prompt": "p", "chosen": "c", "rejected": None}, "rejected is empty; it is needed"),
    ({"prompt": "p", "chosen": "c", "rejected": "c"}, "chosen and rejected are the same: there is nothing to prefer"),
    ({"chosen": "c d", "rejected": "c d"}, "chosen and rejected are the same"),
    ({"chosen": [user("a"), assistant("b")], "rejected": [user("a")]}, "one of chosen and rejected is the beginning of the other"),
    ({"prompt": [user("p")], "chosen": [user("c")], "rejected": [assistant("r")]}, "no assistant turn at its end"),
    ({"prompt": "p", "chosen": 3, "rejected": "r"}, "chosen is a int, '3'; text or a list of turns is needed"),
    ({"prompt": "p", "chosen": [{"text": "c"}], "rejected": "r"}, "chosen: a chat is a list of turns"),
    ({"prompt": "p", "completion": "c", "label": "maybe"}, "label is 'maybe'; allowed are 1 or true"),
    ({"prompt": "p", "chosen": "c"}, "no layout of texts fits the columns found: prompt, chosen. Needed are chosen, rejected; or prompt"),
    ({"prompt": "p", "completions": ["a"], "scores": [1.0]}, "1 samples; a ranking needs at least 2"),
    ({"prompt": "", "chosen": "c", "rejected": "r"}, "prompt is ''; it must be text that is not empty"),
])  # fmt: skip
def test_bad_rows_are_one_clear_line(row, words, tmp_path):
    with pytest.raises(ValueError, match=words) as found:
        one(tmp_path, row)
    assert "\n" not in str(found.value)


def test_bad_rows_can_be_skipped_and_are_counted(tmp_path):
    rows = [{"prompt": "p", "chosen": "", "rejected": "r"}, {"prompt": "p", "chosen": "c", "rejected": "r"}]
    records, counts = read_texts(write(tmp_path / "rows.jsonl", rows), on_bad="skip")
    assert len(records) == 1 and counts.read == 2 and counts.kept == 1
    with pytest.raises(ValueError, match="unknown key 'chosn'.*Did you mean 'chosen'"):
        read_texts(tmp_path / "rows.jsonl", columns={"chosn": "chosen"})
