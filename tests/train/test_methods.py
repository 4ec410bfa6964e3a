"""Every named method trains, through ``train``, from the data it needs; and every LoRA matrix moves."""

import json

import pytest
import torch
from safetensors.torch import load_file

from diffalign import methods
from diffalign.train.errors import ConfigError
from tests.train.runs import metrics, prompt, result, run, write_pairs

COLUMNS = {
    "dcpo": {"prompt_rejected": ["a green circle"] * 8},
    "smpo": {"probability": [0.9, 0.8, 0.7, 0.6] * 2},
    "capo": {"margin": [0.5, 0.2, 0.1, 0.4] * 2},
}


def write_rankings(folder) -> str:
    """Four lists of three samples: two ranked, two scored, one of each with a tie."""
    write_pairs(folder, 8)
    orders = [{"ranks": [2, 1, 3]}, {"scores": [0.2, 0.9, 0.4]}, {"ranks": [1, 1, 2]}, {"scores": [0.3, 0.3, 0.1]}]
    rows = [{"prompt": prompt(2 * i), "samples": [f"chosen/{2 * i + k:03d}.png" for k in (0, 1)] + [f"rejected/{i:03d}.png"], **order}
            for i, order in enumerate(orders)]  # fmt: skip
    path = folder / "rankings.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("method", methods.names())
def test_a_method_trains(method, folders, tmp_path):
    """The first update moves B, which starts at 0; the second moves A too."""
    data = write_rankings(tmp_path / "data") if method == "rankdpo" else write_pairs(tmp_path / "data", 8, **COLUMNS.get(method, {}))
    settings = {"inversion": {"steps": "2"}} if methods.get(method).point.inverts else {}
    summary = run(folders("sd15"), data, tmp_path / "run", method=method, max_train_steps=2, **settings)
    trained = load_file(tmp_path / "run" / "checkpoint-00000002" / "trainable.safetensors")
    second = {name: tensor for name, tensor in trained.items() if "lora_B" in name}
    assert len(second) == len(trained) / 2 > 50
    assert [name for name, tensor in second.items() if not tensor.any()] == []
    assert all(torch.isfinite(tensor).all() for tensor in trained.values())
    assert summary["steps"] == len(metrics(tmp_path / "run")) == 2
    if summary["step0"]:
        assert summary["step0"]["measured"] == pytest.approx(summary["step0"]["expected"], rel=1e-5)


def test_an_inversion_that_is_kept_trains_the_same_weights(folders, pairs, tmp_path):
    settings = {"method": "inpo", "inversion": {"steps": "3", "eta": "0"}, "inverted_by": "reference", "posterior": "mean"}
    made = [
        result(run(folders("sd15"), pairs, tmp_path / name, max_train_steps=6, caption_dropout=0.3, cache_inversion=kept, **settings))
        for name, kept in (("made", False), ("kept", True))
    ]
    for name, tensor in made[0].items():
        torch.testing.assert_close(made[1][name], tensor, rtol=0, atol=1e-5)
    assert not (tmp_path / "made" / "inversion").exists() and (tmp_path / "kept" / "inversion" / "provenance.json").exists()
    with pytest.raises(ConfigError, match="set posterior mean"):
        run(folders("sd15"), pairs, tmp_path / "no", cache_inversion=True, **{**settings, "posterior": "sample"})


def test_one_sample_at_a_time(folders, pairs, tmp_path):
    """A batch of liked samples only, or of disliked ones: each number is logged where it exists."""
    run(folders("sd15"), pairs, tmp_path, method="diffusion-kto", train_batch_size=1, max_train_steps=4)
    lines = metrics(tmp_path)
    assert len(lines) == 4 and all("rewards/accuracies" in line for line in lines)
    assert all(("rewards/chosen" in line) != ("rewards/rejected" in line) for line in lines)


def test_lists_that_tie_teach_nothing(folders, tmp_path):
    """Nothing is compared, in training or held out: no loss, no gradient, no accuracy, and no crash."""
    write_pairs(tmp_path / "data", 8)
    rows = [{"prompt": f"a cat {i}", "samples": ["chosen/000.png", "rejected/001.png"], "ranks": [1, 1]} for i in range(8)]
    (tmp_path / "data" / "ties.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(folders("sd15"), tmp_path / "data" / "ties.jsonl", tmp_path / "run", method="rankdpo", max_train_steps=1, held_out=0.5)
    lines = metrics(tmp_path / "run")
    assert lines[0]["loss"] == lines[0]["grad_norm"] == 0 and "held_out/loss" in lines[1]
    assert not any("accuracies" in name for line in lines for name in line)
