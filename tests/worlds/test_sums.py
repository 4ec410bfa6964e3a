"""The sums world: problems, their worked answers, mistakes at their rates, the judge, and what ships."""

import json
import random

import pytest

from diffalign.worlds import sums
from diffalign.worlds.sums import judge, problems
from diffalign.worlds.sums.problems import Problem, parse, worked


def some(count, seed=0):
    rng = random.Random(seed)
    return [problems.random_problem(rng) for _ in range(count)]


def test_a_worked_answer_by_hand():
    assert Problem(3847, 5926).prompt == "3847+5926="
    assert worked(Problem(3847, 5926)) == "7+6+0=13;4+2+1=07;8+9+0=17;3+5+1=09;9773"
    assert worked(Problem(9999, 9999)) == "9+9+0=18;9+9+1=19;9+9+1=19;9+9+1=19;19998"


def test_worked_answers_are_right():
    for problem in some(300):
        assert worked(problem).rpartition(";")[2] == str(problem.a + problem.b) and len(worked(problem)) <= problems.LENGTH
        assert parse(problem.prompt) == problem


@pytest.mark.parametrize("prompt", ["12+34=", "3847+5926", "0123+4567=", "3847-5926=", "a"])
def test_other_prompts_are_refused(prompt):
    with pytest.raises(ValueError, match="not a prompt of the sums world"):
        parse(prompt)


def test_splits_share_no_problem_not_even_turned_round():
    found = {split: problems.prompts(split, 200) for split in ("train", "dev", "test")}
    pairs = {split: {frozenset((parse(p).a, parse(p).b)) for p in prompts} for split, prompts in found.items()}
    assert not pairs["train"] & pairs["test"] and not pairs["train"] & pairs["dev"] and not pairs["dev"] & pairs["test"]
    assert all(Problem(parse(p).b, parse(p).a).split == "test" for p in found["test"])
    assert problems.prompts("test", 50, seed=1) == problems.prompts("test", 50, seed=1) != problems.prompts("test", 50)


def test_each_mistake_by_hand():
    rng, problem = random.Random(0), Problem(1947, 1156)  # 7+6 carries, 4+5 = 9 hands it on, 9+1 carries
    assert worked(problem) == "7+6+0=13;4+5+1=10;9+1+1=11;1+1+1=03;3103"
    assert worked(problem, rng, {"carry": 1.0}) == "7+6+0=13;4+5+1=10;9+1+0=10;1+1+0=02;2003"
    assert worked(problem, rng, {"nine": 1.0}) == "7+6+0=13;4+5+0=09;9+1+0=10;1+1+1=03;3093"
    slipped = worked(problem, rng, {"slip": 1.0})
    assert slipped.startswith(("7+6+0=12;", "7+6+0=14;"))
    swapped = worked(problem, rng, {"swap": 1.0})
    assert swapped.rpartition(";")[0] == worked(problem).rpartition(";")[0] and swapped.rpartition(";")[2] in ("1303", "3013", "3130")


def test_mistakes_come_at_their_rates():
    rng, shown = random.Random(1), some(2000, 2)
    swapped = sum(worked(p, rng, {"swap": 0.3}).rpartition(";")[0] == worked(p).rpartition(";")[0] for p in shown)
    wrong = sum(worked(p, rng, {"slip": 0.1}) != worked(p) for p in shown) / 2000
    assert swapped == 2000 and wrong == pytest.approx(1 - 0.9**4, abs=0.035)
    assert all(worked(p, rng, {}) == worked(p) for p in shown[:20])


def test_the_judge_counts_the_sum_and_names_what_is_wrong():
    prompts = ["3847+5926="] * 5
    good = worked(parse(prompts[0]))
    answers = [good, good[:-1] + "4", good.replace("4+2+1=07", "4+2+0=06"), "9773", ""]
    found = judge.facets(answers, prompts)
    assert found["sum"].tolist() == [1, 0, 1, 1, 0] == judge.score(answers, prompts).tolist()
    assert found["steps"].tolist() == [1, 1, 0, 0, 0] and found["form"].tolist() == [1, 1, 1, 0, 0]
    with pytest.raises(ValueError, match="2 answers for 1 prompts"):
        judge.score(["1", "2"], prompts[:1])


def test_shipped_assets_are_small_and_pairs_are_of_the_training_split():
    files = [path for path in sums.ASSETS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 2_000_000
    pairs = [json.loads(line) for line in sums.PAIRS.read_text().splitlines()]
    prompts = [pair["prompt"] for pair in pairs]
    assert len(pairs) >= 500 and {parse(prompt).split for prompt in prompts} == {"train"}
    assert judge.score([pair["chosen"] for pair in pairs], prompts).mean() == 1
    assert judge.score([pair["rejected"] for pair in pairs], prompts).mean() == 0


def test_the_base_makes_real_mistakes_and_the_tokenizer_is_of_characters():
    from diffalign.llm import Writer, load_language_model
    from diffalign.llm.sampling import sample

    model = load_language_model("builtin:sums")
    assert model.tokenizer.tokenize("12+3=") == ["1", "2", "+", "3", "="]
    prompts = problems.prompts("dev", 60)
    answers = sample(model, Writer(model.tokenizer), prompts, max_new_tokens=problems.LENGTH + 1, quiet=True)
    found = judge.facets(answers, prompts)
    assert found["form"].mean() > 0.9 and 0.05 < found["sum"].mean() < 0.6
