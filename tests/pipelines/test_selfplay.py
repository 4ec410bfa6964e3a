"""Self-play from end to end: who draws, who is compared with whom, and what a second call does."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from safetensors.torch import load_file

from diffalign import data
from diffalign.cli import main
from diffalign.data.geometry import pixels
from diffalign.eval.pictures.generate import generate, seed_of
from diffalign.models import load_model
from diffalign.pipelines.selfplay import opponent_of, self_play
from diffalign.pipelines.selfplay_config import ON_SHAPES, SelfPlayConfig, default_for
from diffalign.train import ConfigError
from diffalign.worlds.shapes import judge
from tests.train.runs import config as train_config
from tests.train.runs import write_pairs

SHAPES = {"winners": 24, "max_train_steps": 2, "num_inference_steps": 2, "guidance_scale": 2.0, "judged_prompts": 20, "rounds": 2}


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Two rounds of SPIN-Diffusion on the embedded model."""
    config = dataclasses.replace(ON_SHAPES, output_dir=str(tmp_path_factory.mktemp("play") / "run"), **SHAPES)
    return config, self_play(config, quiet=True)


def rounds_of(config):
    return sorted(Path(config.output_dir).glob("round_*"))


def test_each_round_is_played_against_the_policy_before_it(played):
    config, summary = played
    one, two = summary["rounds"]
    assert (one["opponent"], one["opponent_adapter"], one["reference"]) == (0, None, "start")
    assert (two["opponent"], two["opponent_adapter"], two["reference"]) == (1, one["result"], "start")
    for row in (one, two):  # the reference is what the policy starts from
        assert row["training"]["step0"]["measured"] == pytest.approx(row["training"]["step0"]["expected"], rel=1e-5)
    first, second = (load_file(f"{row['result']}/pytorch_lora_weights.safetensors") for row in (one, two))
    assert first.keys() == second.keys() and any((first[name] - second[name]).abs().max() > 1e-6 for name in first)
    assert summary["result"] == two["result"]
    assert f"continues {one['result']}" in (rounds_of(config)[1] / "README.md").read_text()


def test_winners_are_drawings_and_losers_the_opponents_pictures_of_the_recorded_seeds(played):
    config, summary = played
    for number, place in enumerate(rounds_of(config), 1):
        pairs, _ = data.read(place / "pairs.parquet")
        assert len(pairs) == 24
        pipeline = load_model(config.model).pipeline()
        if summary["rounds"][number - 1]["opponent_adapter"]:
            pipeline.load_lora_weights(summary["rounds"][number - 1]["opponent_adapter"])
        prompts = [pair.prompt for pair in pairs]
        sampling = {"num_inference_steps": 2, "guidance_scale": 2.0}
        again = generate(pipeline, prompts, index=number, seed=config.seed, quiet=True, **sampling)
        for pair, picture in zip(pairs, again, strict=True):
            assert pair.origin == f"self-play round {number}, picture of seed {seed_of(pair.prompt, number, 0)}"
            stored = torch.from_numpy(_array(pair.rejected)).permute(2, 0, 1) / 255
            assert (stored - picture).abs().max() < 0.02
        drawn = torch.stack([torch.from_numpy(_array(pair.chosen)).permute(2, 0, 1) / 255 for pair in pairs])
        assert judge.score(drawn, prompts).mean() > 0.95 > judge.score(again, prompts).mean() + 0.05
    a, b = ({pair.prompt for pair in data.read(place / "pairs.parquet")[0]} for place in rounds_of(config))
    assert a != b, "fresh drawings each round"


def _array(image):
    return np.asarray(PILImage.open(io.BytesIO(image.read())).convert("RGB")).astype("float32")


def test_rounds_are_judged_against_the_initial_policy(played):
    config, summary = played
    assert [row["round"] for row in summary["judged"]] == [1, 2] and all(row["n_prompts"] == 20 for row in summary["judged"])
    stored = json.loads((rounds_of(config)[0].parent / "self_play.json").read_text())
    assert stored == json.loads(json.dumps(summary))


