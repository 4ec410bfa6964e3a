"""Pairs from samples, and the demo from end to end on few prompts and steps (what it reaches is measured by ``make demo``)."""

import json

import pytest
import torch

from diffalign import data
from diffalign.eval.eval_config import EvalConfig
from diffalign.eval.evaluate import evaluate
from diffalign.eval.pictures.generate import generate, seed_of
from diffalign.models import load_model
from diffalign.pipelines.demo import DemoConfig, demo
from diffalign.pipelines.pairs import build_pairs, write
from diffalign.worlds.shapes import judge, scenes

FAST = {"num_inference_steps": 3, "guidance_scale": 2.0}


@pytest.fixture(scope="module")
def pipeline():
    return load_model("builtin:shapes").pipeline()


def test_a_picture_is_the_same_alone_and_in_a_batch(pipeline):
    prompts = scenes.prompts("dev", 5)
    together = generate(pipeline, prompts, seed=1, quiet=True, **FAST)
    alone = generate(pipeline, prompts[3:4], seed=1, quiet=True, **FAST)
    assert together.shape == (5, 3, 32, 32) and together.min() >= 0 and together.max() <= 1
    assert (together[3] - alone[0]).abs().max() < 1e-4
    assert len({seed_of(p, i, s) for p in prompts for i in (0, 1) for s in (0, 1)}) == 20


def test_the_best_sample_is_chosen_and_the_worst_rejected(pipeline, tmp_path):
    prompts = scenes.prompts("train", 6)
    pairs = build_pairs(pipeline, prompts, judge.score, samples=3, min_gap=0.05, seed=2, quiet=True, **FAST)
    assert pairs and all(pair.scores[0] - pair.scores[1] >= 0.05 for pair in pairs)
    drawn = [generate(pipeline, prompts, index=k, seed=2, quiet=True, **FAST) for k in range(3)]
    every = torch.stack([judge.score((images * 255).round() / 255, prompts) for images in drawn])
    by_prompt = dict(zip(prompts, zip(every.amax(0).tolist(), every.amin(0).tolist(), strict=True), strict=True))
    for pair in pairs:
        assert pair.scores == pytest.approx(by_prompt[pair.prompt], abs=1e-4)
    read, counts = data.read(write(pairs, tmp_path / "pairs.parquet"))
    assert counts.kept == len(pairs) and [p.chosen.digest for p in read] == [p.chosen.digest for p in pairs]


def test_one_sample_a_prompt_gives_no_pair(pipeline):
    with pytest.raises(ValueError, match="at least 2"):
        build_pairs(pipeline, scenes.prompts("train", 1), judge.score, samples=1)


def test_the_demo_writes_what_it_promises(tmp_path):
    summary = demo(DemoConfig(output_dir=str(tmp_path), prompts=20, max_train_steps=2, seed=5), quiet=True)
    stored = json.loads((tmp_path / "summary.json").read_text())
    for name in ("win_rate", "win_rate_ci", "score_base", "score_aligned", "score_ceiling", "n_prompts", "seconds", "controls"):
        assert name in stored
    assert summary["n_prompts"] == 20 and 0 <= summary["win_rate_ci"][0] <= summary["win_rate"] <= summary["win_rate_ci"][1] <= 1
    assert set(stored["controls"]) == {"base on other noise", "shuffled labels"}
    assert stored["score_ceiling"] > 0.85
    assert (tmp_path / "aligned" / "lora" / "pytorch_lora_weights.safetensors").exists()
    assert (tmp_path / "report.html").stat().st_size > 10_000 and (tmp_path / "grid.png").exists()
    run = EvalConfig(["builtin:shapes", str(tmp_path / "aligned")], count=20, seed=5, output_dir=str(tmp_path / "eval"))
    (row,) = evaluate(run, quiet=True).comparisons  # from saved pictures, to the image
    assert (row.win_rate, list(row.interval)) == (stored["win_rate"], stored["win_rate_ci"])
    assert (row.mean, row.baseline_mean) == pytest.approx((stored["score_aligned"], stored["score_base"]), abs=1e-6)
    chosen = {pair.chosen.digest for pair in data.read(tmp_path / "shuffled.parquet")[0]}
    assert (
        0.3
        < len(chosen & {p.chosen.digest for p in data.read(stored["settings"]["training"]["data"] or _shipped())[0]}) / len(chosen)
        < 0.7
    )


def test_too_few_prompts_are_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(ValueError, match="prompts is 0; allowed are 17 to 800"):
        demo(DemoConfig(output_dir=str(tmp_path / "out"), prompts=0))
    assert not (tmp_path / "out").exists()


def _shipped():
    from diffalign.worlds import shapes

    return shapes.PAIRS
