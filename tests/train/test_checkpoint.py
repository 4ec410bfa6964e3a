"""The output folder: whose it is, what is whole, what is dropped."""

import dataclasses
import json

import pytest
import torch

from diffalign.train import ConfigError, TrainConfig, checkpoint

CONFIG = TrainConfig(model="m", data="d")


def begun(folder, **changes) -> TrainConfig:
    config = dataclasses.replace(CONFIG, output_dir=str(folder), **changes)
    checkpoint.claim(config, 0)
    return config


def save(folder, step, keep=2, value=0.0):
    return checkpoint.save(folder, step, {"w": torch.full((2,), value)}, {"n": {"step": torch.tensor(step)}}, {"said": ["x"]}, keep)


def test_a_new_folder_and_a_begun_one(tmp_path):
    config = dataclasses.replace(CONFIG, output_dir=str(tmp_path / "new"))
    assert checkpoint.find(config) is None and not (tmp_path / "new").exists()
    begun(tmp_path / "new")
    assert checkpoint.find(config) is None
    save(tmp_path / "new", 7)
    assert checkpoint.find(config) == tmp_path / "new" / "checkpoint-00000007"


def test_a_moved_folder_is_the_same_run(tmp_path):
    begun(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    save(tmp_path / "there", 1)
    assert checkpoint.find(dataclasses.replace(CONFIG, output_dir=str(tmp_path / "there"))) is not None


def test_another_configuration_is_refused_with_every_difference(tmp_path):
    begun(tmp_path, seed=1, validation_prompts=["a"])
    with pytest.raises(ConfigError) as refused:
        checkpoint.find(dataclasses.replace(CONFIG, output_dir=str(tmp_path), beta=3.0))
    assert str(refused.value).splitlines() == [
        f"{tmp_path} holds a run with another configuration:",
        "  beta: None there, 3.0 now",
        "  seed: 1 there, 0 now",
        "  validation_prompts: ['a'] there, [] now",
        "Use another --output-dir, or --fresh to start over",
    ]


def test_an_option_that_the_run_did_not_know_yet_stands_at_its_default(tmp_path):
    begun(tmp_path)
    lines = (tmp_path / "config.yaml").read_text().splitlines(keepends=True)
    older = [line for line in lines if not line.startswith(("posterior:", "inversion:"))]
    assert len(older) == len(lines) - 2
    (tmp_path / "config.yaml").write_text("".join(older))
    config = dataclasses.replace(CONFIG, output_dir=str(tmp_path))
    assert checkpoint.find(config) is None
    with pytest.raises(ConfigError, match="posterior: 'sample' there, 'mean' now"):
        checkpoint.find(dataclasses.replace(config, posterior="mean"))


@pytest.mark.parametrize("fresh", [False, True])
def test_files_of_others_are_never_touched(fresh, tmp_path):
    """A README.md in a folder that no run wrote is somebody's: neither training nor --fresh may replace it."""
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ConfigError, match=r"README.md exists and no run of this program wrote it: use another --output-dir"):
        checkpoint.find(dataclasses.replace(CONFIG, output_dir=str(tmp_path), fresh=fresh))
    (tmp_path / "config.yaml").write_text("title: a web site\n")
    with pytest.raises(ConfigError, match="config.yaml was not written by this program"):
        checkpoint.find(dataclasses.replace(CONFIG, output_dir=str(tmp_path), fresh=fresh))
    with pytest.raises(ConfigError, match="README.md exists"):
        checkpoint.find(dataclasses.replace(CONFIG, output_dir=str(tmp_path / "README.md"), fresh=fresh))


def test_fresh_removes_the_run_and_nothing_else(tmp_path):
    begun(tmp_path)
    save(tmp_path, 5)
    kept = ["cache", "notes"]
    for name in ("lora", "samples", "logs", *kept):
        (tmp_path / name).mkdir()
    for name in ("metrics.jsonl", "summary.json", "README.md"):
        (tmp_path / name).write_text("{}")
    again = dataclasses.replace(CONFIG, output_dir=str(tmp_path), fresh=True, seed=9)
    assert checkpoint.find(again) is None and checkpoint.finished(again) is None
    assert (tmp_path / "checkpoint-00000005").exists(), "finding must not remove anything: the new run may still be refused"
    checkpoint.claim(again, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "config.yaml"])
    assert "seed: 9" in (tmp_path / "config.yaml").read_text()


def test_lines_of_steps_that_are_done_again_are_dropped(tmp_path):
    """... with the half line that a kill can leave. Steps up to the checkpoint stay, both of their lines."""
    config = begun(tmp_path)
    lines = [json.dumps({"step": step, "loss": 0.5}) + "\n" for step in (1, 2, 2, 3, 4)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines) + '{"step": 5, "lo')
    checkpoint.claim(config, 2)
    assert (tmp_path / "metrics.jsonl").read_text() == "".join(lines[:3])
    checkpoint.claim(config, 0)
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_what_is_saved_is_loaded(tmp_path):
    path = save(tmp_path, 12, value=0.1)
    weights, state, facts = checkpoint.load(path)
    assert torch.equal(weights["w"], torch.full((2,), 0.1)) and state["n"]["step"].item() == 12
    assert facts == {"step": 12, "said": ["x"]}


def test_the_newest_whole_ones_are_kept(tmp_path):
    for step in (1, 2, 10):
        save(tmp_path, step)
    (tmp_path / "checkpoint-00000011.part").mkdir()  # a process was killed while it wrote this one
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint-00000002", "checkpoint-00000010", "checkpoint-00000011.part",
    ]  # fmt: skip
    assert checkpoint.latest(tmp_path).name == "checkpoint-00000010"
    save(tmp_path, 11, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000011"]


def test_a_finished_run_is_known_by_its_summary_and_result(tmp_path):
    config = begun(tmp_path / "a")
    (tmp_path / "a" / "summary.json").write_text(json.dumps({"steps": 3, "result": "elsewhere/a/lora"}))
    assert checkpoint.finished(config) is None, "the adapter is not there"
    (tmp_path / "a" / "lora").mkdir()
    assert checkpoint.finished(config) == {"steps": 3, "result": str(tmp_path / "a" / "lora")}