def test_what_is_finished_is_kept_and_more_rounds_go_on(played):
    config, summary = played
    before = {path: path.stat().st_mtime_ns for place in rounds_of(config) for path in place.rglob("*") if path.is_file()}
    more = self_play(dataclasses.replace(config, rounds=3, judged_prompts=0), quiet=True)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert more["rounds"][:2] == summary["rounds"] and more["rounds"][2]["opponent_adapter"] == summary["result"]
    with pytest.raises(ConfigError, match="holds self-play with another configuration:\n  seed: 0 there, 1 now\nUse another"):
        self_play(dataclasses.replace(config, seed=1), quiet=True)


@pytest.fixture
def tiny(folders, tmp_path):
    """(changes) -> a configuration on a tiny model and the chosen pictures of eight pairs."""
    source = write_pairs(tmp_path / "pairs", 8)

    def make(**changes) -> SelfPlayConfig:
        plain = vars(train_config(folders("sd15"), source, tmp_path / "run", max_train_steps=1, learning_rate=1e-2))
        return SelfPlayConfig(**plain | {"method": "seppo", "rounds": 3, "num_inference_steps": 2} | changes)

    return make


def test_seppo_draws_its_opponent_among_all_past_policies(tiny):
    """Uniformly and by the seed; here one run whose third round is against the policy after the first."""
    chosen = [opponent_of(tiny(seed=seed), 4) for seed in range(400)]
    assert all(70 < chosen.count(k) < 130 for k in range(4))  # 100, with a standard deviation of 9
    assert [opponent_of(tiny(method="spin-diffusion", seed=seed), 4) for seed in range(3)] == [3, 3, 3]
    seed = next(seed for seed in range(100) if [opponent_of(tiny(seed=seed), number) for number in (1, 2, 3)] == [0, 0, 1])
    config = tiny(seed=seed)
    summary = self_play(config, quiet=True)
    adapters = [None, *(row["result"] for row in summary["rounds"])]
    assert [row["opponent"] for row in summary["rounds"]] == [0, 0, 1]
    assert [row["reference"] for row in summary["rounds"]] == ["start", "base", "past"]
    assert [row["opponent_adapter"] for row in summary["rounds"]] == [None, None, adapters[1]]
    cards = [(place / "README.md").read_text() for place in rounds_of(config)]
    assert f"Reference: past: the adapter of {adapters[1]}" in cards[2] and f"the LoRA of {adapters[2]}, continued" in cards[2]
    assert "Objective seppo" in cards[0]


def test_winners_are_the_better_pictures_chosen_anew_each_round(tiny):
    config = tiny(winners=3, rounds=2)
    self_play(config, quiet=True)
    good = {pair.chosen.digest for pair in data.read(config.data)[0]}
    rounds = [data.read(place / "pairs.parquet")[0] for place in rounds_of(config)]
    assert all(len(pairs) == 3 and {pair.chosen.digest for pair in pairs} <= good for pairs in rounds)
    assert {pair.chosen.digest for pair in rounds[0]} != {pair.chosen.digest for pair in rounds[1]}
    view = data.Plan(16).views((16, 16))[0]
    assert all(pixels(pair.rejected.load(), view).shape == (3, 16, 16) for pairs in rounds for pair in pairs)


@pytest.mark.parametrize(("changes", "message"), [
    ({"method": "mapo"}, "method is 'mapo'; self-play is for spin-diffusion and seppo"),
    ({"train": "full"}, "train is 'full'; rounds go on from adapters"),
    ({"reference": "base"}, "the reference is the opponent of the round"),
    ({"rounds": 0}, "rounds is 0; it must be at least 1"),
    ({"data": "builtin:shapes"}, "data builtin:shapes is for the embedded models .*, and model is '.*sd15'"),
    ({"judged_prompts": 20}, "judged_prompts is for the embedded models"),
    ({"learning_rate": -1.0}, "learning_rate is -1.0; it must be positive"),
])  # fmt: skip
def test_refusals(tiny, changes, message):
    with pytest.raises(ConfigError, match=message):
        self_play(tiny(**changes), quiet=True)


def test_the_command(capsys):
    assert default_for([]) == default_for(["--model", "builtin:shapes"]) == default_for(["--model=builtin:shapes-flow"]) == ON_SHAPES
    assert default_for(["--model", "mine"]) == SelfPlayConfig() and default_for(["--model-config", "x"]) == ON_SHAPES
    assert main(["self-play", "--model", "mine", "--method", "dpo"]) == 2
    assert "method is 'dpo'" in capsys.readouterr().err
