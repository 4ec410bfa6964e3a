"""A reward learned from pairs: its losses, what it saves, raters who disagree, and runs that go on."""

import json
import math
import random
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

from diffalign import cli, data
from diffalign.objectives import Comparison, Evidence, Logistic
from diffalign.rewards import load_reward
from diffalign.rewards.preprocess import TRANSFORMERS
from diffalign.train import ConfigError, checkpoint, reward_losses
from diffalign.train.reward import train_reward
from diffalign.train.reward_config import RewardConfig
from diffalign.train.reward_groups import Groups
from diffalign.train.reward_losses import Davidson, against_batch
from diffalign.train.reward_network import SIZES, from_scratch, image_processor, load
from diffalign.train.reward_run import Run, accuracy, by_gap
from diffalign.worlds import shapes
from tests.rewards.small import write_clip

QUICK = dict(
    max_train_steps=6, train_batch_size=8, learning_rate=1e-2, lr_warmup_steps=0, adam_weight_decay=0.0, held_out=0.25, device="cpu",
)  # fmt: skip
TOKENIZER = str(shapes.MODEL / "tokenizer_2")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(write_clip(tmp_path_factory.mktemp("clip")))


def write_pairs(folder, count=40, raters=None):
    """Of two plain grey images the lighter one is chosen; rater "b" chooses the darker one."""
    rng, rows = random.Random(0), []
    (folder / "images").mkdir(parents=True)
    for i in range(count):
        dark, light = sorted(rng.sample(range(0, 256, 8), 2))
        for name, value in (("dark", dark), ("light", light)):
            Image.new("RGB", (8, 8), (value,) * 3).save(folder / "images" / f"{name}{i}.png")
        rater = None if raters is None else raters[i % len(raters)]
        sides = ("dark", "light") if rater and rater.startswith("b") else ("light", "dark")
        chosen, rejected = (f"images/{side}{i}.png" for side in sides)
        scores = [light / 255, dark / 255] if sides[0] == "light" else None
        row = {"prompt": f"prompt {i}", "chosen": chosen, "rejected": rejected, "scores": scores, "rater": rater}
        rows.append({name: value for name, value in row.items() if value is not None})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "pairs.jsonl")


# Losses -------------------------------------------------------------------------------------------------------------------------------


def test_davidson_is_the_softmax_of_strengths_with_ties():
    link = Davidson(math.log(0.7))
    z = torch.tensor([1.3], requires_grad=True)
    win, loss = math.exp(0.9), math.exp(-0.4)  # strengths whose logarithms differ by 1.3
    total = win + loss + 0.7 * math.sqrt(win * loss)
    for p, share in ((1.0, win / total), (0.5, 0.7 * math.sqrt(win * loss) / total), (0.0, loss / total)):
        value = link(z, torch.tensor([p]))
        assert value.item() == pytest.approx(-math.log(share), abs=1e-6)
        (slope,) = torch.autograd.grad(value, z)
        assert slope.item() == pytest.approx(link.slope(z, torch.tensor([p])).item(), abs=1e-6)
    assert link.tie(z).item() == pytest.approx(0.7 * math.sqrt(win * loss) / total, abs=1e-6)
    many, p = torch.linspace(-4, 4, 9), torch.full((9,), 0.8)
    assert torch.allclose(link(many, p), link(-many, 1 - p))
    halfway = 0.6 * link(many, torch.ones(9)) + 0.4 * link(many, torch.full((9,), 0.5))
    assert torch.allclose(link(many, p), halfway, atol=1e-6)


def test_davidson_without_ties_is_the_logistic_link_and_learns_their_share():
    z, one = torch.linspace(-5, 5, 11), torch.ones(11)
    assert torch.allclose(Davidson(-30.0)(z, one), Logistic()(z, one), atol=1e-6)
    link, labels = Davidson(), torch.tensor([1.0, 0.5, 0.5, 0.0])  # at z = 0: a half tied, so nu / (2 + nu) = 1/2
    optimizer = torch.optim.LBFGS(link.parameters(), max_iter=50)

    def closure():
        optimizer.zero_grad()
        value = link(torch.zeros(4), labels).mean()
        value.backward()
        return value

    optimizer.step(closure)
    assert link.log_nu.exp().item() == pytest.approx(2.0, abs=1e-3)


