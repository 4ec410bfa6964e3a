"""A run that is killed with SIGKILL at a random step and started again by the same command ends with the same bits."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffalign.train import ConfigError, checkpoint, train
from tests.train.runs import config, metrics, run, write_pairs

REPO = Path(__file__).resolve().parents[2]
STEPS, EVERY = 12, 3
COMMON = {"max_train_steps": STEPS, "checkpointing_steps": EVERY, "held_out": 0.3, "held_out_draws": 1, "validation_steps": 4}
AVERAGED = {"ema_decay": 0.9, "flip": True, "caption_dropout": 0.5, "lr_scheduler": "cosine", "lr_warmup_steps": 3, "logging_steps": 1}
ACCUMULATED = {"reference": "ema", "gradient_accumulation_steps": 2, "train_batch_size": 1, "logging_steps": 2, "num_validation_images": 1}


@pytest.mark.parametrize(("kind", "earliest", "changes"), [("sdxl", EVERY + 1, AVERAGED), ("sd21", 1, ACCUMULATED)])
def test_a_killed_run_ends_with_the_same_bits(kind, earliest, changes, folders, pairs, tmp_path):
    settings = {**COMMON, **changes}
    whole = run(folders(kind), pairs, tmp_path / "whole", **settings)
    killed = config(folders(kind), pairs, tmp_path / "killed", **settings)
    command = tmp_path / "run.yaml"
    command.write_text(killed.to_yaml())

    step = random.randint(earliest, STEPS - 1)
    kill_after(step, command, tmp_path / "killed")
    left = checkpoint.latest(tmp_path / "killed")
    again = subprocess.run(diffalign_train(command), cwd=REPO, capture_output=True, text=True)

    assert again.returncode == 0, again.stderr
    assert step < EVERY + 1 or left is not None
    if left is not None:
        at = int(left.name.removeprefix("checkpoint-"))
        assert f"resuming {tmp_path / 'killed'} at step {at} of {STEPS} from {left.name}" in again.stdout
    for name in ("lora/pytorch_lora_weights.safetensors", f"checkpoint-{STEPS:08d}/trainable.safetensors"):
        one, other = (load_file(tmp_path / folder / name) for folder in ("whole", "killed"))
        assert set(one) == set(other)
        assert all(torch.equal(tensor, other[key]) for key, tensor in one.items()), f"{name}, killed after step {step}"
    for file in [tmp_path / "whole" / "metrics.jsonl", *(tmp_path / "whole" / "samples").rglob("*.png")]:
        assert file.read_bytes() == (tmp_path / "killed" / file.relative_to(tmp_path / "whole")).read_bytes(), f"killed after step {step}"
    summary = json.loads((tmp_path / "killed" / "summary.json").read_text())
    assert {**summary, "seconds": 0, "result": 0} == {**whole, "seconds": 0, "result": 0}
    logged = [row["step"] for row in metrics(tmp_path / "killed") if "loss" in row]
    assert logged == list(range(settings["logging_steps"], STEPS + 1, settings["logging_steps"]))


def diffalign_train(command: Path) -> list[str]:
    return [sys.executable, "-m", "diffalign", "train", str(command)]


def kill_after(step: int, command: Path, folder: Path) -> None:
    """Start the run and kill it as soon as the log of ``step`` (or of the next one that is logged) is there."""
    with subprocess.Popen(diffalign_train(command), cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while last_step(folder) < step:
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"


def last_step(folder: Path) -> int:
    file = folder / "metrics.jsonl"
    lines = [line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")] if file.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def test_other_data_under_the_same_name_is_refused(folders, tmp_path):
    pairs = write_pairs(tmp_path / "pairs", 4)
    run(folders("sd15"), pairs, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()  # as if killed before the end
    write_pairs(pairs, 6)
    with pytest.raises(ConfigError, match="holds other pairs than when .* was begun"):
        run(folders("sd15"), pairs, tmp_path / "run")


def test_killed_between_the_last_checkpoint_and_the_end(folders, pairs, tmp_path):
    settings = config(folders("sd15"), pairs, tmp_path)
    first = train(settings, quiet=True)
    adapter = tmp_path / "lora" / "pytorch_lora_weights.safetensors"
    tensors = load_file(adapter)
    for name in ("summary.json", "README.md"):
        (tmp_path / name).unlink()
    adapter.unlink()
    again = train(settings, quiet=True)
    assert (tmp_path / "README.md").exists() and all(torch.equal(tensor, tensors[name]) for name, tensor in load_file(adapter).items())
    assert {**again, "seconds": 0} == {**first, "seconds": 0}
    assert [row["step"] for row in metrics(tmp_path)] == [1, 2, 3]
