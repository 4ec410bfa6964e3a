"""What stops a run or keeps it from starting, and what that leaves behind."""

import dataclasses
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file

from diffalign.train import ConfigError, TrainingError, train
from tests.train.runs import config, metrics, result, run, steps_of, write_pairs


def test_a_loss_that_is_not_finite_names_its_pair(folders, tmp_path):
    """Pair 5's weight times its loss at start, 1e38 * ln(1 + e^1000) = 1e41, exceeds float32; the other pairs are plain."""
    odd = 5
    pairs = write_pairs(
        tmp_path / "pairs", 8, weight=[1e38 if i == odd else 1.0 for i in range(8)], margin=[1000.0 if i == odd else 0.0 for i in range(8)]
    )
    at = next(step for step, row in enumerate(steps_of(pairs, 2)) if f"pair-{odd}" in [pair.id for pair in row])
    assert at > 0, "the pair has to come after a checkpoint"
    settings = config(folders("sd15"), pairs, tmp_path / "run", max_train_steps=8, checkpointing_steps=1)
    with pytest.raises(TrainingError, match=f"step {at + 1}: the loss is not finite; pairs: pair-{odd}\\. .*checkpoint-{at:08d} is good"):
        train(settings, quiet=True)
    kept = load_file(tmp_path / "run" / f"checkpoint-{at:08d}" / "trainable.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in kept.values())
    assert [row["step"] for row in metrics(tmp_path / "run")] == list(range(1, at + 1))
    assert not (tmp_path / "run" / "summary.json").exists()


def test_weights_that_are_not_finite_are_not_saved(folders, pairs, tmp_path):
    """A weight decay of 10 x 3e37 turns a weight of 1.2 into infinity in the first update; its loss and gradients were finite."""
    with pytest.raises(TrainingError, match=r"step 1: \d+ trained tensors are not finite.*no checkpoint yet"):
        run(folders("sd15"), pairs, tmp_path, learning_rate=3e37, adam_weight_decay=10.0, checkpointing_steps=1)
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_finished_run_is_left_alone(folders, pairs, tmp_path, capsys):
    settings = config(folders("sd15"), pairs, tmp_path)
    first = train(settings, quiet=True)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.is_file()}
    assert train(dataclasses.replace(settings, reference="start", beta=settings.point().objective_options["beta"]), quiet=True) == first
    again = train(settings)
    assert again == first
    assert "finished after 3 steps: nothing to do (--fresh starts over)" in capsys.readouterr().out
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.is_file()} == before
    with pytest.raises(ConfigError, match=r"another configuration:\n  learning_rate: 0.001 there, 0.002 now\n.*--fresh"):
        train(dataclasses.replace(settings, learning_rate=2e-3), quiet=True)
    train(dataclasses.replace(settings, learning_rate=2e-3, fresh=True), quiet=True)
    assert [row["learning_rate"] for row in metrics(tmp_path)] == [2e-3] * 3


def test_a_refused_run_leaves_the_folder_free(folders, pairs, tmp_path):
    """A mistake found while setting up must not make the folder belong to the mistaken configuration."""
    with pytest.raises(ConfigError, match="timesteps is '10,1000'"):
        run(folders("sd15"), pairs, tmp_path, timesteps="10,1000")
    assert run(folders("sd15"), pairs, tmp_path, timesteps="10,999")["steps"] == 3


def test_a_truncated_picture_is_left_out_by_policy_also_after_a_stop(folders, tmp_path):
    """Its header is whole, so reading the data does not find it; the run is that of the seven other pairs, killed or not."""
    pairs = write_pairs(tmp_path / "pairs", 8)
    broken = pairs / "rejected" / "003.png"
    broken.write_bytes(broken.read_bytes()[:80])
    with pytest.raises(ConfigError, match=r"003\.png: not a readable image \(image file is truncated\)"):
        run(folders("sd15"), pairs, tmp_path / "run")
    settings = config(folders("sd15"), pairs, tmp_path / "run", on_bad_data="skip", checkpointing_steps=1)
    whole = train(settings, quiet=True)
    (note,) = [line for line in whole["notes"] if line.startswith("left out: ")]
    assert note.startswith("left out: 1 records with an image that cannot be read; the first is pair-3: ") and "003.png" in note
    stopped = dataclasses.replace(settings, output_dir=str(tmp_path / "stopped"), cache_dir=str(tmp_path / "run" / "cache"))
    train(stopped, quiet=True)
    for name in ("summary.json", "README.md"):  # as if it had been killed after its second step
        (tmp_path / "stopped" / name).unlink()
    shutil.rmtree(tmp_path / "stopped" / "lora")
    shutil.rmtree(tmp_path / "stopped" / "checkpoint-00000003")
    again = train(stopped, quiet=True)
    assert all(torch.equal(tensor, result(again)[name]) for name, tensor in result(whole).items())


def test_fp16_needs_a_gpu(folders, pairs, tmp_path):
    with pytest.raises(ConfigError, match="mixed_precision is 'fp16', which needs a GPU.*use bf16 or no"):
        run(folders("sd15"), pairs, tmp_path, mixed_precision="fp16")


@pytest.mark.parametrize(("changes", "package", "extra"), [
    ({"optimizer": "adamw_8bit"}, "bitsandbytes", "quant"), ({"report_to": "tensorboard"}, "tensorboard", "track"),
])  # fmt: skip
def test_a_missing_extra_is_named(changes, package, extra, folders, pairs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # what Python itself does for a package that must not be found
    with pytest.raises(ImportError, match=rf"'{package}' is needed.*diffalign\[{extra}\]"):
        run(folders("sd15"), pairs, tmp_path, **changes)
    assert list(tmp_path.iterdir()) == []


def test_an_old_state_of_accelerate_is_not_touched(folders, pairs, tmp_path):
    """A script with an Accelerator of its own can call train and go on using it."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState

    own = Accelerator(cpu=True)
    try:
        run(folders("sd15"), pairs, tmp_path, max_train_steps=1)
        assert own.device.type == "cpu" and own.num_processes == 1
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