def test_the_pair_objective_is_the_softmax_of_two_scores():
    scores, p = torch.tensor([3.0, -1.0, 1.0, 0.5]), torch.tensor([1.0, 0.7])
    objective, extra = reward_losses.objective("bradley-terry")
    found = objective(Evidence(scores), Comparison.halves(2, probability=p)).loss
    both = torch.stack([scores[:2], scores[2:]], 1).log_softmax(1)
    assert torch.allclose(found, -(p * both[:, 0] + (1 - p) * both[:, 1])) and extra == {}
    objective, extra = reward_losses.objective("davidson")
    assert torch.allclose(objective(Evidence(scores), Comparison.halves(2, probability=p)).loss, objective.link(scores[:2] - scores[2:], p))
    assert extra["log_nu"] is objective.link.log_nu


def test_negatives_of_the_batch():
    """Two pairs: rows 0, 1 chosen, 2, 3 rejected; p of the second is 0.6."""
    scores = torch.tensor([[2.0, 0.0], [1.0, 3.0], [0.5, -1.0], [0.0, 1.0]])
    pairs, p, none = torch.tensor([[0, 2], [1, 3]]), torch.tensor([1.0, 0.6]), torch.zeros(4, 2, dtype=torch.bool)
    among_images, among_captions = scores.log_softmax(0), scores.log_softmax(1)
    first = among_images[0, 0] + among_captions[0, 0]
    second = 0.6 * (among_images[1, 1] + among_captions[1, 1]) + 0.4 * (among_images[3, 1] + among_captions[3, 1])
    assert torch.allclose(against_batch(scores, pairs, p, none), -torch.stack([first, second]) / 2)
    alone = against_batch(scores[[0, 2]][:, :1], torch.tensor([[0, 1]]), torch.ones(1), torch.ones(2, 1, dtype=torch.bool))
    assert alone.item() == pytest.approx(F.softplus(torch.tensor(-1.5)).item() / 2)  # one pair: half the logistic loss
    same = against_batch(scores, pairs, p, torch.ones(4, 2, dtype=torch.bool))  # one caption: both pairs are alone
    assert same[0].item() == pytest.approx(alone.item())


def test_accuracy_by_gap():
    assert accuracy([1.0, -1.0, 0.0, 2.0]) == {"accuracy": 0.625, "pairs": 4} and math.isnan(accuracy([])["accuracy"])
    bands = by_gap([1.0, -1.0, 1.0], [0.05, 0.1, 0.9])
    assert bands == [
        {"over": 0.0, "up_to": 0.1, "accuracy": 0.5, "pairs": 2}, {"over": 0.6, "up_to": None, "accuracy": 1.0, "pairs": 1},
    ]  # fmt: skip


