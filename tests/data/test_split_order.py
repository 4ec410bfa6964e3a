"""hold_out, batches and the hash under both: functions of their arguments and of nothing else."""

import random

import pytest

from diffalign.data import Image, Pair, batches, content_key, hold_out
from diffalign.data.keys import hash_uniform
from tests.data.files import encoded

RED, BLUE = Image.of(encoded("red")), Image.of(encoded("blue"))
RECORDS = [Pair(f"{i}", f"prompt {i // 3}", RED, BLUE) for i in range(600)]  # 200 prompts, 3 records each


def test_content_key_keeps_parts_apart():
    keys = [("ab", "c"), ("a", "bc"), ("abc",), (1,), ("1",), (1.0,), (True,), (b"1",), (None,), (("a", "b"),), ("a", "b"), ()]
    assert len({content_key(*parts) for parts in keys}) == len(keys)
    assert content_key("prompt", 3, None) == "c63561136e306f2f1d024743056ae299"  # frozen: ids, caches and splits of users hang on it
    with pytest.raises(ValueError, match="is a list"):
        content_key(["a"])


def test_hash_uniform_is_uniform():
    values = [hash_uniform("test", i) for i in range(4000)]
    assert all(0 <= value < 1 for value in values)
    for tenth in range(10):  # 400 expected, standard deviation 19
        assert 310 < sum(tenth / 10 <= value < (tenth + 1) / 10 for value in values) < 490


def test_a_prompt_never_crosses():
    train, held_out = hold_out(RECORDS, 0.25, seed=3)
    assert sorted(record.id for record in train + held_out) == sorted(record.id for record in RECORDS)
    prompts, held = ({record.prompt for record in side} for side in (train, held_out))
    assert not prompts & held and 25 < len(held) < 75  # 50 expected, standard deviation 6
    assert held != {record.prompt for record in hold_out(RECORDS, 0.25, seed=4)[1]}


def test_hold_out_ignores_order_company_case_and_spacing():
    held = {record.id for record in hold_out(RECORDS, 0.25, seed=3)[1]}
    shuffled = random.Random(0).sample(RECORDS, len(RECORDS))
    assert {record.id for record in hold_out(shuffled, 0.25, seed=3)[1]} == held
    assert {record.id for record in hold_out(RECORDS[:100], 0.25, seed=3)[1]} == {id for id in held if int(id) < 100}
    shouted = [Pair(record.id, f"  {record.prompt.upper().replace(' ', '  ')}", RED, BLUE) for record in RECORDS]
    assert {record.id for record in hold_out(shouted, 0.25, seed=3)[1]} == held


def test_hold_out_bounds():
    assert hold_out(RECORDS, 0.0, seed=0) == (RECORDS, [])
    with pytest.raises(ValueError, match="share is 1.0"):
        hold_out(RECORDS, 1.0, seed=0)


BUCKETS = [(64, 64) if i % 3 else (32, 128) for i in range(100)]  # 66 and 34


def test_batches_cover_an_epoch_once_and_keep_to_a_bucket():
    full = batches(BUCKETS, 4, epoch=0, seed=1)
    assert all(len(batch) == 4 and len({BUCKETS[i] for i in batch}) == 1 for batch in full)
    assert len(full) == 66 // 4 + 34 // 4
    everything = batches(BUCKETS, 4, epoch=0, seed=1, drop_last=False)
    assert everything[: len(full)] == full
    assert sorted(i for batch in everything for i in batch) == list(range(100))
    assert sorted(len(batch) for batch in everything)[:2] == [2, 2]


def test_batches_depend_on_epoch_and_seed_only():
    random.seed(1)
    first = batches(BUCKETS, 4, epoch=0, seed=1)
    random.seed(2)
    assert batches(BUCKETS, 4, epoch=0, seed=1) == first
    assert batches(BUCKETS, 4, epoch=1, seed=1) != first != batches(BUCKETS, 4, epoch=0, seed=2)
    assert batches(BUCKETS[:12], 4, epoch=0, seed=1) == [[2, 10, 1, 5], [6, 9, 3, 0], [11, 7, 4, 8]]  # frozen: every process agrees


def test_batches_refuse_an_empty_epoch():
    with pytest.raises(ValueError, match="100 records in 2 buckets fill no batch of 70"):
        batches(BUCKETS, 70, epoch=0, seed=1)
    with pytest.raises(ValueError, match="batch_size is 0"):
        batches(BUCKETS, 0, epoch=0, seed=1)
