"""A reward learned from the shapes world's pairs: how it is compared with the judge, and the demo that aligns with it."""

import dataclasses
import json

import pytest
import torch

from diffalign import data
from diffalign.models import load_model
from diffalign.pipelines import learned_reward
from diffalign.pipelines.demo import DemoConfig, demo
from diffalign.rewards import load_reward
from diffalign.worlds import shapes
from diffalign.worlds.shapes import judge, scenes

FEW = dataclasses.replace(learned_reward.TRAINING, max_train_steps=2, train_batch_size=4)


def opposite(images, prompts):
    return -judge.score(images, prompts)


@pytest.fixture(scope="module")
def pictures():
    """(3, 5, 3, 32, 32): drawings of each prompt, of another scene, and of a third."""
    import random

    prompts = scenes.prompts("dev", 5)
    told = [scenes.parse(prompt) for prompt in prompts]
    drawn = [scenes.draw([*told[k:], *told[:k]], random.Random(k)) for k in (0, 1, 2)]
    return (torch.stack(drawn) * 255).round() / 255, prompts


def test_agreement_is_that_of_the_best_with_the_worst(pictures):
    for name, accuracy in (("diffalign.worlds.shapes.judge:score", 1.0), (f"{__name__}:opposite", 0.0)):
        found = learned_reward.agreement(load_reward(name), *pictures)
        assert found["accuracy"] == accuracy and found["accuracy_ci"] == (accuracy, accuracy) and found["pairs"] == 5
        assert sum(band["pairs"] for band in found["by_gap"]) == 5 and {band["accuracy"] for band in found["by_gap"]} == {accuracy}


def test_pictures_that_are_equal_to_the_judge_are_no_pair(pictures):
    images, prompts = pictures
    images = torch.stack([images[0], images[0], images[0]])
    images[1, :2] = 0.5
    assert learned_reward.agreement(load_reward("diffalign.worlds.shapes.judge:score"), images, prompts)["pairs"] == 2


def test_the_judge_agrees_with_the_pairs_it_labelled():
    pairs = data.read(shapes.PAIRS)[0][:40]
    turned = [dataclasses.replace(pair, chosen=pair.rejected, rejected=pair.chosen, scores=None) for pair in pairs[:10]]
    assert learned_reward.judged(pairs) == 1.0 and learned_reward.judged([*turned, *pairs[10:]]) == 0.75


def test_fresh_pairs_are_of_prompts_that_taught_nothing(monkeypatch):
    monkeypatch.setattr(learned_reward, "PAIR_PROMPTS", 6)
    monkeypatch.setattr(learned_reward, "SURE", 0.02)
    reward = load_reward("diffalign.worlds.shapes.judge:score")
    pairs = learned_reward.sample_pairs(load_model(learned_reward.MODEL).pipeline(), reward, seed=3, quiet=True)
    taught = {pair.prompt for pair in data.read(shapes.PAIRS)[0]}
    assert pairs and len(pairs) <= 6 and all(pair.prompt not in taught and scenes.parse(pair.prompt).split == "train" for pair in pairs)
    assert learned_reward.judged(pairs) == 1.0 and all(pair.scores[0] - pair.scores[1] >= 0.02 for pair in pairs)


def test_the_demo_aligns_with_a_learned_reward(monkeypatch, tmp_path):
    monkeypatch.setattr(learned_reward, "PAIR_PROMPTS", 24)
    monkeypatch.setattr(learned_reward, "SURE", 0.0)
    monkeypatch.setattr(learned_reward, "TRAINING", FEW)
    summary = demo(DemoConfig(output_dir=str(tmp_path), prompts=17, max_train_steps=2, reward="learned"), quiet=True)
    labels = json.loads((tmp_path / "summary.json").read_text())["labels"]
    assert labels["by"] == "learned" and labels["pairs"] == 24 and 0 <= labels["judge_agrees"] <= 1
    assert labels["training"]["steps"] == 2 and labels["training"]["pairs"]["trained"] + labels["training"]["pairs"]["held_out"] == 1259
    assert labels["aligned_by_it"]["n_prompts"] == 17 == summary["n_prompts"]
    reward = load_reward("pickscore", labels["training"]["result"])
    for pair in data.read(tmp_path / "pairs.parquet")[0][:5]:
        scores = reward.score([pair.chosen.data, pair.rejected.data], pair.prompt)
        assert scores.tolist() == pytest.approx(pair.scores, abs=1e-4) and scores[0] >= scores[1]