# What is saved ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 8), (31, 20), (9, 200), (64, 64)])
def test_images_are_prepared_as_the_pickscore_reward_prepares_them(size):
    image = Image.frombytes("RGB", size, random.Random(0).randbytes(3 * size[0] * size[1]))
    ours = image_processor(224)(image, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(ours, TRANSFORMERS(image))


@pytest.mark.parametrize("part", ["full", "lora", "head"])
def test_learns_which_image_is_chosen_and_is_loaded_as_a_pickscore(clip, tmp_path, part):
    pairs = write_pairs(tmp_path)
    settings = QUICK | {"max_train_steps": 30, "learning_rate": {"full": 3e-3, "lora": 1e-2, "head": 1e-2}[part]}
    config = RewardConfig(data=pairs, model=clip, output_dir=str(tmp_path / "run"), train=part, **settings)
    summary = train_reward(config, quiet=True)
    assert summary["held_out"]["accuracy"] >= 0.9 and summary["held_out"]["pairs"] >= 5
    assert sum(band["pairs"] for band in summary["held_out"]["by_gap"]) == summary["held_out"]["pairs"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 30 and lines[-1]["loss"] < 0.5 < lines[0]["loss"] + 0.3
    reward, learned = load_reward("pickscore", summary["result"]), load(summary["result"]).eval()
    records, _ = data.read(pairs)
    images, prompts = [image for pair in records[:6] for image in pair.images], [pair.prompt for pair in records[:6] for _ in (0, 1)]
    with torch.no_grad():
        features = learned.features(learned.encode_images(learned.pixels(images)), learned.encode_captions(learned.tokens(prompts)))
        expected = learned.scale * (features[0] * features[1]).sum(-1)
    assert torch.allclose(reward.score([image.path for image in images], prompts), expected, atol=1e-4)
    before, after = load_file(f"{clip}/model.safetensors"), load_file(f"{summary['result']}/model.safetensors")
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys() and "visual_projection.weight" in changed and "logit_scale" in changed
    towers = {name for name in changed if "projection" not in name and name != "logit_scale"}
    adapted = all(name.endswith(".weight") and ("_proj." in name or ".fc" in name) for name in towers)
    assert (towers == set()) == (part == "head") and adapted == (part != "full")
    assert train_reward(config, quiet=True) == summary  # finished: nothing to do


def test_a_network_from_scratch_has_the_sizes_asked_for(tmp_path):
    sizes = {"image_size": 16, "patch_size": 8, "width": 32, "layers": 1, "heads": 2, "text_width": 24, "text_layers": 2, "projection": 12}
    reward = from_scratch(TOKENIZER, sizes, seed=3)
    vision, text = reward.network.config.vision_config, reward.network.config.text_config
    assert (vision.image_size, vision.hidden_size, text.hidden_size, text.num_hidden_layers, text.num_attention_heads) == (16, 32, 24, 2, 4)
    assert text.vocab_size == len(reward.tokenizer) and text.max_position_embeddings == 18 and text.eos_token_id == 591
    assert torch.equal(reward.network.logit_scale, torch.tensor(2.6592)) and SIZES["image_size"] == 32
    same, other = (from_scratch(TOKENIZER, sizes, seed).network.state_dict() for seed in (3, 4))
    assert all(torch.equal(value, same[name]) for name, value in reward.network.state_dict().items())
    assert not torch.equal(other["visual_projection.weight"], same["visual_projection.weight"])
    with pytest.raises(ValueError, match="network has no size depth; allowed are image_size"):
        from_scratch(TOKENIZER, {"depth": 3}, seed=0)


def test_the_scale_is_bound_and_captions_are_read_once(clip, tmp_path):
    config = RewardConfig(data=write_pairs(tmp_path), model=clip, output_dir=str(tmp_path / "run"), **QUICK)
    run = Run(config, lambda text: None, True)
    run.clips[0].network.logit_scale.data.fill_(7.0)
    run.one_step()
    assert run.clips[0].scale.item() == pytest.approx(100.0, rel=1e-5)
    images, captions, which = run.inputs[0].batch([3, 5, 4])
    assert (len(images), len(captions), which.tolist()) == (6, 3, [0, 1, 2, 0, 1, 2])


def test_a_pair_that_is_rated_often_weighs_as_much_as_one_that_is_not(clip, tmp_path):
    source = Path(write_pairs(tmp_path, 12))
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    for row in rows[:9]:
        row["prompt"] = "the same"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = dict(data=str(source), model=clip, output_dir=str(tmp_path / "r"), **QUICK | {"held_out": 0.0})
    run = Run(RewardConfig(**settings), lambda text: None, True)
    assert run.weight.mean().item() == pytest.approx(1.0) and run.weight[:9].sum().item() == pytest.approx(run.weight[9].item())
    run = Run(RewardConfig(balance_prompts=False, **settings), lambda text: None, True)
    assert torch.equal(run.weight, torch.ones(12))


# Raters who disagree ------------------------------------------------------------------------------------------------------------------


def test_groups_begin_alike_and_go_where_the_choices_are_likeliest():
    image = data.Image(data=b"x")
    pairs = [data.Pair(f"{rater}{i}", "p", image, image, origin=rater) for rater in "abcd" for i in range(2)]
    groups = Groups(pairs, 2, seed=0)
    assert sorted(groups.of.values()) == [0, 0, 1, 1]
    groups.of = {"a": 0, "b": 0, "c": 1, "d": 1}
    likelihood = torch.tensor([[-1.0, -1.0, -3.0, -1.0, -1.0, -2.0, -1.0, -1.0], [-2.0, -0.5, -1.0, -1.0, -3.0, -2.0, -1.0, -1.0]])
    assert groups.assign(pairs, likelihood) == 2
    assert groups.of == {"a": 0, "b": 1, "c": 0, "d": 1}  # d is likely under both and stays
    with pytest.raises(ValueError, match="groups is 5 and the data has 4 raters"):
        Groups(pairs, 5, seed=0)
    with pytest.raises(ValueError, match="does not say who rated it: map your column of raters"):
        Groups([*pairs, data.Pair("x", "p", image, image)], 2, seed=0)


def test_two_groups_learn_what_one_reward_cannot(clip, tmp_path):
    raters = ["a1", "b1", "a2", "b2", "a3", "b3", "a4", "b4"]
    pairs = write_pairs(tmp_path, 96, raters)
    settings = QUICK | {"max_train_steps": 60, "train_batch_size": 24, "train": "head", "learning_rate": 2e-2}
    config = dict(data=pairs, model=clip, columns={"origin": "rater"}, **settings)
    one = train_reward(RewardConfig(output_dir=str(tmp_path / "one"), **config), quiet=True)
    two = train_reward(RewardConfig(output_dir=str(tmp_path / "two"), groups=2, assign_steps=10, **config), quiet=True)
    assert abs(one["held_out"]["accuracy"] - 0.5) < 0.3 and two["held_out"]["accuracy"] > 0.9
    assert len({two["groups"][rater] for rater in raters if rater[0] == "a"}) == 1 and len(set(two["groups"].values())) == 2
    light = [Image.new("RGB", (8, 8), (value,) * 3) for value in (230, 30)]
    leans = [load_reward("pickscore", f"{two['result']}/group-{k}").score(light, "prompt 1").diff().sign().item() for k in (0, 1)]
    assert leans[two["groups"]["a1"]] == -1.0 and leans[two["groups"]["b1"]] == 1.0


# Runs ---------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"loss": "davidson", "ties": "half"}, {"in_batch_negatives": True, "train": "lora"}])
def test_a_run_that_stopped_goes_on_to_the_same_bits(clip, tmp_path, settings):
    pairs = write_pairs(tmp_path)
    config = dict(data=pairs, model=clip, **QUICK | {"checkpointing_steps": 3} | settings)
    whole = train_reward(RewardConfig(output_dir=str(tmp_path / "whole"), **config), quiet=True)
    stopped = RewardConfig(output_dir=str(tmp_path / "stopped"), **config)
    run = Run(stopped, lambda text: None, True)
    checkpoint.claim(stopped, 0)
    for _ in range(4):  # the checkpoint is of step 3
        run.one_step()
        run.after_step()
    resumed = train_reward(stopped, quiet=True)
    first, second = (load_file(f"{summary['result']}/model.safetensors") for summary in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first) and whole["held_out"] == resumed["held_out"]
    assert whole.get("nu") == resumed.get("nu") and ("nu" in whole) == (settings.get("loss") == "davidson")
    with pytest.raises(ConfigError, match="learning_rate: 0.01 there, 0.02 now"):
        train_reward(RewardConfig(output_dir=str(tmp_path / "stopped"), **config | {"learning_rate": 0.02}), quiet=True)


def test_mistakes_are_told_together(tmp_path):
    with pytest.raises(ConfigError) as raised:
        train_reward(RewardConfig(train="head", loss="davidson", label_smoothing=0.1, groups=0, held_out=1.0, lora_alpha=2.0))
    told = str(raised.value)
    for part in (
        "data is missing", "nothing to start from", "train is 'head', which keeps the towers", "lora_alpha is 2.0", "--ties half",
        "neither in_batch_negatives nor label_smoothing", "groups is 0; it must be at least 1", "held_out is 1.0",
    ):  # fmt: skip
        assert part in told
    with pytest.raises(ConfigError, match="model names a trained one: leave the one or the other out"):
        train_reward(RewardConfig(data="d", model="m", tokenizer="t"))


def test_the_command(clip, tmp_path, capsys):
    pairs = write_pairs(tmp_path)
    argv = ["train-reward", "--data", pairs, "--model", clip, "--output-dir", tmp_path / "run", "--device", "cpu", "--held-out", "0.25"]
    argv += ["--max-train-steps", "2", "--train-batch-size", "4"]
    assert cli.main(list(map(str, argv))) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-1].startswith(f"{tmp_path}/run/model  {tmp_path}/run/summary.json  (held-out accuracy ")
    assert cli.main(["train-reward", "--data", str(pairs)]) == 2
    assert capsys.readouterr().err.startswith("diffalign: error: nothing to start from")
